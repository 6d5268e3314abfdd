package podman

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func pidOf(t *testing.T, e *engine) int {
	t.Helper()
	pid, err := peerPid(t.Context(), e.dir+"/podman.sock")
	if err != nil {
		return 0
	}
	return pid
}

// Containers outlive the service, and a service outlives the gateway.
func TestServiceLife(t *testing.T) {
	e, err := startEngine("life")
	must(t, err)
	t.Cleanup(e.close)
	ctx := t.Context()
	if !e.service.Started() || e.service.URL() != "unix://"+e.dir+"/podman.sock" {
		t.Errorf("service at %s, started by us: %v", e.service.URL(), e.service.Started())
	}
	n, err := Connect(ctx, Options{Name: "n1", URL: e.service.URL(), Owner: "life", DataDir: t.TempDir()})
	must(t, err)
	_, err = n.Check(ctx)
	must(t, err)
	in, addr := running(t, n, release(appImage(t, n)))

	t.Run("it is started again when it dies", func(t *testing.T) {
		first := pidOf(t, e)
		must(t, syscall.Kill(first, syscall.SIGKILL))
		eventually(t, "another one answers", func() bool { return pidOf(t, e) != first && pidOf(t, e) != 0 && n.Ping(ctx) == nil })
		if get(addr, "/") != "hello" {
			t.Error("the container did not outlive the service")
		}
	})
	t.Run("it is adopted after the gateway was killed", func(t *testing.T) {
		first := pidOf(t, e)
		second, err := StartService(ctx, e.dir, slog.New(slog.DiscardHandler), e.args...)
		must(t, err)
		if pidOf(t, e) != first || !second.Started() {
			t.Errorf("process %d became %d", first, pidOf(t, e))
		}
		must(t, second.Close(ctx))
		if syscall.Kill(first, 0) == nil && hasArgument(first, second.URL()) {
			t.Error("closing left the adopted service running")
		}
		// What was the gateway's before, in this test, would start it again.
		must(t, e.service.Close(ctx))
	})
	t.Run("one that hangs is replaced", func(t *testing.T) {
		args := append(slices.Clone(e.args), "system", "service", "--time", "0", e.service.URL())
		hung, err := startProcess("podman", args, e.dir+"/podman.log")
		must(t, err)
		eventually(t, "it listens", func() bool { return pidOf(t, e) == hung.pid })
		must(t, syscall.Kill(hung.pid, syscall.SIGSTOP))
		e.service, err = StartService(ctx, e.dir, slog.New(slog.DiscardHandler), e.args...)
		must(t, err)
		select {
		case <-hung.done():
		default:
			t.Error("the one that hangs still runs")
		}
		must(t, n.Ping(ctx))
	})
	c, err := n.Inspect(ctx, in)
	must(t, err)
	if c.State != router.ContainerRunning || get(addr, "/") != "hello" {
		t.Errorf("after all that the container is %+v", c)
	}
}

func TestServiceErrors(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	t.Run("path too long", func(t *testing.T) {
		_, err := StartService(t.Context(), "/tmp/"+strings.Repeat("x", 120), quiet, "--root=/nowhere")
		wantCode(t, err, router.CodeInvalid)
	})
	t.Run("no podman", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := StartService(t.Context(), t.TempDir(), quiet, "--root=/nowhere")
		wantCode(t, err, router.CodeUnavailable)
		if !strings.Contains(err.Error(), "apt-get install podman") {
			t.Errorf("error is %q", err)
		}
	})
	t.Run("it ends at once", func(t *testing.T) {
		dir, err := os.MkdirTemp("/tmp", "fg") // a socket's path must be short
		must(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		_, err = StartService(t.Context(), dir, quiet, "--no-such-flag")
		wantCode(t, err, router.CodeUnavailable)
		if !strings.Contains(err.Error(), "no-such-flag") {
			t.Errorf("error is %q, without what podman says", err)
		}
	})
	t.Run("the folder cannot be written", func(t *testing.T) {
		_, err := StartService(t.Context(), "/proc/fluxgate", quiet, "--root=/nowhere")
		wantCode(t, err, router.CodeInternal)
	})
}

func TestServiceOfTheMachine(t *testing.T) {
	s := &Service{socket: "/run/podman/podman.sock", log: slog.New(slog.DiscardHandler)}
	if s.Started() {
		t.Error("it is said to be ours")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	must(t, s.Close(ctx)) // must not stop what is not ours
}
