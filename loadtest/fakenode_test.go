package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containers/podman/v4/pkg/bindings"
	"github.com/containers/podman/v4/pkg/bindings/containers"
	"github.com/containers/podman/v4/pkg/bindings/system"
	"github.com/containers/podman/v4/pkg/domain/entities"
	"github.com/containers/podman/v4/pkg/specgen"
)

// fakePodman is a fake node, and a connection to it of Podman's own bindings:
// what they do not understand is no Podman.
func fakePodman(t *testing.T) context.Context {
	t.Helper()
	server := httptest.NewServer(newFakeNode("127.0.0.1"))
	t.Cleanup(server.Close)
	ctx, err := bindings.NewConnection(t.Context(), strings.Replace(server.URL, "http", "tcp", 1))
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// fakeOne makes a container and returns its name.
func fakeOne(ctx context.Context, t *testing.T) string {
	t.Helper()
	s := specgen.NewSpecGenerator("hello", false)
	s.Name, s.Labels = "one", map[string]string{"fluxgate.app": "hello", "fluxgate.owner": "me"}
	if err := json.Unmarshal([]byte(`{"portmappings":[{"host_ip":"127.0.0.1","container_port":8080,"protocol":"tcp"}]}`), s); err != nil {
		t.Fatal(err)
	}
	if _, err := containers.CreateWithSpec(ctx, s, nil); err != nil {
		t.Fatal(err)
	}
	return s.Name
}

func TestFakeNodeLife(t *testing.T) {
	ctx := fakePodman(t)
	name := fakeOne(ctx, t)
	state := func(want string) (port string) {
		t.Helper()
		c, err := containers.Inspect(ctx, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.State.Status != want {
			t.Fatalf("it is %s, not %s", c.State.Status, want)
		}
		if at := c.NetworkSettings.Ports["8080/tcp"]; len(at) > 0 {
			return at[0].HostPort
		}
		return ""
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	state("created")
	must(containers.Start(ctx, name, nil))
	port := state("running")
	resp, err := http.Get("http://127.0.0.1:" + port)
	must(err)
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(text) != "hello\n" {
		t.Fatalf("it answers %q, %v", text, err)
	}
	must(containers.Pause(ctx, name, nil))
	state("paused")
	if err := containers.Start(ctx, name, nil); err == nil || !strings.Contains(err.Error(), "container state improper") {
		t.Fatalf("starting a frozen one: %v", err)
	}
	must(containers.Unpause(ctx, name, nil))
	must(containers.Stop(ctx, name, nil))
	state("exited")
	if _, err := http.Get("http://127.0.0.1:" + port); err == nil {
		t.Fatal("it answers after its end")
	}
	list, err := containers.List(ctx, new(containers.ListOptions).WithAll(true).WithFilters(map[string][]string{"label": {"fluxgate.owner=me"}}))
	if err != nil || len(list) != 1 || list[0].State != "exited" {
		t.Fatalf("listed: %+v, %v", list, err)
	}
	if list, err = containers.List(ctx, new(containers.ListOptions).WithAll(true).WithFilters(map[string][]string{"label": {"fluxgate.owner=you"}})); err != nil || len(list) != 0 {
		t.Fatalf("listed of another owner: %+v, %v", list, err)
	}
	if _, err = containers.Remove(ctx, name, nil); err != nil {
		t.Fatal(err)
	}
	if there, err := containers.Exists(ctx, name, nil); err != nil || there {
		t.Fatalf("it is there after its removal: %v", err)
	}
}

func TestFakeNodeTellsOfDeaths(t *testing.T) {
	ctx := fakePodman(t)
	name := fakeOne(ctx, t)
	events, stop, done := make(chan entities.Event), make(chan bool), make(chan error, 1)
	go func() { done <- system.Events(ctx, events, stop, new(system.EventsOptions).WithStream(true)) }()
	// The stream is open when an end is told: containers end until one is.
	for {
		if err := containers.Start(ctx, name, nil); err != nil {
			t.Fatal(err)
		}
		if err := containers.Stop(ctx, name, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-events:
			if e.Action != "died" || e.Actor.Attributes["fluxgate.app"] != "hello" || e.Actor.Attributes["containerExitCode"] != "0" {
				t.Fatalf("told: %+v", e)
			}
			return
		case err := <-done:
			t.Fatal(err)
		default:
		}
	}
}
