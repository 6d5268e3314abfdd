package router

import (
	"math"
	"testing"
)

func TestSumUp(t *testing.T) {
	got := SumUp([]Sample{
		{Requests: 5, Done: 4, Service: 400, InFlight: 1},
		{},
		{Requests: 9, Done: 8, Service: 1000, InFlight: 3, Queued: 2},
		{Requests: 1, Done: 3, Service: 100, InFlight: 1, Queued: 1},
	})
	if want := (Minute{Sample: Sample{Requests: 15, Done: 15, Service: 1500, InFlight: 3, Queued: 2}, Peak: 9}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := SumUp(nil); got != (Minute{}) {
		t.Errorf("nothing sums up to %+v", got)
	}
}

// A pace keeps the service time to 0.6 %, whatever it is, and again the same.
func TestPace(t *testing.T) {
	for _, s := range []Sample{
		{},
		{Done: 1},
		{Done: 3, Service: 2},
		{Done: 1, Service: 1},
		{Done: 1, Service: 7},
		{Done: 1000, Service: 40_000_000},
		{Done: 7, Service: 123_456_789},
		{Service: 50_000},
		{Done: 1, Service: math.MaxInt64},
		{Done: math.MaxInt64, Service: math.MaxInt64},
	} {
		p := s.Pace()
		got := p.Service(s.Done)
		if !p.Valid() || (Sample{Done: s.Done, Service: got}).Pace() != p {
			t.Errorf("%+v: pace %d gives %d, whose pace is another", s, p, got)
		}
		if s.Service < s.Done {
			s.Service = 0 // less than a microsecond each
		}
		if off := math.Abs(float64(got) - float64(s.Service)); off > 0.006*float64(s.Service)+1 {
			t.Errorf("%+v: %d comes back", s, got)
		}
	}
	for _, p := range []Pace{-1, paceMost + 1} {
		if p.Valid() {
			t.Errorf("%d is valid", p)
		}
	}
}
