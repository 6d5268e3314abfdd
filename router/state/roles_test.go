package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestLease(t *testing.T) {
	srv := startServer(t)
	a, b := openStore(t, srv), openStore(t, srv)
	ctx := testContext(t)
	acquire := func(s *Store, holder string, ttl time.Duration) (Lease, bool) {
		t.Helper()
		l, ok, err := s.Acquire(ctx, "tick", holder, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return l, ok
	}
	first, ok := acquire(a, "a", time.Minute)
	if !ok || first.Holder != "a" || first.Fence == 0 || !first.Until.After(time.Now()) {
		t.Fatalf("%+v %v", first, ok)
	}
	if l, ok := acquire(b, "b", time.Minute); ok || l.Holder != "a" || l.Fence != first.Fence {
		t.Fatalf("b got %+v %v", l, ok)
	}
	if l, ok := acquire(a, "a", time.Minute); !ok || l.Fence != first.Fence {
		t.Fatalf("renewed to %+v %v", l, ok)
	}
	if err := b.Release(ctx, Lease{Name: "tick", Holder: "b", Fence: first.Fence}); err != nil {
		t.Fatal(err)
	}
	if _, ok := acquire(b, "b", time.Minute); ok {
		t.Fatal("b released a's lease")
	}
	if err := a.Release(ctx, first); err != nil {
		t.Fatal(err)
	}
	second, ok := acquire(b, "b", time.Millisecond)
	if !ok || second.Fence <= first.Fence {
		t.Fatalf("after the release b got %+v %v", second, ok)
	}
	var third Lease
	eventually(t, "a gets the lease that ran out", func() bool {
		third, ok = acquire(a, "a", time.Minute)
		return ok
	})
	if third.Fence <= second.Fence {
		t.Fatalf("fence %d after %d", third.Fence, second.Fence)
	}
	for _, late := range []Lease{first, second} { // the first was of the same holder
		if err := b.Release(ctx, late); err != nil {
			t.Fatal(err)
		}
	}
	if l, ok := acquire(b, "b", time.Minute); ok {
		t.Fatalf("a late release gave the lease away: %+v", l)
	}
}

func TestGateways(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	live := func(want ...string) func() bool {
		return func() bool {
			t.Helper()
			got, err := s.Gateways(ctx)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			return slices.Equal(got, want)
		}
	}
	for name, ttl := range map[string]time.Duration{"a": time.Minute, "b": time.Minute, "brief": 50 * time.Millisecond} {
		if err := s.Announce(ctx, name, ttl); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the brief one ran out", live("a", "b"))
	if err := s.Retire(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if !live("b")() {
		t.Fatal("a did not retire")
	}
}

func TestDrainAcks(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	for _, g := range []string{"a", "b", "a"} {
		if err := s.AckDrain(ctx, g, "hello-1-x"); err != nil {
			t.Fatal(err)
		}
	}
	acks, err := s.DrainAcks(ctx, "hello-1-x")
	slices.Sort(acks)
	if err != nil || !slices.Equal(acks, []string{"a", "b"}) {
		t.Fatal(acks, err)
	}
	if ttl := s.client.TTL(ctx, s.keys.drain("hello-1-x")).Val(); ttl <= 0 {
		t.Fatal("acknowledgements are kept for ever")
	}
	if err := s.ClearAcks(ctx, "hello-1-x"); err != nil {
		t.Fatal(err)
	}
	if acks, err := s.DrainAcks(ctx, "hello-1-x"); err != nil || len(acks) != 0 {
		t.Fatal(acks, err)
	}
}

func TestRates(t *testing.T) {
	srv := startServer(t)
	a, b := openStore(t, srv), openStore(t, srv)
	ctx := testContext(t)
	now := time.Unix(time.Now().Unix(), 0)
	flush := func(s *Store, gateway string, at time.Time, samples map[string]router.Sample) {
		t.Helper()
		if err := s.FlushRates(ctx, gateway, at, samples); err != nil {
			t.Fatal(err)
		}
	}
	samples := map[string]router.Sample{"x": {Requests: 10, Done: 8, Service: 800, InFlight: 2, Queued: 1}, "y": {Requests: 1}}
	flush(a, "a", now, samples)
	flush(a, "a", now, samples) // the answer was lost
	flush(b, "b|odd", now, map[string]router.Sample{"x": {Requests: 5, Done: 1, Service: 99, InFlight: 1}})
	flush(b, "b|odd", now.Add(time.Second), map[string]router.Sample{"x": {Requests: 7}})
	flush(b, "b|odd", now.Add(-time.Second), map[string]router.Sample{"x": {Requests: 3}}) // late
	flush(a, "a", now, nil)

	rates, err := b.Rates(ctx, now.Add(-time.Second), now.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, rates, map[int64]map[string]router.Sample{
		now.Unix() - 1: {"x": {Requests: 3}},
		now.Unix():     {"x": {Requests: 15, Done: 9, Service: 899, InFlight: 3, Queued: 1}, "y": {Requests: 1}},
		now.Unix() + 1: {"x": {Requests: 7}},
	})
	rates, err = b.Rates(ctx, now.Add(time.Second), now.Add(time.Second))
	if err != nil || len(rates) != 1 {
		t.Fatal(rates, err)
	}
	if ttl := a.client.TTL(ctx, a.keys.rates(now.Unix())).Val(); ttl <= 0 || ttl > rateTTL {
		t.Fatalf("kept for %v", ttl)
	}

	last, err := a.LastActive(ctx, []string{"x", "y", "never"})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, last, map[string]time.Time{"x": now.Add(time.Second), "y": now})
	create(t, a, "x")
	remove(t, a, "x")
	if last, err := a.LastActive(ctx, []string{"x"}); err != nil || len(last) != 0 {
		t.Fatalf("a deleted app was active: %v %v", last, err)
	}
}

// Redis hangs while two gateways flush: each keeps its seconds and sends them
// again, and those that Redis had taken in after all count once.
func TestRatesAfterAHang(t *testing.T) {
	srv := startServer(t)
	a, b := openStore(t, srv), openStore(t, srv)
	ctx := testContext(t)
	now := time.Unix(time.Now().Unix(), 0)
	pid := serverPID(t, a)
	second := func(i int) time.Time { return now.Add(time.Duration(i) * time.Second) }
	flush := func(s *Store, gateway string, i int, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return s.FlushRates(ctx, gateway, second(i), map[string]router.Sample{"x": {Requests: 100, Done: 90, Service: 1000}})
	}
	if err := errors.Join(flush(a, "a", 0, limit), flush(b, "b", 0, limit)); err != nil {
		t.Fatal(err)
	}
	signal(t, pid, syscall.SIGSTOP)
	t.Cleanup(func() { signal(t, pid, syscall.SIGCONT) })
	for i, s := range map[string]*Store{"a": a, "b": b} {
		if err := flush(s, i, 1, 200*time.Millisecond); err == nil {
			t.Fatal("a Redis that hangs took a second")
		}
	}
	signal(t, pid, syscall.SIGCONT)
	for i := range 3 { // all that is kept, the first of it once more
		if err := errors.Join(flush(a, "a", i, limit), flush(b, "b", i, limit)); err != nil {
			t.Fatal(err)
		}
	}
	rates, err := b.Rates(ctx, second(0), second(3))
	if err != nil {
		t.Fatal(err)
	}
	both := map[string]router.Sample{"x": {Requests: 200, Done: 180, Service: 2000}}
	wantEqual(t, rates, map[int64]map[string]router.Sample{now.Unix(): both, now.Unix() + 1: both, now.Unix() + 2: both})
}

// A gateway of the version before is read as far as it tells.
func TestDecodeSample(t *testing.T) {
	for text, want := range map[string]router.Sample{
		"3,2,1":                   {Requests: 3, InFlight: 2, Queued: 1},
		"3,2,1,5,700":             {Requests: 3, InFlight: 2, Queued: 1, Done: 5, Service: 700},
		"3,2,1,5,700,of-the-next": {Requests: 3, InFlight: 2, Queued: 1, Done: 5, Service: 700},
	} {
		if got, ok := decodeSample(text); !ok || got != want {
			t.Errorf("%q: %+v %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "3,2", "a,b,c", "1,2,3,"} {
		if got, ok := decodeSample(text); ok {
			t.Errorf("%q passes as %+v", text, got)
		}
	}
}

func TestHistory(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	base := time.Now().Add(-time.Hour).UTC()
	record := func(events ...router.Event) {
		t.Helper()
		if err := s.Record(ctx, "hello", events...); err != nil {
			t.Fatal(err)
		}
	}
	history := func(limit int) []router.Event {
		t.Helper()
		events, err := s.History(ctx, "hello", time.Time{}, limit)
		if err != nil {
			t.Fatal(err)
		}
		return events
	}
	full := filled[router.Event]()
	full.At = base
	record(full)
	record(full) // the answer was lost
	wantEqual(t, history(0), []router.Event{full})

	record(router.Event{At: base.Add(-8 * 24 * time.Hour), Text: "long ago"})
	record(router.Event{At: base.Add(time.Second), Text: "decision"}, router.Event{At: base.Add(time.Second), Text: "act"})
	if got := history(2); len(got) != 2 || got[0].Text != "act" || got[1].Text != "decision" {
		t.Fatalf("%+v", got)
	}
	if got := history(0); len(got) != 3 {
		t.Fatalf("%d events: one of more than seven days ago is told", len(got))
	}

	around := func(at time.Time, limit int) (texts []string) {
		t.Helper()
		events, err := s.History(ctx, "hello", at, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			texts = append(texts, e.Text)
		}
		return texts
	}
	for name, c := range map[string]struct {
		at    time.Duration
		limit int
		want  []string
	}{
		"in the middle":    {500 * time.Millisecond, 2, []string{"decision", full.Text}},
		"at the very time": {0, 1, []string{full.Text}},
		"after all":        {time.Minute, 2, []string{"act", "decision"}},
		"before all":       {-time.Minute, 2, []string{full.Text}},
	} {
		if got := around(base.Add(c.at), c.limit); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}

	many := make([]router.Event, historyLength+20)
	for i := range many {
		many[i] = router.Event{At: base.Add(time.Minute + time.Duration(i)*time.Millisecond), Text: fmt.Sprint(i)}
	}
	record(many...)
	got := history(10_000)
	if len(got) != historyLength || got[0].Text != fmt.Sprint(len(many)-1) || got[len(got)-1].Text != "20" {
		t.Fatalf("%d events, from %q to %q", len(got), got[0].Text, got[len(got)-1].Text)
	}
	create(t, s, "hello")
	remove(t, s, "hello")
	if got := history(0); len(got) != 0 {
		t.Fatalf("a deleted app has %d events", len(got))
	}
}

// An app's history has a fixed size, whatever happens to it.
func TestHistorySize(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	long := strings.Repeat("a\x00…\xff", 200)
	huge := router.Event{Kind: "decision", Text: long, Fields: map[string]string{"reason": long}, Decision: &router.Decision{Rule: long, Votes: []router.Vote{{Reason: long}}}}
	for range 10 {
		huge.Phases = append(huge.Phases, router.Phase{Name: long})
	}
	fair := router.Event{Kind: "decision", Text: "4 instances, not 2: 310 requests/s", Decision: &router.Decision{Had: 2, Desired: 4, Rule: "rate", Signals: []router.Signal{{Name: "rate", Value: 310}}}}
	for range 9 {
		fair.Decision.Votes = append(fair.Decision.Votes, router.Vote{Rule: "rate", Count: 4, Reason: strings.Repeat("reason ", 40)})
	}
	base := time.Now().Add(-time.Hour)
	for app, e := range map[string]router.Event{"huge": huge, "fair": fair} {
		var events []router.Event
		for i := range historyLength + 200 {
			e.At = base.Add(time.Duration(i) * time.Second)
			events = append(events, e)
		}
		for chunk := range slices.Chunk(events, 500) {
			if err := s.Record(ctx, app, chunk...); err != nil {
				t.Fatal(err)
			}
		}
		size, err := s.client.MemoryUsage(ctx, s.keys.history(app), 0).Result()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes in Redis", app, size)
		if most := int64(historyLength * (eventLength + 512)); size > most {
			t.Errorf("%s: %d bytes, more than %d", app, size, most)
		}
		got, err := s.History(ctx, app, time.Time{}, 1)
		if err != nil || len(got) != 1 || got[0].Kind != "decision" || !strings.HasPrefix(e.Text, got[0].Text[:5]) {
			t.Fatalf("%s: %v %v", app, got, err)
		}
		if d := got[0].Decision; app == "fair" && (d == nil || d.Desired != 4 || len(d.Votes) != 9 || len(d.Signals) != 1) {
			t.Errorf("a decision with long reasons loses more than these: %+v", d)
		}
	}
}

func TestTokens(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	token, secret := router.NewToken("laptop", time.Now().UTC().Truncate(0))
	if err := s.PutToken(ctx, token); err != nil {
		t.Fatal(err)
	}
	got, err := s.Token(ctx, token.ID)
	if err != nil || !got.Matches(secret.Reveal()) {
		t.Fatalf("%+v %v", got, err)
	}
	wantEqual(t, got, token)
	all, err := s.Tokens(ctx)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, all, []router.Token{token})
	for range 2 {
		if err := s.DeleteToken(ctx, token.ID); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Token(ctx, token.ID)
	wantCode(t, err, router.CodeNotFound)
}

func TestNodes(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	a, b := filled[router.Node](), filled[router.Node]()
	a.Name, b.Name = "a", "b"
	for _, n := range []*router.Node{&a, &b} {
		n.Down, n.Lost, n.Full = false, false, false // each gateway's own findings
	}
	for _, n := range []router.Node{b, a, a} {
		if err := s.PutNode(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	nodes, err := s.Nodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, nodes, []router.Node{a, b})
	if err := s.DropNode(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if nodes, err = s.Nodes(ctx); err != nil || len(nodes) != 1 || nodes[0].Name != "b" {
		t.Fatal(nodes, err)
	}
}

func TestInstallation(t *testing.T) {
	srv := startServer(t)
	ctx := testContext(t)
	first, err := openStore(t, srv).Installation(ctx)
	if err != nil || first == "" {
		t.Fatal(first, err)
	}
	second, err := openStore(t, srv).Installation(ctx)
	if err != nil || second != first {
		t.Fatalf("%q and %q, %v", first, second, err)
	}
}
