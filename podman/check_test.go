package podman

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestCheck(t *testing.T) {
	n := connect(t)
	f, err := n.Check(t.Context())
	must(t, err)
	if f.Podman == "" || f.Runtime == "" || f.CPUs < 1 || f.Memory < 1<<20 || f.Checked.IsZero() {
		t.Errorf("facts are incomplete: %+v", f)
	}
	if !f.Direct || !f.Freeze || !f.LimitCPU || !f.LimitMem || !f.LimitPids || f.Reclaim == router.ReclaimNone {
		t.Errorf("what works on the machines of these tests is said not to: %+v", f)
	}
	if f.NoFile < 1024 || f.NoFile > wantedFiles || f.NProc < 1024 {
		t.Errorf("limits are out of bounds: %d files, %d processes", f.NoFile, f.NProc)
	}
	if len(f.Diagnosis) != 0 {
		t.Errorf("diagnosis: %q", f.Diagnosis)
	}
	if got := n.Node(); got.Name != "n1" || got.Facts.Podman != f.Podman {
		t.Errorf("the node is %+v", got)
	}
	if left := probes(t, n); left != 0 {
		t.Errorf("%d probe containers were left", left)
	}
}

func probes(t *testing.T, n *Node) int {
	t.Helper()
	list, err := n.list(t.Context(), map[string][]string{"label": {labelProbe + "=" + n.owner}})
	must(t, err)
	return len(list)
}

func TestCheckLeavesNothingWhenCutOff(t *testing.T) {
	n := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			list, err := n.list(t.Context(), map[string][]string{"label": {labelProbe + "=" + n.owner}})
			if err != nil || len(list) > 0 {
				cancel()
			}
		}
	}()
	if _, err := n.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	if left := probes(t, n); left != 0 {
		t.Errorf("%d probe containers were left", left)
	}
}

func TestCreateNeedsACheck(t *testing.T) {
	n := &Node{name: "n1"}
	_, err := n.Create(t.Context(), instance(), release("image"))
	wantCode(t, err, router.CodeUnavailable)
}

// fakeEngine is a server that answers as the handler does, on a unix socket.
func fakeEngine(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "fg") // a socket's path must be short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	must(t, err)
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return "unix://" + socket
}

func pong(w http.ResponseWriter) { w.Header().Set("Libpod-API-Version", "4.3.1") }

func TestCheckOfAnOldPodman(t *testing.T) {
	url := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		pong(w)
		if strings.HasSuffix(r.URL.Path, "/info") {
			_, _ = w.Write([]byte(`{"host":{"cpus":2},"store":{},"version":{"Version":"4.1.0"}}`))
		}
	})
	n, err := Connect(t.Context(), Options{URL: url})
	must(t, err)
	_, err = n.Check(t.Context())
	wantCode(t, err, router.CodeUnavailable)
	if !strings.Contains(err.Error(), "4.1.0") || !strings.Contains(err.Error(), "4.3.0 or later") {
		t.Errorf("error is %q", err)
	}
}

func TestConnectFailures(t *testing.T) {
	_, err := Connect(t.Context(), Options{URL: "unix:///nowhere/podman.sock"})
	wantCode(t, err, router.CodeUnavailable)
	if !strings.Contains(err.Error(), "/nowhere/podman.sock") || !strings.Contains(err.Error(), "podman system service") {
		t.Errorf("error is %q", err)
	}
}

// A service that accepts connections and never answers must hold nobody up
// beyond the caller's own patience.
func TestHangingEngine(t *testing.T) {
	hang := make(chan struct{})
	hanging := false
	url := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		pong(w)
		if hanging {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
	})
	t.Cleanup(func() { close(hang) })
	n, err := Connect(t.Context(), Options{URL: url, DataDir: t.TempDir()})
	must(t, err)
	n.facts.Store(&router.NodeFacts{Runtime: "runc", Direct: true})
	n.network.ok = true
	hanging = true
	in := instance()
	calls := map[string]func(ctx context.Context) error{
		"connect":    func(ctx context.Context) error { _, err := Connect(ctx, Options{URL: url}); return err },
		"ping":       n.Ping,
		"check":      func(ctx context.Context) error { _, err := n.Check(ctx); return err },
		"create":     func(ctx context.Context) error { _, err := n.Create(ctx, in, release("x")); return err },
		"start":      func(ctx context.Context) error { _, err := n.Start(ctx, in); return err },
		"freeze":     func(ctx context.Context) error { return n.Freeze(ctx, in) },
		"thaw":       func(ctx context.Context) error { return n.Thaw(ctx, in) },
		"stop":       func(ctx context.Context) error { return n.Stop(ctx, in, time.Second) },
		"remove":     func(ctx context.Context) error { return n.Remove(ctx, in) },
		"inspect":    func(ctx context.Context) error { _, err := n.Inspect(ctx, in); return err },
		"containers": func(ctx context.Context) error { _, err := n.Containers(ctx); return err },
		"tail":       func(ctx context.Context) error { _, err := n.Tail(ctx, in, 1); return err },
		"exists":     func(ctx context.Context) error { _, err := n.ImageExists(ctx, "x"); return err },
		"prune":      func(ctx context.Context) error { return n.PruneImages(ctx, nil) },
		"build": func(ctx context.Context) error {
			_, err := n.Build(ctx, "a", router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"}, files(t, "Containerfile", "FROM scratch"), nil)
			return err
		},
		"static": func(ctx context.Context) error {
			_, err := n.Build(ctx, "a", router.Source{Kind: router.SourceStatic, Path: "."}, files(t, "index.html", "hi"), nil)
			return err
		},
		"pull": func(ctx context.Context) error {
			_, err := n.Build(ctx, "a", router.Source{Kind: router.SourceImage, Path: "x"}, nil, nil)
			return err
		},
		"logs": func(ctx context.Context) error {
			return NewPool(n).Logs(ctx, "hello", []router.Instance{{ID: in.ID, Node: "local"}}, LogOptions{}, nil)
		},
		"events": func(ctx context.Context) error {
			n.Events(ctx, func(router.ContainerEvent) {})
			return ctx.Err()
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- call(ctx) }()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("it succeeded")
				}
			case <-time.After(30 * time.Second):
				t.Error("it hangs")
			}
		})
	}
}

// Without any deadline of the caller's, the call's own must end it.
func TestOwnDeadline(t *testing.T) {
	hang := make(chan struct{})
	hanging := false
	url := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		pong(w)
		if hanging {
			<-hang
		}
	})
	defer close(hang)
	n, err := Connect(t.Context(), Options{Name: "n1", URL: url})
	must(t, err)
	hanging = true
	err = n.Ping(context.Background())
	wantCode(t, err, router.CodeUnavailable)
	if !strings.Contains(err.Error(), "node n1 did not answer within 2s") {
		t.Errorf("error is %q", err)
	}
}

func TestHardLimits(t *testing.T) {
	const text = `Limit                     Soft Limit           Hard Limit           Units
Max processes             32768                unlimited            processes
Max open files            1024                 20000                files     `
	if got, want := hardLimits(text), (ulimit{20000, 1 << 40}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := hardLimits("nonsense"); got != (ulimit{}) {
		t.Errorf("got %+v", got)
	}
}
