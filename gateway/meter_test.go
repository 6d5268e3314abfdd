package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// rates is a sink that can fail. It counts a second only once, as the real one
// does.
type rates struct {
	mu   sync.Mutex
	fail bool
	got  map[int64]map[string]router.Sample
}

func (s *rates) FlushRates(ctx context.Context, gateway string, second time.Time, samples map[string]router.Sample) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := ctx.Deadline(); !ok || gateway != "g1" && !strings.HasPrefix(gateway, "g1.") || second.Nanosecond() != 0 {
		return errors.New("not called as promised")
	}
	if s.fail {
		return errors.New("no connection")
	}
	if s.got == nil {
		s.got = map[int64]map[string]router.Sample{}
	}
	s.got[second.Unix()] = maps.Clone(samples)
	return nil
}

func (s *rates) total(app string) (sum router.Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, samples := range s.got {
		sum = sum.Plus(samples[app])
	}
	return sum
}

// What was counted arrives, also after the sink was away, and each second on
// its own.
func TestMetering(t *testing.T) {
	sink := &rates{}
	m := &meter{gateway: "g1", sink: sink, log: testLog(t)}
	e := &Edge{meter: m}
	a, b := &admission{app: "a", edge: e}, &admission{app: "b", edge: e}
	ready := &target{endpoints: []*upstream{newUpstream("x", "tcp", "", func(*upstream) {})}}
	a.target.Store(ready)
	b.target.Store(&target{})
	arrive := func(a *admission, n int) {
		for range n {
			if a.arrived.Add(1) == 1 {
				m.note(a)
			}
		}
	}
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	ctx := t.Context()

	m.tick(ctx, at(1)) // nothing
	arrive(a, 3)
	arrive(b, 1)
	a.inFlight.Store(2)
	a.waiting.Store(4)
	a.done.Store(1)
	a.service.Store(900)
	b.waiting.Store(5) // nothing is ready: that is a wake, not a lack of places
	m.tick(ctx, at(2))
	sink.fail = true
	m.tick(ctx, at(3)) // a's two still run
	arrive(a, 7)
	a.done.Store(9)
	a.service.Store(8100)
	a.inFlight.Store(0)
	a.waiting.Store(0)
	m.tick(ctx, at(4))
	sink.fail = false
	b.waiting.Store(0)
	m.tick(ctx, at(5)) // nothing new, the rest from before
	m.tick(ctx, at(6))

	want := map[int64]map[string]router.Sample{
		2: {"a": {Requests: 3, Done: 1, Service: 900, InFlight: 2, Queued: 4}, "b": {Requests: 1}},
		3: {"a": {InFlight: 2, Queued: 4}},
		4: {"a": {Requests: 7, Done: 9, Service: 8100}},
	}
	if !maps.EqualFunc(sink.got, want, maps.Equal[map[string]router.Sample, map[string]router.Sample]) {
		t.Errorf("got %v, want %v", sink.got, want)
	}
	if len(m.active) != 0 {
		t.Errorf("%d apps are on the list with nothing to count", len(m.active))
	}
	arrive(a, 1)
	if !slices.Contains(m.active, a) {
		t.Error("an app that has requests again is not on the list")
	}
}

func TestMeteringBacklogIsBounded(t *testing.T) {
	sink := &rates{fail: true}
	m := &meter{gateway: "g1", sink: sink, log: testLog(t)}
	a := &admission{app: "a", edge: &Edge{meter: m}}
	a.target.Store(&target{})
	for s := range int64(3 * flushBacklog) {
		a.arrived.Add(1)
		m.note(a)
		m.tick(t.Context(), time.Unix(s, 0))
	}
	if len(m.backlog) != flushBacklog {
		t.Errorf("%d seconds are kept", len(m.backlog))
	}
	sink.fail = false
	m.tick(t.Context(), time.Unix(3*flushBacklog, 0))
	if _, newest := sink.got[3*flushBacklog-1]; !newest || len(sink.got) != flushBacklog {
		t.Errorf("%d seconds arrived, the newest: %v", len(sink.got), newest)
	}
}

// Every request of a running Edge is counted, and the last ones when it stops.
func TestEveryRequestIsMetered(t *testing.T) {
	sink := &rates{}
	r := newRig(t, func(o *Options, _ *fakeEngine) { o.Rates = sink })
	r.app("a", hello)
	c := r.client()
	const requests = 50
	for range requests {
		r.get(c, "http://a.localhost/")
	}
	c.CloseIdleConnections()
	if err := r.shutdown(waitTime); err != nil {
		t.Error(err)
	}
	if n := sink.total("a"); n.Requests != requests || n.Done != requests {
		t.Errorf("metered %+v, want %d requests and answers", n, requests)
	}
}

// What the app did counts with the time that it took: answers in one piece and
// in many, short connections too. What it did not answer whole, and upgrades,
// do not.
func TestServiceTime(t *testing.T) {
	sink := &rates{}
	r := newRig(t, func(o *Options, _ *fakeEngine) { o.Rates = sink })
	var busy atomic.Int64 // microseconds, as the app sees it
	began, hold := make(chan bool), make(chan bool)
	r.app("a", func(w http.ResponseWriter, req *http.Request) {
		since := time.Now()
		began <- true
		<-hold
		defer func() { busy.Add(time.Since(since).Microseconds()) }()
		switch req.URL.Path {
		case "/close":
			w.Header().Set("Connection", "close")
		case "/stream":
			for range 3 {
				_, _ = io.WriteString(w, "part")
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
	r.app("broken", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	c := r.client()
	since := time.Now()
	for _, path := range []string{"/", "/close", "/stream"} {
		go func() {
			<-began
			hold <- true
		}()
		r.get(c, "http://a.localhost"+path)
	}
	if res, err := c.Get("http://broken.localhost/"); err == nil {
		_, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err == nil {
			t.Error("half an answer passes for a whole one")
		}
	}
	r.apply(record("echo", instance("echo-1", router.Ready, rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		}
	}))))
	conn, br := r.dial()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: echo.localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("no upgrade: %v %v", res, err)
	}
	_ = conn.Close()
	c.CloseIdleConnections()
	if err := r.shutdown(waitTime); err != nil {
		t.Error(err)
	}
	most := time.Since(since).Microseconds()
	got := sink.total("a")
	if got.Requests != 3 || got.Done != 3 || got.Service < busy.Load()-3 || got.Service > most {
		t.Errorf("metered %+v; the app was busy for %d µs, all lasted %d µs", got, busy.Load(), most)
	}
	for _, app := range []string{"broken", "echo"} {
		if got := sink.total(app); got.Requests != 1 || got.Done != 0 || got.Service != 0 {
			t.Errorf("%s: metered %+v", app, got)
		}
	}
}
