package router

import "math"

// Minute is a minute of an app's traffic, over all gateways.
type Minute struct {
	Sample       // requests, answers and service time of the whole minute; in flight and queued at their most
	Peak   int64 // the most requests that came in one of its seconds
}

// SumUp makes a minute of its seconds.
func SumUp(seconds []Sample) Minute {
	var m Minute
	for _, s := range seconds {
		m.Requests += s.Requests
		m.Done += s.Done
		m.Service += s.Service
		m.InFlight = max(m.InFlight, s.InFlight)
		m.Queued = max(m.Queued, s.Queued)
		m.Peak = max(m.Peak, s.Requests)
	}
	return m
}

// Pace is a mean service time in steps of 1.1 %, which is what recorded traffic
// keeps of it. 0 is none, or less than a microsecond.
type Pace int64

const (
	paceSteps = 64                     // to twice the time
	paceMost  = Pace(63*paceSteps + 1) // no Sample has a longer one
)

// Pace is the mean service time of what was done.
func (s Sample) Pace() Pace {
	mean := float64(s.Service) / float64(max(s.Done, 1))
	if mean < 1 {
		return 0
	}
	return 1 + Pace(math.Round(paceSteps*math.Log2(mean)))
}

// Valid reports whether a Sample can have this Pace.
func (p Pace) Valid() bool { return p >= 0 && p <= paceMost }

// Service is the time that done requests take at this pace, in microseconds: it
// is within 0.6 % of what the pace was made from, or within a microsecond.
func (p Pace) Service(done int64) int64 {
	if p <= 0 {
		return 0
	}
	total := math.Exp2(float64(p-1)/paceSteps) * float64(max(done, 1))
	if total >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(math.Round(total))
}
