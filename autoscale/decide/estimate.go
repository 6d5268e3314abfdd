package decide

import (
	"fmt"
	"math"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// How many standard deviations of the load are kept free: what is comfortable,
// and what is just enough.
const (
	comfort = 2.0
	enough  = 1.0
)

// estimate is what the traffic there is needs.
type estimate struct {
	rate        float64 // requests/s
	growth      float64 // requests/s each second
	comfortable int     // instances
	least       int     // instances that are just enough
	reason      string
}

// horizon is how far ahead it matters what comes, in seconds: what is started
// now is there then.
func horizon(f Facts) float64 { return f.Create.Seconds() + 1 }

// stale is after how many seconds without a word what was measured says nothing
// of now.
const stale = 5

func (m *Memory) estimate(second int64, p router.Policy, f Facts) estimate {
	s := &m.Signal
	if second-s.Second > stale {
		return estimate{}
	}
	window := int64(p.FastWindow.D() / time.Second)
	e := estimate{rate: s.level(window)}
	h := horizon(f)
	e.growth = s.growth(h)
	inFlight := float64(min(m.inFlight[0], m.inFlight[1])) // what only one look saw may be gone
	count := func(sigmas, utilization float64) int {
		n := instances(p, f, e.rate, inFlight, s.noise(), sigmas, utilization)
		if n == 1 && s.at(s.Second) == 0 && inFlight == 0 {
			return 0 // the last request is a second ago
		}
		if e.growth > 0 && n > 0 {
			n = max(n, instances(p, f, min(e.rate+e.growth*h, 2*e.rate), inFlight, s.noise(), sigmas, utilization))
		}
		return n
	}
	e.comfortable = count(comfort, p.TargetUtilization)
	e.least = min(e.comfortable, count(enough, (1+2*p.TargetUtilization)/3))
	e.reason = fmt.Sprintf("%.4g requests/s of %s each", e.rate, f.Service.Round(10*time.Microsecond))
	if inFlight > e.rate*f.Service.Seconds() {
		e.reason = fmt.Sprintf("%g requests at once", inFlight)
	}
	if e.growth > 0 {
		e.reason += fmt.Sprintf(", growing by %.3g/s each second", e.growth)
	}
	return e
}

// instances is how many a rate needs.
func instances(p router.Policy, f Facts, rate, inFlight, noise, sigmas, utilization float64) int {
	load := max(rate*f.Service.Seconds(), inFlight)
	if load <= 0 {
		return 0
	}
	n := max(1, atLeast(slots(load, noise, sigmas, utilization)/float64(f.Slots)))
	if p.TargetRPS > 0 {
		n = max(n, atLeast(rate/p.TargetRPS))
	}
	if p.TargetConcurrency > 0 {
		n = max(n, atLeast(load/p.TargetConcurrency))
	}
	return n
}

// slots is how many slots a load needs. One slot's load varies by chance as much
// as it is; many even each other out, so that they may be busier: the
// square-root staffing rule (Halfin and Whitt, Heavy-traffic limits for queues
// with many exponential servers, Operations Research 29, 1981). Noise beyond
// chance does not even out.
func slots(load, noise, sigmas, utilization float64) float64 {
	return max(min(load/utilization, load+sigmas*math.Sqrt(load)), load*(1+sigmas*noise))
}
