package cli_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/autoscale"
	engine "github.com/fluxgate/fluxgate/podman"
	"github.com/fluxgate/fluxgate/router"
	"github.com/fluxgate/fluxgate/router/state"
)

const mib = router.Bytes(1 << 20)

// smallNode is the tests' Podman as a node that has little memory for apps.
type smallNode struct {
	*engine.Pool
	memory router.Bytes
}

func (s smallNode) Nodes() []*router.Node {
	list := s.Pool.Nodes()
	for i, n := range list {
		small := *n
		small.Facts.Memory = s.memory
		list[i] = &small
	}
	return list
}

func (s smallNode) Node(name string) (*router.Node, bool) {
	for _, n := range s.Nodes() {
		if n.Name == name {
			return n, true
		}
	}
	return nil, false
}

// ownStore is the real store as a gateway uses it: what was written is in the
// Catalog at once.
type ownStore struct {
	*state.Store
	catalog *router.Catalog
}

func (s ownStore) Update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error) {
	st, err := s.Store.Update(ctx, app, fn)
	if err == nil && st.Version > 0 {
		s.catalog.Apply(st)
	}
	return st, err
}

func (s ownStore) Lead(ctx context.Context) (bool, error) {
	_, ok, err := s.Acquire(ctx, "autoscaler", "g1", 3*time.Second)
	return ok, err
}

// crowd is a Controller on real containers of a small node.
type crowd struct {
	t       *testing.T
	store   ownStore
	catalog *router.Catalog
	control *autoscale.Controller
	image   string
}

