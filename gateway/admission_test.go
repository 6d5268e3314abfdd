package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// server starts an HTTP server and returns its address.
func server(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

// Contract 1: a thousand simultaneous requests to a sleeping app are all
// answered by the app, and cause one start.
func TestThousandRequestsOneWake(t *testing.T) {
	const requests = 1000
	var r *rig
	var wakes atomic.Int32
	addr := server(t, hello)
	all := make(chan struct{})
	r = newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(ctx context.Context, app string) (router.Wake, error) {
			wakes.Add(1)
			select {
			case <-all: // everybody waits
			case <-ctx.Done():
				return router.Wake{}, ctx.Err()
			}
			r.apply(record(app, instance("a-1", router.Ready, addr)))
			return router.Wake{App: app}, nil
		}
	})
	r.apply(record("a"))
	c := r.client()
	var wg sync.WaitGroup
	failures := make(chan string, requests)
	for range requests {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a.localhost/", http.NoBody)
			res, err := c.Do(req)
			if err != nil {
				failures <- err.Error()
				return
			}
			defer res.Body.Close()
			if body, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != "hello" {
				failures <- fmt.Sprint(res.StatusCode, string(body))
			}
		})
	}
	eventually(t, "all requests wait", func() bool { return r.waiting("a") == requests })
	close(all)
	wg.Wait()
	close(failures)
	for f := range failures {
		t.Error(f)
	}
	if n := wakes.Load(); n != 1 {
		t.Errorf("%d wakes, want 1", n)
	}
}

// waiting is how many requests of an app are in its queue.
func (r *rig) waiting(app string) int {
	if a := r.admission(app); a != nil {
		return int(a.waiting.Load())
	}
	return -1
}

func (r *rig) admission(app string) *admission {
	r.edge.changes.Lock()
	defer r.edge.changes.Unlock()
	return r.edge.admissions[app]
}

func TestWakeRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		crash router.Crash
		retry string
		text  string
	}{
		"unavailable with a time":    {err: &router.Error{Code: router.CodeUnavailable, Message: "no room on node n1", RetryAfter: 1500 * time.Millisecond}, retry: "2", text: "not awake yet"},
		"unavailable without a time": {err: &router.Error{Code: router.CodeUnavailable, Message: "no room on node n1"}, retry: "1", text: "not awake yet"},
		"some other error":           {err: errors.New("podman: no such image"), retry: "1", text: "not awake yet"},
		"no capacity":                {err: &router.Error{Code: router.CodeExhausted, Message: "n1 is full", RetryAfter: 3 * time.Second}, retry: "3", text: "busy"},
		"it keeps crashing": {
			err:   &router.Error{Code: router.CodeUnavailable, Message: "exit code 3", RetryAfter: 30 * time.Second},
			crash: router.Crash{Count: 4, Until: time.Now().Add(30 * time.Second), Reason: "exit code 3"}, retry: "30", text: "not well",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(_ *Options, f *fakeEngine) {
				f.wake = func(context.Context, string) (router.Wake, error) { return router.Wake{}, tc.err }
			})
			st := record("a")
			st.App.Crash = tc.crash
			r.apply(st)
			res, body := r.get(r.client(), "http://a.localhost/")
			if res.StatusCode != 503 || res.Header.Get("Retry-After") != tc.retry || !strings.Contains(body, tc.text) {
				t.Errorf("%d, Retry-After %q, want 503 with %q and %q in\n%s", res.StatusCode, res.Header.Get("Retry-After"), tc.retry, tc.text, body)
			}
			for _, machinery := range []string{"podman", "node", "n1", "exit code", "instance"} {
				if strings.Contains(body, machinery) {
					t.Errorf("the page shows %q", machinery)
				}
			}
		})
	}
}

// A wake that fails sends away all who wait, and the next request wakes again.
func TestFailedWakeIsTriedAgainByTheNext(t *testing.T) {
	var r *rig
	var wakes atomic.Int32
	addr := server(t, hello)
	r = newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(_ context.Context, app string) (router.Wake, error) {
			if wakes.Add(1) == 1 {
				return router.Wake{}, router.Errorf(router.CodeUnavailable, "not now")
			}
			r.apply(record(app, instance("a-1", router.Ready, addr)))
			return router.Wake{}, nil
		}
	})
	r.apply(record("a"))
	for i, want := range []int{503, 200, 200} {
		if res, _ := r.get(r.client(), "http://a.localhost/"); res.StatusCode != want {
			t.Errorf("request %d: %d, want %d", i+1, res.StatusCode, want)
		}
	}
	if wakes.Load() != 2 {
		t.Errorf("%d wakes, want 2", wakes.Load())
	}
}

