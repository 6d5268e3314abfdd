package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
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
	if _, ok := ctx.Deadline(); !ok || gateway != "g1" || second.Nanosecond() != 0 {
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

func (s *rates) total(app string) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, samples := range s.got {
		n += samples[app].Requests
	}
	return n
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
	b.waiting.Store(5) // nothing is ready: that is a wake, not a lack of places
	m.tick(ctx, at(2))
	sink.fail = true
	m.tick(ctx, at(3)) // a's two still run
	arrive(a, 7)
	a.inFlight.Store(0)
	a.waiting.Store(0)
	m.tick(ctx, at(4))
	sink.fail = false
	b.waiting.Store(0)
	m.tick(ctx, at(5)) // nothing new, the rest from before
	m.tick(ctx, at(6))

	want := map[int64]map[string]router.Sample{
		2: {"a": {Requests: 3, InFlight: 2, Queued: 4}, "b": {Requests: 1}},
		3: {"a": {InFlight: 2, Queued: 4}},
		4: {"a": {Requests: 7}},
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
	if n := sink.total("a"); n != requests {
		t.Errorf("%d requests metered, want %d", n, requests)
	}
}
