package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// bubble is an app's admission on an Edge without listeners, for synctest.
type bubble struct {
	edge *Edge
	a    *admission
	wake func(ctx context.Context, app string) (router.Wake, error)
}

func (b *bubble) Wake(ctx context.Context, app string) (router.Wake, error) { return b.wake(ctx, app) }

func newBubble(t *testing.T, p router.Policy, endpoints ...*upstream) *bubble {
	t.Helper()
	b := &bubble{wake: func(ctx context.Context, _ string) (router.Wake, error) {
		<-ctx.Done()
		return router.Wake{}, ctx.Err()
	}}
	e := &Edge{stopped: make(chan struct{}), opts: Options{Waker: b}, meter: &meter{}}
	e.life, e.end = context.WithCancel(t.Context())
	t.Cleanup(func() {
		e.end()
		e.tasks.stop()
	})
	b.edge, b.a = e, &admission{app: "a", edge: e}
	b.ready(p, endpoints...)
	return b
}

// ready is news of the app.
func (b *bubble) ready(p router.Policy, endpoints ...*upstream) {
	b.a.update(&target{app: "a", admission: b.a, policy: p, limit: 1, endpoints: endpoints, rung: router.RungAbsent})
}

// come is one request; serve is called with its place.
func (b *bubble) come(serve func(*exchange)) (*exchange, error) {
	x := &exchange{edge: b.edge, target: b.a.target.Load()}
	return x, b.a.do(x, serve)
}

func place() *upstream { return newUpstream("a-1", "tcp", "127.0.0.1:1", func(*upstream) {}) }

// With thousands waiting, everybody waits exactly as long as the policy says.
func TestDeadlinesWithThousands(t *testing.T) {
	const requests = 5000
	for name, tc := range map[string]struct {
		asleep bool
		want   time.Duration
	}{
		"for a wake":  {true, 7 * time.Second},
		"for a place": {false, 11 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := router.DefaultPolicy()
				p.WakeDeadline, p.QueueDeadline = router.Duration(7*time.Second), router.Duration(11*time.Second)
				var ups []*upstream
				if !tc.asleep {
					full := place()
					full.acquire(1)
					ups = append(ups, full)
				}
				b := newBubble(t, p, ups...)
				var wg sync.WaitGroup
				for i := range requests {
					wg.Go(func() {
						time.Sleep(time.Duration(i) * time.Millisecond) // they come one after the other
						began := time.Now()
						_, err := b.come(func(*exchange) { t.Error("served") })
						if took := time.Since(began); took != tc.want || err == nil {
							t.Errorf("waited for %s, want %s: %v", took, tc.want, err)
						}
					})
				}
				wg.Wait()
				if n := b.a.queue.size; n != 0 || b.a.waiting.Load() != 0 {
					t.Errorf("%d still wait", n)
				}
			})
		})
	}
}

// A deadline is the request's, not the wait's: who waits a second time, for the
// instance that it waited for has died, has what is left.
func TestDeadlineCountsAllWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := router.DefaultPolicy()
		p.WakeDeadline = router.Duration(10 * time.Second)
		b := newBubble(t, p)
		began := time.Now()
		x := &exchange{edge: b.edge, target: b.a.target.Load()}
		go func() {
			time.Sleep(6 * time.Second)
			b.ready(p, place())
			b.ready(p)
		}()
		if _, err := b.a.wait(x); err != nil {
			t.Fatalf("the first wait: %v", err)
		}
		if _, err := b.a.wait(x); err == nil || time.Since(began) != 10*time.Second || x.waited != 10*time.Second {
			t.Errorf("both waits took %s, and are noted as %s: %v", time.Since(began), x.waited, err)
		}
	})
}

// A policy that gets shorter counts for those who wait already.
func TestDeadlineThatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := router.DefaultPolicy()
		full := place()
		full.acquire(1)
		b := newBubble(t, p, full)
		began := time.Now()
		go func() {
			time.Sleep(2 * time.Second)
			p.QueueDeadline = router.Duration(time.Second)
			b.ready(p, full)
		}()
		if _, err := b.come(func(*exchange) {}); err == nil || time.Since(began) > 4*time.Second {
			t.Errorf("waited for %s: %v", time.Since(began), err)
		}
	})
}

