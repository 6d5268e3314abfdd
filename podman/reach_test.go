package podman

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestWireHears(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer near.Close()
	far, err := ln.Accept()
	must(t, err)

	var w wire
	if _, ok := w.heard(); ok {
		t.Fatal("it hears without a connection")
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if w.hold(a); w.raw.Load() != nil {
		t.Fatal("it holds what no kernel keeps alive")
	}
	w.hold(near)
	if _, ok := w.heard(); !ok {
		t.Fatal("it does not hear an open connection")
	}
	must(t, far.Close())
	eventually(t, "the end is noticed", func() bool { _, ok := w.heard(); return !ok })
	w.drop()
	if _, ok := w.heard(); ok {
		t.Fatal("it hears what was dropped")
	}
}

func TestKnock(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	if err := knock(t.Context(), ln.Addr().String()); err != nil {
		t.Errorf("a machine that is there: %v", err)
	}
	must(t, ln.Close())
	if err := knock(t.Context(), ln.Addr().String()); err == nil {
		t.Error("nobody is there, and it answers")
	}
}

// TestKnockWithoutFiles: that this process has no file left for a connection
// does not mean that a machine is lost. It takes them away from a process of its
// own.
func TestKnockWithoutFiles(t *testing.T) {
	if os.Getenv("FLUXGATE_TEST_NO_FILES") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKnockWithoutFiles$")
		cmd.Env = append(os.Environ(), "FLUXGATE_TEST_NO_FILES=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	must(t, knock(t.Context(), ln.Addr().String()))
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	limit.Cur = 3
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	if err := knock(t.Context(), ln.Addr().String()); !ours(err) {
		t.Errorf("without files: %v; want an error that is this process's own", err)
	}
	for _, err := range []error{nil, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, os.ErrDeadlineExceeded, context.DeadlineExceeded} {
		if ours(err) {
			t.Errorf("%v counts as this process's own", err)
		}
	}
}

// TestKnockLate: a process that waits for a processor cannot tell whether a
// machine answers.
func TestKnockLate(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		took time.Duration
		ours bool
	}{
		"an answer":               {nil, 10 * time.Millisecond, false},
		"an answer seen late":     {nil, 3 * time.Second, false},
		"silence":                 {context.DeadlineExceeded, knockCall + 20*time.Millisecond, false},
		"a refusal":               {syscall.ECONNREFUSED, time.Millisecond, false},
		"silence, told late":      {context.DeadlineExceeded, knockCall + knockLate + time.Millisecond, true},
		"stopped for three hours": {os.ErrDeadlineExceeded, 3 * time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := inTime(c.err, c.took)
			if (err == nil) != (c.err == nil) || !errors.Is(err, c.err) {
				t.Errorf("%v became %v", c.err, err)
			}
			if ours(err) != c.ours {
				t.Errorf("it is this process's own: %v; want %v", !c.ours, c.ours)
			}
		})
	}
}

// A machine that answers is knocked at again soon; one of very many later, which
// is not taken for its silence.
func TestLookAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	for name, c := range map[string]struct {
		among int64
		again time.Duration
	}{
		"one of few":          {3, knockEvery},
		"one of ten thousand": {10 * manyNodes, 10 * knockEvery},
	} {
		t.Run(name, func(t *testing.T) {
			n := &Node{}
			n.among.Store(c.among)
			last, again, err := n.look(t.Context(), l.Addr().String(), time.Time{})
			must(t, err)
			if again != c.again {
				t.Errorf("again after %s; want %s", again, c.again)
			}
			if next := time.Now().Add(again); next.Sub(last) >= reachLost {
				t.Errorf("at the next look the machine has been silent for %s", next.Sub(last))
			}
		})
	}
}

// What waits for a machine that is lost ends with the loss, and what comes while
// it is lost ends at once; when it is back, calls get through again.
func TestLossEndsCalls(t *testing.T) {
	asked, hang := make(chan bool, 10), make(chan bool)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Libpod-API-Version", "4.3.1")
		if !strings.HasSuffix(r.URL.Path, "/_ping") {
			asked <- true
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
	}))
	defer server.Close()
	n, err := Connect(t.Context(), Options{Name: "far", URL: strings.Replace(server.URL, "http", "tcp", 1)})
	must(t, err)
	defer n.Close()
	inspect := func() error {
		_, err := n.Inspect(context.Background(), router.Instance{ID: "one"})
		return err
	}
	done := make(chan error, 1)
	go func() { done <- inspect() }()
	<-asked
	if !n.setLost(true) || n.setLost(true) {
		t.Fatal("the loss is no news, or is news twice")
	}
	wantCode(t, <-done, router.CodeUnavailable)
	wantCode(t, inspect(), router.CodeUnavailable)
	if len(asked) > 0 {
		t.Error("a lost machine was asked")
	}
	n.setLost(false)
	close(hang)
	if err := inspect(); router.CodeOf(err) == router.CodeUnavailable && strings.Contains(err.Error(), "lost") {
		t.Errorf("after its return: %v", err)
	}
	if len(asked) == 0 {
		t.Error("after its return it is not asked")
	}
}
