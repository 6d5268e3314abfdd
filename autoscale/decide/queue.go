package decide

import (
	"fmt"
	"math"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

const (
	lookEvery  = 100 * time.Millisecond // how often a queue is looked at
	askedHolds = time.Second            // how long what a queue asked for is held after it is gone
	soonGone   = 0.2                    // seconds in which a queue may empty by itself
	thawDrain  = 0.2                    // seconds in which thawed instances should empty a queue
	leastDrain = 0.5                    // and started ones, at least
	jump       = 5                      // standard deviations that make a growing queue a jump of the rate
)

// queue is how many instances the requests that wait ask for: enough to serve
// what comes in, and to empty the queue soon after they are ready.
func (m *Memory) queue(now time.Time, p router.Policy, f Facts, at Present, e estimate) (int, string) {
	if at.Queued == 0 {
		if now.Sub(m.askedAt) < askedHolds && at.Have() > 0 {
			return min(m.asked, at.Have()), "a queue was there a moment ago"
		}
		return 0, ""
	}
	each, queued := f.capacity(), float64(at.Queued)
	rate := max(e.rate, m.surge(now, at, each, e.rate))
	if spare := each*float64(at.Ready) - rate; spare > 0 && queued/spare < soonGone {
		// Gone by itself before anything helps; but nothing is taken away.
		return at.Have(), fmt.Sprintf("%d requests wait, and will be served in a moment", at.Queued)
	}
	// What frozen instances do, they do at once.
	n := at.Have()
	if at.Frozen > 0 {
		want := atLeast((rate/0.9 + queued/thawDrain) / each)
		n = max(n, min(want, n+at.Frozen))
		if want <= n {
			return n, fmt.Sprintf("%d requests wait, and %.4g/s come in", at.Queued, rate)
		}
	}
	// The rest has to be started. Until it is ready, the queue grows by what
	// those that are there or on their way do not serve.
	start := f.Create.Seconds()
	rate = max(rate, min(2*rate, rate+max(0, e.growth)*horizon(f)))
	served := each * float64(at.Ready) * start
	for _, left := range at.Starting {
		served += each * max(0, start-left.Seconds())
	}
	then := queued + rate*start - served
	if then > 0 {
		// Nobody shall wait beyond the deadline for want of instances.
		drain := min(max(leastDrain, start/8), p.QueueDeadline.D().Seconds()/2)
		n = max(n, atLeast((rate+then/drain)/each))
	}
	return n, fmt.Sprintf("%d requests wait, and %.4g/s come in: %.0f will wait when a new instance is ready", at.Queued, rate, max(0, then))
}

// surge is the rate that the growth of a queue tells of; 0 where that may be
// chance.
func (m *Memory) surge(now time.Time, at Present, each, rate float64) float64 {
	since := max(lookEvery, now.Sub(m.look.at))
	if m.look.queued == 0 || since > 5*lookEvery {
		return 0 // many at once are no rate yet
	}
	dt, noise := since.Seconds(), m.Signal.noise()
	came := float64(at.Queued-m.look.queued)/dt + each*float64(m.look.ready) // they had no pause
	if came <= rate+jump*math.Sqrt(rate/dt+noise*noise*rate*rate) {
		return 0
	}
	return came
}