// An instance that dies between its probe and the first request is no reason
// to send anybody away.
func TestWakeThatLeavesNothingReadyIsRepeated(t *testing.T) {
	var r *rig
	var wakes atomic.Int32
	addr := server(t, hello)
	r = newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(_ context.Context, app string) (router.Wake, error) {
			if wakes.Add(1) >= 3 {
				r.apply(record(app, instance("a-1", router.Ready, addr)))
			}
			return router.Wake{}, nil
		}
	})
	r.apply(record("a"))
	if res, _ := r.get(r.client(), "http://a.localhost/"); res.StatusCode != 200 {
		t.Errorf("%d, want 200", res.StatusCode)
	}
}

// The instance may become ready by another gateway's wake while ours hangs.
func TestReadyFromElsewhereEndsTheWait(t *testing.T) {
	called := make(chan struct{})
	r := newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(ctx context.Context, _ string) (router.Wake, error) {
			close(called)
			<-ctx.Done()
			return router.Wake{}, ctx.Err()
		}
	})
	addr := server(t, hello)
	st := record("a")
	st.App.Policy.WakeDeadline = router.Duration(5 * time.Second)
	r.apply(st)
	go func() {
		<-called
		st.Instances = []router.Instance{instance("a-1", router.Ready, addr)}
		r.apply(st)
	}()
	if res, _ := r.get(r.client(), "http://a.localhost/"); res.StatusCode != 200 {
		t.Errorf("%d, want 200", res.StatusCode)
	}
}

func TestWakeDeadline(t *testing.T) {
	r := newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(ctx context.Context, _ string) (router.Wake, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("a wake without a deadline")
			}
			<-ctx.Done()
			return router.Wake{}, ctx.Err()
		}
	})
	st := record("a")
	st.App.Policy.WakeDeadline = router.Duration(100 * time.Millisecond)
	r.apply(st)
	res, _ := r.get(r.client(), "http://a.localhost/")
	if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q; want 503 with one", res.StatusCode, res.Header.Get("Retry-After"))
	}
	if n := r.waiting("a"); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// busyApp is an app whose only instance takes one request at a time and holds
// each until a value is sent on free.
func busyApp(r *rig, change func(*router.Policy)) (free chan struct{}, entered chan string) {
	free, entered = make(chan struct{}), make(chan string, 100)
	addr := server(r.t, func(w http.ResponseWriter, req *http.Request) {
		entered <- req.URL.Path
		select {
		case <-free:
		case <-req.Context().Done():
		}
		_, _ = io.WriteString(w, req.URL.Path)
	})
	st := record("a", instance("a-1", router.Ready, addr))
	st.App.Policy.MaxConcurrency = 1
	if change != nil {
		change(&st.App.Policy)
	}
	r.apply(st)
	return free, entered
}

func TestQueueIsFirstInFirstOut(t *testing.T) {
	r := newRig(t, nil)
	free, entered := busyApp(r, nil)
	c := r.client()
	var wg sync.WaitGroup
	const requests = 20
	for i := range requests {
		wg.Go(func() { r.get(c, "http://a.localhost/"+strconv.Itoa(i)) })
		if i == 0 {
			eventually(t, "the first is in", func() bool { return len(entered) == 1 })
			continue
		}
		eventually(t, "it waits", func() bool { return r.waiting("a") == i })
	}
	for i := range requests {
		if got := <-entered; got != "/"+strconv.Itoa(i) {
			t.Errorf("place %d went to %s", i, got)
		}
		free <- struct{}{}
	}
	wg.Wait()
}

