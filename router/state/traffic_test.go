package state

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func rowsOf(seconds ...router.Sample) []router.Minute {
	rows := make([]router.Minute, len(seconds))
	for i, s := range seconds {
		rows[i].Sample = s
	}
	return rows
}

func TestBlock(t *testing.T) {
	full := make([]router.Sample, blockRows)
	for i := range full {
		full[i] = router.Sample{Requests: int64(i * i), Done: int64(i), InFlight: int64(i % 7), Queued: int64(60 - i)}
	}
	huge := int64(1) << 62
	for name, rows := range map[string][]router.Minute{
		"silence":      rowsOf(),
		"one request":  rowsOf(router.Sample{}, router.Sample{Requests: 1}),
		"last second":  append(make([]router.Minute, 59), rowsOf(router.Sample{InFlight: 1})...),
		"every second": rowsOf(full...),
		"extremes":     rowsOf(router.Sample{Requests: huge, Queued: huge}, router.Sample{Requests: -huge, InFlight: 1}, router.Sample{Done: huge}),
		"alike":        rowsOf(router.Sample{Requests: 5, Done: 5}, router.Sample{Requests: 5, Done: 5}),
	} {
		for _, kind := range []blockKind{blockSeconds, blockMinutes} {
			if kind == blockMinutes {
				for i := range rows {
					rows[i].Peak = rows[i].Requests
				}
			}
			b := encodeBlock(kind, 29_000_000, rows)
			if len(b) > maxBlock {
				t.Errorf("%s: %d bytes", name, len(b))
			}
			is, number, got, err := decodeBlock(b)
			if err != nil || is != kind || number != 29_000_000 {
				t.Fatalf("%s: %v %d %v", name, is, number, err)
			}
			var want [blockRows]router.Minute
			copy(want[:], rows)
			wantEqual(t, got, want)
			for n := range b { // cut off anywhere, it is no block
				if _, _, _, err := decodeBlock(b[:n]); err == nil {
					t.Fatalf("%s: %d of %d bytes pass as a block", name, n, len(b))
				}
			}
		}
	}
}

func FuzzBlock(f *testing.F) {
	f.Add(encodeBlock(blockSeconds, 1, rowsOf(router.Sample{Requests: 3, Done: 2, Service: 100, InFlight: 1, Queued: 9})))
	f.Add(encodeBlock(blockMinutes, 1<<40, make([]router.Minute, 60)))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, number, rows, err := decodeBlock(b)
		if err != nil {
			return
		}
		again := encodeBlock(kind, number, rows[:])
		_, n, got, err := decodeBlock(again)
		if err != nil || n != number || len(again) > maxBlock {
			t.Fatalf("%d bytes, number %d, %v", len(again), n, err)
		}
		for i := range got {
			got[i].Service, rows[i].Service = 0, 0 // rounded, and bounded
			if rows[i].Sample == (router.Sample{}) {
				rows[i].Peak = 0
			}
		}
		if got != rows {
			t.Fatalf("%+v, then %+v", rows, got)
		}
	})
}

// minuteOf is a minute that is over, to count in.
func minuteOf() time.Time { return time.Now().Add(-2 * time.Minute).Truncate(time.Minute) }

func everyApp(string) bool { return true }

// near compares traffic, service times to what is kept of them.
func near(t *testing.T, got, want []router.Sample) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d seconds, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if off := g.Service - w.Service; off*off > (w.Service/100+1)*(w.Service/100+1) {
			t.Errorf("second %d: service %d, want %d", i, g.Service, w.Service)
		}
		if g.Service, w.Service = 0, 0; g != w {
			t.Errorf("second %d: %+v, want %+v", i, g, w)
		}
	}
}