// A client that hangs up leaves the queue at once, though the body it had
// announced and the next request are there unread, and its place goes to the
// next: the app never hears of it.
func TestHangUpGivesUpThePlace(t *testing.T) {
	for name, more := range map[string]string{
		"a plain request":         "GET /gone HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
		"with a body":             "POST /gone HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 5\r\n\r\nhello",
		"with the next behind it": "GET /gone HTTP/1.1\r\nHost: a.localhost\r\n\r\nGET /gone HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			free, entered := busyApp(r, nil)
			var wg sync.WaitGroup
			wg.Go(func() { r.get(r.client(), "http://a.localhost/first") })
			eventually(t, "one is in", func() bool { return len(entered) == 1 })
			var conns []net.Conn
			for i := range 100 {
				c, _ := r.dial()
				conns = append(conns, c)
				_, _ = io.WriteString(c, more)
				eventually(t, "it waits", func() bool { return r.waiting("a") == i+1 })
			}
			wg.Go(func() { r.get(r.client(), "http://a.localhost/last") })
			eventually(t, "the last waits", func() bool { return r.waiting("a") == 101 })
			for _, c := range conns {
				_ = c.Close()
			}
			eventually(t, "only the last is left", func() bool { return r.waiting("a") == 1 })
			close(free)
			wg.Wait()
			close(entered)
			for path := range entered {
				if path == "/gone" {
					t.Error("the app got a request of a client that had gone")
				}
			}
		})
	}
}

// Where the place comes at the moment of the hang-up, it is handed on.
func TestPlaceOfTheGoneIsHandedOn(t *testing.T) {
	r := newRig(t, nil)
	st := record("a", instance("a-1", router.Ready, "127.0.0.1:1"))
	st.App.Policy.MaxConcurrency = 1
	r.apply(st)
	a := r.admission("a")
	only := a.target.Load().endpoints[0]
	if !only.acquire(1) {
		t.Fatal("full from the start")
	}
	ln := listen(t)
	ours, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	x := &exchange{edge: r.edge, target: a.target.Load(), conn: &conn{Conn: theirs}}
	result := make(chan error, 1)
	go func() { result <- a.do(x, func(*exchange) { t.Error("the gone was served") }) }()
	eventually(t, "it waits", func() bool { return r.waiting("a") == 1 })
	next := make(chan error, 1)
	go func() {
		next <- a.do(&exchange{edge: r.edge, target: a.target.Load()}, func(*exchange) {})
	}()
	eventually(t, "both wait", func() bool { return r.waiting("a") == 2 })
	// The grant is on its way when the client goes.
	a.mu.Lock()
	_ = ours.Close()
	only.state.Add(-1)
	a.dispatch()
	a.mu.Unlock()
	if err := <-result; !errors.Is(err, errClientGone) {
		t.Errorf("the gone got %v", err)
	}
	if err := <-next; err != nil {
		t.Errorf("the next got %v", err)
	}
}

// Many watches begin, end and are told at once.
func TestHangupsRace(t *testing.T) {
	r := newRig(t, nil)
	ln := listen(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 50 {
				ours, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				gone := make(chan struct{}, 1)
				w := r.edge.hangups.watch(rawConn(ours), gone)
				if !w.active() {
					t.Error("not watched")
				}
				theirs, err := ln.Accept() // whosever it is
				if err != nil {
					t.Error(err)
					return
				}
				_ = theirs.Close()
				if i%2 == 0 {
					_, _ = bufio.NewReader(ours).Peek(1) // until it is closed from there
				}
				r.edge.hangups.unwatch(w, gone)
				if len(gone) != 0 {
					t.Error("news is left of a watch that has ended")
				}
				_ = ours.Close()
			}
		})
	}
	wg.Wait()
	r.edge.hangups.mu.Lock()
	defer r.edge.hangups.mu.Unlock()
	if n := len(r.edge.hangups.told); n != 0 {
		t.Errorf("%d watches are left", n)
	}
}
