package podman

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
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

// TestKnockSilence: what tells of a machine is that it does not answer, not that
// nobody had time to look.
func TestKnockSilence(t *testing.T) {
	// A full backlog: the kernel drops what comes further.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(t, err)
	defer syscall.Close(fd)
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	must(t, err)
	host := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	fill, err := net.Dial("tcp", host)
	must(t, err)
	defer fill.Close()

	if err := knock(t.Context(), host); !errors.Is(err, errSilent) || ours(err) {
		t.Errorf("a machine that drops what comes: %v; its own fault: %v", err, ours(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := knock(ctx, host); !errors.Is(err, context.Canceled) {
		t.Errorf("a knock that is called off ended with %v", err)
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
			last, again, err := n.look(t.Context(), make(chan struct{}, 1), l.Addr().String(), time.Time{})
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

// Where very many machines are doubtful, each waits for its turn to be knocked at;
// those that are lost have turns of their own.
func TestKnockInTurns(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer l.Close()
	k := newKnockers(1)
	k.doubtful <- struct{}{} // another machine
	ctx, cancel := context.WithCancel(t.Context())
	n := &Node{}
	done := make(chan error)
	go func() {
		_, _, err := n.look(ctx, k.turn(n), l.Addr().String(), time.Time{})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("what waited for its turn ended with %v", err)
	}
	must(t, l.SetDeadline(time.Now()))
	if _, err := l.Accept(); err == nil {
		t.Error("a machine was knocked at out of turn")
	}
	n.lost.Store(true)
	if _, _, err := n.look(t.Context(), k.turn(n), l.Addr().String(), time.Time{}); err != nil {
		t.Errorf("a lost machine was not knocked at: %v", err)
	}
	if len(k.lost) > 0 {
		t.Error("a turn was not given back")
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
