package podman

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// events follows a node's events until the end of the test.
func events(t *testing.T, n *Node) <-chan router.ContainerEvent {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := make(chan router.ContainerEvent, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		NewPool(n).Events(ctx, func(e router.ContainerEvent) { out <- e })
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Error("following events did not end with its context")
		}
	})
	if e := next(t, out); e.Kind != router.NodeConnected || e.Node != n.name {
		t.Fatalf("the first event is %+v", e)
	}
	return out
}

func next(t *testing.T, events <-chan router.ContainerEvent) router.ContainerEvent {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event came")
		return router.ContainerEvent{}
	}
}

func TestEventsOfDeaths(t *testing.T) {
	n := connect(t)
	rel := release(appImage(t, n))
	got := events(t, n)
	other := connect(t, func(o *Options) { o.Owner += "-other" })
	stranger, strangerAddr := running(t, other, rel)
	_ = get(strangerAddr, "/exit/9")
	eventually(t, "the stranger's container ends", func() bool {
		c, err := other.Inspect(t.Context(), stranger)
		return err == nil && c.State == router.ContainerExited
	})

	in, addr := running(t, n, rel)
	began := time.Now()
	_ = get(addr, "/exit/7")
	e := next(t, got)
	if e.Kind != router.ContainerDied || e.Instance != in.ID || e.App != "hello" || e.Node != "n1" || e.ExitCode != 7 || e.OOM || e.Container == "" {
		t.Errorf("the death by itself came as %+v", e)
	}
	if e.At.Before(began.Add(-time.Minute)) || e.At.After(time.Now().Add(time.Minute)) {
		t.Errorf("it has the time %s", e.At)
	}

	in, addr = running(t, n, rel)
	_ = get(addr, "/eat")
	e = next(t, got)
	// Under version 1 of cgroups conmon often misses it.
	_, v1 := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	if e.Instance != in.ID || e.ExitCode != 137 || (v1 == nil && !e.OOM) {
		t.Errorf("the death by want of memory came as %+v", e)
	}
	c, err := n.Inspect(t.Context(), in)
	must(t, err)
	if c.OOM != e.OOM || c.ExitCode != 137 || c.State != router.ContainerExited {
		t.Errorf("its container is %+v", c)
	}
	list, err := n.Containers(t.Context())
	must(t, err)
	for _, l := range list {
		if l.Instance == in.ID && l != c {
			t.Errorf("it is listed as %+v", l)
		}
	}
}

func TestEventsConnectAgain(t *testing.T) {
	var streams atomic.Int32
	cut := make(chan struct{})
	url := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		pong(w)
		if r.URL.Path != "/v4.0.0/libpod/events" {
			return
		}
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		streams.Add(1)
		select {
		case <-cut:
		case <-r.Context().Done():
		}
	})
	n, err := Connect(t.Context(), Options{Name: "n1", URL: url})
	must(t, err)
	got := events(t, n)
	cut <- struct{}{}
	if e := next(t, got); e.Kind != router.NodeUnanswered {
		t.Errorf("after the cut came %+v", e)
	}
	if e := next(t, got); e.Kind != router.NodeConnected {
		t.Errorf("after that came %+v", e)
	}
	if streams.Load() != 2 {
		t.Errorf("%d streams were opened", streams.Load())
	}
}

// Streams of very many nodes are opened some at a time, an engine that does not
// answer keeps its turn only until it is given up, and an open stream needs none.
func TestEventsOpenInTurns(t *testing.T) {
	const nodes, atOnce = 6, 2
	asked, answer := make(chan bool, nodes), make(chan bool)
	url := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		pong(w)
		if r.URL.Path != "/v4.0.0/libpod/events" {
			return
		}
		asked <- true
		select {
		case <-answer:
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	turns := make(chan struct{}, atOnce)
	got := make(chan router.ContainerEvent, nodes)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range nodes {
		n, err := Connect(t.Context(), Options{Name: "n" + strconv.Itoa(i), URL: url})
		must(t, err)
		defer n.Close()
		wg.Go(func() { n.follow(ctx, turns, func(e router.ContainerEvent) { got <- e }) })
	}
	for range atOnce {
		<-asked
	}
	for opened := range nodes {
		if more := len(asked); more > 0 {
			t.Fatalf("%d more streams than %d are being opened", more, atOnce)
		}
		answer <- true
		if opened+atOnce < nodes {
			<-asked
		}
	}
	for range nodes {
		if e := next(t, got); e.Kind != router.NodeConnected {
			t.Errorf("%+v came", e)
		}
	}
	if len(turns) > 0 {
		t.Errorf("%d turns are taken by open streams", len(turns))
	}
}