// A place that becomes free while somebody waits is his, even if somebody else
// comes at that moment.
func TestNewcomersDoNotOvertake(t *testing.T) {
	r := newRig(t, nil)
	st := record("a", instance("a-1", router.Ready, "127.0.0.1:1"))
	st.App.Policy.MaxConcurrency = 1
	r.apply(st)
	a := r.admission("a")
	up := a.target.Load().endpoints[0]
	if !up.acquire(1) {
		t.Fatal("full from the start")
	}
	var order []string // the instance takes one at a time, so its places guard it
	var wg sync.WaitGroup
	come := func(name string) {
		x := &exchange{edge: r.edge, target: a.target.Load()}
		if err := a.do(x, func(*exchange) { order = append(order, name) }); err != nil {
			t.Error(err)
		}
	}
	wg.Go(func() { come("waiter") })
	eventually(t, "it waits", func() bool { return r.waiting("a") == 1 })
	up.state.Add(-1) // free, and not handed to anybody yet
	come("newcomer")
	wg.Wait()
	if len(order) != 2 || order[0] != "waiter" {
		t.Errorf("served in the order %q", order)
	}
}

func TestQueueOverflow(t *testing.T) {
	r := newRig(t, nil)
	free, entered := busyApp(r, func(p *router.Policy) { p.QueueDepth = 2 })
	c := r.client()
	var wg sync.WaitGroup
	wg.Go(func() { r.get(c, "http://a.localhost/") })
	eventually(t, "one is in", func() bool { return len(entered) == 1 })
	for i := range 2 {
		wg.Go(func() { r.get(c, "http://a.localhost/") })
		eventually(t, "it waits", func() bool { return r.waiting("a") == i+1 })
	}
	res, body := r.get(c, "http://a.localhost/")
	if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "busy") {
		t.Errorf("%d, Retry-After %q, %s", res.StatusCode, res.Header.Get("Retry-After"), body)
	}
	close(free)
	wg.Wait()
}

func TestQueueDeadline(t *testing.T) {
	r := newRig(t, nil)
	free, entered := busyApp(r, func(p *router.Policy) { p.QueueDeadline = router.Duration(50 * time.Millisecond) })
	c := r.client()
	var wg sync.WaitGroup
	wg.Go(func() { r.get(c, "http://a.localhost/") })
	eventually(t, "one is in", func() bool { return len(entered) == 1 })
	res, _ := r.get(c, "http://a.localhost/")
	if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	close(free)
	wg.Wait()
}

// A depth of 0 means that nobody waits, not that the app never wakes.
func TestQueueDepthZeroStillWakes(t *testing.T) {
	var r *rig
	addr := server(t, hello)
	r = newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(context.Context, string) (router.Wake, error) {
			st := record("a", instance("a-1", router.Ready, addr))
			st.App.Policy.QueueDepth = 0
			r.apply(st)
			return router.Wake{}, nil
		}
	})
	st := record("a")
	st.App.Policy.QueueDepth = 0
	r.apply(st)
	c := r.client()
	if res, _ := r.get(c, "http://a.localhost/"); res.StatusCode != 503 {
		t.Errorf("%d, want 503", res.StatusCode)
	}
	eventually(t, "the app is awake", func() bool {
		res, _ := r.get(c, "http://a.localhost/")
		return res.StatusCode == 200
	})
}

// A queue that forms although an instance is ready is reported once, not per
// request.
func TestKickOnceWhenAQueueForms(t *testing.T) {
	kicks := make(chan string, 10)
	r := newRig(t, func(o *Options, _ *fakeEngine) { o.Kick = func(app string) { kicks <- app } })
	free, entered := busyApp(r, nil)
	c := r.client()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { r.get(c, "http://a.localhost/") })
		eventually(t, "it is there", func() bool { return len(entered)+r.waiting("a") == i+1 })
	}
	close(free)
	wg.Wait()
	if len(kicks) != 1 || <-kicks != "a" {
		t.Errorf("%d kicks, want 1", len(kicks)+1)
	}
}

// A client that hangs up while it waits leaves the queue, over plain HTTP and
// over TLS, where the goodbye is input that nobody reads.
func TestHangUpLeavesTheQueue(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			block := func(_ *Options, f *fakeEngine) {
				f.wake = func(ctx context.Context, _ string) (router.Wake, error) {
					<-ctx.Done()
					return router.Wake{}, ctx.Err()
				}
			}
			r := newRig(t, func(o *Options, f *fakeEngine) {
				block(o, f)
				if secure {
					withTLS(t)(o, f)
				}
			})
			st := record("a")
			st.App.Policy.WakeDeadline = router.Duration(time.Hour)
			r.apply(st)
			var c net.Conn
			if secure {
				c = r.dialTLS("a.localhost")
			} else {
				c, _ = r.dial()
			}
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
			eventually(t, "it waits", func() bool { return r.waiting("a") == 1 })
			_ = c.Close()
			eventually(t, "it has left", func() bool { return r.waiting("a") == 0 })
		})
	}
}