func newCrowd(t *testing.T, memory router.Bytes) *crowd {
	t.Helper()
	server, err := state.StartServer(t.Context(), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close(context.Background()) })
	store, err := state.Open(t.Context(), state.Options{URL: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	n, err := engine.Connect(t.Context(), engine.Options{Name: "n1", URL: podmanURL, Owner: "crowd", DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if _, err := n.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := &crowd{t: t, catalog: router.NewCatalog()}
	c.store = ownStore{store, c.catalog}
	code, err := os.ReadFile(appBinary)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	for name, text := range map[string]string{"Containerfile": "FROM scratch\nCOPY --chmod=755 app /app\nENTRYPOINT [\"/app\"]\n", "app": string(code)} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	if c.image, err = n.Build(t.Context(), "crowd", router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"}, &b, nil); err != nil {
		t.Fatal(err)
	}
	logged := &lines{}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		t.Log(logged.String())
		for _, app := range []string{"old", "young", "new", "busy"} {
			events, _ := store.History(context.Background(), app, time.Time{}, 100)
			for _, e := range events {
				t.Log(app, e.At.Format("15:04:05.000"), e.Text)
			}
		}
	})
	node := smallNode{engine.NewPool(n), memory}
	c.control = autoscale.New(autoscale.Options{
		Gateway: "g1", Catalog: c.catalog, Store: c.store, Runtime: node, Signals: store, Memories: store,
		Cluster: c.store, Journal: store, Machines: node,
		Log: slog.New(slog.NewTextHandler(logged, nil)),
	})
	t.Cleanup(func() {
		c.control.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		list, _ := n.Containers(ctx)
		for _, k := range list {
			if err := n.Remove(ctx, router.Instance{ID: k.Instance, App: k.App}); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

// run has it tick until the test ends.
func (c *crowd) run() {
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.control.Run(ctx)
	}()
	c.t.Cleanup(func() { cancel(); <-done })
}

func (c *crowd) deploy(app string, scale map[string]string) {
	c.t.Helper()
	run := router.DefaultRun()
	run.Memory, run.Reserve = 160*mib, 64*mib
	_, err := c.control.Deploy(c.t.Context(), router.Deploy{App: app, By: "tester", Scale: scale, Release: router.Release{Image: c.image, Run: run}}, func(router.DeployStep) {})
	if err != nil {
		c.t.Fatal(err)
	}
}

// only is an app's one instance.
func (c *crowd) only(app string) router.Instance {
	c.t.Helper()
	st, ok := c.catalog.Get(app)
	if !ok || len(st.Instances) != 1 {
		c.t.Fatalf("%s has not one instance: %+v", app, st)
	}
	return st.Instances[0]
}

func (c *crowd) await(app string, want router.InstanceState) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	if _, err := c.catalog.Await(ctx, app, func(st *router.AppState) bool {
		return len(st.Instances) == 1 && st.Instances[0].State == want
	}); err != nil {
		c.t.Fatalf("%s never came to be %s; it is %+v", app, want, c.only(app))
	}
}

// ask asks an app's instance itself.
func (c *crowd) ask(app, path string) string {
	c.t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := fetch(client, "http://"+c.only(app).Addr+path)
	if err != nil || a.status != http.StatusOK {
		c.t.Fatalf("%s%s: %v %v", app, path, a, err)
	}
	return a.body
}

// age has an app's frozen instance be idle for longer than it is.
func (c *crowd) age(app string, by time.Duration) {
	c.t.Helper()
	_, err := c.store.Update(c.t.Context(), app, func(st *router.AppState) error {
		st.Instances[0].IdleSince = st.Instances[0].IdleSince.Add(-by)
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// On a node whose memory is held by frozen instances, a start first has the one
// go that is regretted least; when what runs grows, the next one goes. The app
// with a request in flight is left alone all the while.
func TestMemoryRunsShort(t *testing.T) {
	c := newCrowd(t, 256*mib)
	c.run()
	sleepy := map[string]string{"freeze_after": "1s", "stop_after": "23h"}
	c.deploy("new", map[string]string{"freeze_after": "1s", "stop_after": "1s"})
	c.await("new", router.Stopped)
	c.deploy("busy", map[string]string{"freeze_after": "1h"})
	c.ask("busy", "/keep?mb=56")

	// A request that lasts until its body ends, of which the gateway says so every
	// second.
	var ended, asked atomic.Bool
	flight := make(chan string, 1)
	body, upload := io.Pipe()
	addr := c.only("busy").Addr
	go func() {
		resp, err := http.Post("http://"+addr+"/echo", "text/plain", body)
		text := ""
		if err == nil {
			b, _ := io.ReadAll(resp.Body)
			text = string(b)
			_ = resp.Body.Close()
		}
		ended.Store(true)
		flight <- fmt.Sprint(text, err)
	}()
	defer func() { _ = upload.Close() }()
	go func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for !ended.Load() {
			select {
			case <-t.Context().Done():
				return
			case now := <-ticker.C:
				samples := map[string]router.Sample{"busy": {InFlight: 1}}
				if asked.Load() {
					samples["new"] = router.Sample{Requests: 1}
				}
				_ = c.store.FlushRates(t.Context(), "g1", now.Add(-time.Second).Truncate(time.Second), samples)
			}
		}
	}()

	for _, app := range []string{"old", "young"} {
		c.deploy(app, sleepy)
		c.ask(app, "/keep?mb=56")
		c.await(app, router.Frozen)
	}
	c.age("old", time.Hour)

	_, err := c.store.Update(t.Context(), "new", func(st *router.AppState) error {
		st.App.Policy.FreezeAfter, st.App.Policy.StopAfter = router.Duration(time.Hour), router.Never
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	asked.Store(true)
	wake, err := c.control.Wake(t.Context(), "new")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("woken in %v: %v", wake.Took, wake.Phases)
	c.await("old", router.Stopped)
	if got := c.only("young").State; got != router.Frozen {
		t.Errorf("the one that was asked for last is %s", got)
	}

	// What runs grows.
	c.ask("new", "/keep?mb=125")
	c.await("young", router.Stopped)
	if got := c.only("busy").State; got != router.Ready || ended.Load() {
		t.Errorf("the app with a request in flight is %s; the request has ended: %v", got, ended.Load())
	}
	_, _ = upload.Write([]byte("still here"))
	_ = upload.Close()
	if got := <-flight; got != "still here<nil>" && got != "still here <nil>" {
		t.Errorf("the request in flight got %s", got)
	}
	for app, want := range map[string]string{"old": "starts there", "young": "its node runs short"} {
		events, err := c.store.History(t.Context(), app, time.Time{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		var told string
		for _, e := range events {
			told += e.Text + "\n"
		}
		if !strings.Contains(told, want) || !strings.Contains(told, "instance-seconds") {
			t.Errorf("history of %s says nothing of why it went:\n%s", app, told)
		}
	}
}