// What gateways counted is there by the second, before it is recorded and when
// only the record is left.
func TestRecordTraffic(t *testing.T) {
	srv := startServer(t)
	a, b := openStore(t, srv), openStore(t, srv)
	ctx := testContext(t)
	start := minuteOf()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	want := make([]router.Sample, 120)
	flush := func(s *Store, gateway string, second int, n router.Sample) {
		t.Helper()
		if err := s.FlushRates(ctx, gateway, at(second), map[string]router.Sample{"x": n, "stranger": n}); err != nil {
			t.Fatal(err)
		}
		want[second] = want[second].Plus(n)
	}
	traffic := func() []router.Sample {
		t.Helper()
		got, err := b.Traffic(ctx, "x", start, at(119))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	record := func(s *Store, at time.Time) {
		t.Helper()
		if err := s.RecordTraffic(ctx, at, func(app string) bool { return app == "x" }); err != nil {
			t.Fatal(err)
		}
	}
	flush(a, "a", 0, router.Sample{Requests: 100, Done: 90, Service: 4_500_000, InFlight: 10})
	flush(b, "b", 0, router.Sample{Requests: 50, Done: 50, Service: 1_000_000, Queued: 2})
	flush(b, "b", 59, router.Sample{Requests: 1})
	flush(a, "a", 60, router.Sample{Done: 1, Service: 60_000_000})
	near(t, traffic(), want)

	record(a, at(124)) // not settled
	if n := a.client.Exists(ctx, a.keys.traffic("x")).Val(); n != 0 {
		t.Fatal("a minute is recorded that gateways may still add to")
	}
	flush(a, "a", 30, router.Sample{Requests: 7, InFlight: 1}) // kept while Redis was away
	both := make(chan error, 2)
	for _, s := range []*Store{a, b} {
		go func() { both <- s.RecordTraffic(ctx, at(125), func(app string) bool { return app == "x" }) }()
	}
	if err := errors.Join(<-both, <-both); err != nil {
		t.Fatal(err)
	}
	fields := a.client.HKeys(ctx, a.keys.traffic("x")).Val()
	fields = slices.DeleteFunc(fields, func(f string) bool { return f[0] != 'm' }) // an hour may have ended with it
	if !slices.Equal(fields, []string{minuteField(start.Unix() / 60)}) {
		t.Fatalf("recorded are %v, want one minute", fields)
	}
	near(t, traffic(), want)
	record(b, at(125)) // nothing more to do
	record(b, at(185)) // the second minute
	for second := range 120 {
		a.client.Del(ctx, a.keys.rates(at(second).Unix()))
	}
	record(a, at(186)) // what is forgotten does not make the record forget
	near(t, traffic(), want)
	if ttl := a.client.TTL(ctx, a.keys.traffic("x")).Val(); ttl <= 0 || ttl > trafficTTL {
		t.Errorf("kept for %v", ttl)
	}
	if n := a.client.Exists(ctx, a.keys.traffic("stranger")).Val(); n != 0 {
		t.Error("an app that nobody knows is recorded")
	}

	if got, err := a.Traffic(ctx, "x", at(0), at(0)); err != nil || len(got) != 1 || got[0].Requests != 150 {
		t.Errorf("one second: %+v %v", got, err)
	}
	_, err := a.Traffic(ctx, "x", start, start.Add(-time.Second))
	wantCode(t, err, router.CodeInvalid)
	_, err = a.Traffic(ctx, "x", start, start.Add(24*time.Hour))
	wantCode(t, err, router.CodeInvalid)
	_, err = a.TrafficMinutes(ctx, "x", start, start.Add(31*24*time.Hour))
	wantCode(t, err, router.CodeInvalid)

	create(t, a, "x")
	remove(t, a, "x")
	if n := a.client.Exists(ctx, a.keys.traffic("x")).Val(); n != 0 {
		t.Error("the traffic of a deleted app is kept")
	}
}

// A gateway that begins to record late takes what is still there, whole minutes
// only.
func TestRecordTrafficLate(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	start := minuteOf()
	for second := range 240 {
		if err := s.FlushRates(ctx, "a", start.Add(time.Duration(second)*time.Second), map[string]router.Sample{"x": {Requests: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RecordTraffic(ctx, start.Add(250*time.Second), everyApp); err != nil {
		t.Fatal(err)
	}
	found, err := s.minutes(ctx, []string{"x"}, start.Unix()/60, start.Unix()/60+4)
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := s.Recorded(ctx, start.Add(-time.Hour), start.Add(2*time.Minute))
	if err != nil || len(recorded) != 63 || slices.Contains(recorded[:59], true) || !recorded[62] {
		t.Errorf("recorded were the minutes %v, %v", recorded, err)
	}
	if got := found["x"]; len(got) != 1 || got[start.Unix()/60+2] == (block{}) {
		t.Errorf("%d minutes are recorded: want the third, the first two may have lost seconds", len(got))
	}
}

// The minutes of an hour are there while it goes on, and when its seconds are
// long gone.
func TestTrafficMinutes(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	hour := time.Now().Add(-2 * time.Hour).Truncate(time.Hour)
	want := make([]router.Minute, 65)
	for _, minute := range []int{0, 7, 59, 60, 64} {
		seconds := make([]router.Sample, 60)
		seconds[3] = router.Sample{Requests: 10, Done: 10, InFlight: 2}
		seconds[minute%60] = router.Sample{Requests: int64(20 + minute), Done: 4, Queued: 1}
		want[minute] = router.SumUp(seconds)
		if err := s.RecordMinute(ctx, hour.Add(time.Duration(minute)*time.Minute), map[string][]router.Sample{"x": seconds}); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		got, err := s.TrafficMinutes(ctx, "x", hour, hour.Add(64*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, got, want)
	}
	check()
	// The next hour's beginning is recorded, and with it the hour before.
	if err := s.FlushRates(ctx, "a", hour.Add(65*time.Minute), map[string]router.Sample{"x": {Requests: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := s.setMark(ctx, "minute", hour.Unix()/60+64); err != nil {
		t.Fatal(err)
	}
	if err := s.RecordTraffic(ctx, hour.Add(66*time.Minute), everyApp); err != nil {
		t.Fatal(err)
	}
	for _, minute := range []int{0, 7, 59} {
		s.client.HDel(ctx, s.keys.traffic("x"), minuteField(hour.Unix()/60+int64(minute)))
	}
	check()
	late, err := s.TrafficMinutes(ctx, "x", hour.Add(7*time.Minute), hour.Add(7*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, late, want[7:8])
}

// An app's recorded traffic has a fixed size: a second month takes no more
// room. The figures are in docs/operations.md.
func TestTrafficSize(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	chance := rand.New(rand.NewPCG(1, 2))
	poisson := func(mean float64) int64 { return int64(max(0, mean+chance.NormFloat64()*math.Sqrt(mean)+0.5)) }
	steady := func(mean float64) func(int64) router.Sample {
		return func(int64) router.Sample {
			n := poisson(mean)
			done := max(0, n+int64(chance.NormFloat64()*2))
			return router.Sample{Requests: n, Done: done, Service: done * (40_000 + int64(chance.NormFloat64()*2_000)), InFlight: poisson(mean / 25)}
		}
	}
	wild := func(int64) router.Sample {
		return router.Sample{Requests: chance.Int64N(20_000), Done: chance.Int64N(20_000), Service: chance.Int64N(1e12), InFlight: chance.Int64N(5_000), Queued: chance.Int64N(5_000)}
	}
	apps := map[string]struct {
		second func(int64) router.Sample
		active func(minute int64) bool
		limit  int64
	}{
		"an hour a day": {steady(5), func(m int64) bool { return m/60%24 == 9 }, 25 << 10},
		"busy":          {steady(100), func(int64) bool { return true }, 640 << 10},
		"wild":          {wild, func(int64) bool { return true }, 1536 << 10},
	}
	base := time.Now().Truncate(24*time.Hour).Unix() / 60
	write := func(day int64) {
		t.Helper()
		for name, app := range apps {
			hours, rows := map[int64]block{}, make([]router.Minute, blockRows)
			p := s.client.Pipeline()
			for minute := base + day*keptMinutes; minute < base+(day+1)*keptMinutes; minute++ {
				if !app.active(minute) {
					continue
				}
				for i := range rows {
					rows[i].Sample = app.second(minute)
				}
				p.HSet(ctx, s.keys.traffic(name), minuteField(minute), encodeBlock(blockSeconds, minute, rows))
				h := hours[minute/60]
				h[minute%60] = sumUp(block(rows))
				hours[minute/60] = h
			}
			for hour, h := range hours {
				for d := range int64(30) { // each of the thirty days like this one
					p.HSet(ctx, s.keys.traffic(name), hourField(hour-24*d), encodeBlock(blockMinutes, hour-24*d, h[:]))
				}
			}
			if _, err := p.Exec(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	size := func(name string) int64 {
		t.Helper()
		n, err := s.client.MemoryUsage(ctx, s.keys.traffic(name), 0).Result()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	write(0)
	first := map[string]int64{}
	for name, app := range apps {
		first[name] = size(name)
		t.Logf("%s: %d bytes in Redis", name, first[name])
		if first[name] > app.limit {
			t.Errorf("%s takes %d bytes, more than %d", name, first[name], app.limit)
		}
	}
	write(31)
	for name := range apps {
		if again := size(name); again > first[name]+first[name]/20 {
			t.Errorf("%s grew from %d to %d bytes", name, first[name], again)
		}
	}
}

// BenchmarkRecordMinute is what a minute costs: the rates of a thousand active
// apps at two gateways are read and recorded.
func BenchmarkRecordMinute(b *testing.B) {
	s := newStore(b)
	ctx := context.Background()
	start := minuteOf()
	samples := map[string]router.Sample{}
	for range 1000 {
		samples["app-"+strings.ToLower(newIdentity())] = router.Sample{Requests: 100, Done: 99, Service: 4_000_000, InFlight: 4}
	}
	for second := range 60 {
		for _, g := range []string{"a.mabc1234", "b.mabc1234"} {
			if err := s.FlushRates(ctx, g, start.Add(time.Duration(second)*time.Second), samples); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		s.client.Del(ctx, s.keys.recorded())
		if err := s.RecordTraffic(ctx, start.Add(125*time.Second), everyApp); err != nil {
			b.Fatal(err)
		}
	}
}