// dialTLS makes a TLS connection that trusts the rig's local CA.
func (r *rig) dialTLS(name string) *tls.Conn {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.https, &tls.Config{ServerName: name, RootCAs: r.roots()})
	if err != nil {
		r.t.Fatalf("handshake for %s: %v", name, err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(waitTime))
	return c
}

// Deleting an app answers those who wait for it.
func TestDeleteEndsTheWait(t *testing.T) {
	var r *rig
	r = newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(ctx context.Context, _ string) (router.Wake, error) {
			st := record("a")
			st.Deleted = true
			r.apply(st)
			<-ctx.Done()
			return router.Wake{}, ctx.Err()
		}
	})
	st := record("a")
	st.App.Policy.WakeDeadline = router.Duration(2 * time.Second)
	r.apply(st)
	if res, _ := r.get(r.client(), "http://a.localhost/"); res.StatusCode != 404 {
		t.Errorf("%d, want 404", res.StatusCode)
	}
}

// Requests are spread over the instances, and none gets more than its cap.
func TestSpreadAndCap(t *testing.T) {
	const instances, limit, requests = 4, 5, 200
	r := newRig(t, nil)
	var ins []router.Instance
	served := make([]atomic.Int32, instances)
	for i := range instances {
		var now atomic.Int32
		addr := server(t, func(w http.ResponseWriter, _ *http.Request) {
			if n := now.Add(1); n > limit {
				t.Errorf("instance %d has %d requests at once, more than %d", i, n, limit)
			}
			defer now.Add(-1)
			served[i].Add(1)
			time.Sleep(time.Millisecond) // be busy for a moment
			_, _ = io.WriteString(w, "ok")
		})
		ins = append(ins, instance(fmt.Sprintf("a-%d", i), router.Ready, addr))
	}
	st := record("a", ins...)
	st.App.Policy.MaxConcurrency = limit
	r.apply(st)
	c := r.client()
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if res, _ := r.get(c, "http://a.localhost/"); res.StatusCode != 200 {
				t.Errorf("%d", res.StatusCode)
			}
		})
	}
	wg.Wait()
	for i := range served {
		if n := served[i].Load(); n < requests/instances/4 {
			t.Errorf("instance %d served %d of %d", i, n, requests)
		}
	}
}

// Fast-path admission is what every request pays.
func TestAdmissionAllocatesNothing(t *testing.T) {
	r := newRig(t, nil)
	r.apply(record("a", instance("a-1", router.Ready, "127.0.0.1:1"), instance("a-2", router.Ready, "127.0.0.1:2")))
	x := &exchange{edge: r.edge}
	host := []byte("A.Localhost:8443")
	none := func(*exchange) {}
	n := testing.AllocsPerRun(1000, func() {
		name, ok := router.NormalizeHost(x.name[:0], host)
		if !ok {
			t.Fatal("host")
		}
		if x.target, ok = r.edge.table.Load().Lookup(name); !ok {
			t.Fatal("lookup")
		}
		if err := x.target.admission.do(x, none); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per request, want 0", n)
	}
}

func BenchmarkAdmission(b *testing.B) {
	r := newRig(b, nil)
	r.apply(record("a", instance("a-1", router.Ready, "127.0.0.1:1"), instance("a-2", router.Ready, "127.0.0.1:2")))
	none := func(*exchange) {}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		x := &exchange{edge: r.edge}
		host := []byte("a.localhost")
		for pb.Next() {
			name, _ := router.NormalizeHost(x.name[:0], host)
			x.target, _ = r.edge.table.Load().Lookup(name)
			if err := x.target.admission.do(x, none); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRequest is a request and its answer over kept connections on
// loopback, both ends as bare as can be.
func BenchmarkRequest(b *testing.B) {
	r := newRig(b, nil)
	answer := []byte(ok("hello"))
	ln := listen(b)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	r.apply(record("a", instance("a-1", router.Ready, ln.Addr().String())))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c, _ := r.dial()
		_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
		buf := make([]byte, 4096)
		for pb.Next() {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n"); err != nil {
				b.Error(err)
				return
			}
			if n, err := c.Read(buf); err != nil || n < 12 || string(buf[9:12]) != "200" {
				b.Errorf("%q %v", buf[:n], err)
				return
			}
		}
	})
}
