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
		if now.Sub(m.askedAt) < askedHolds && at.staying() > 0 {
			return min(m.asked, at.staying()), "a queue was there a moment ago"
		}
		return 0, ""
	}
	if f.guessed {
		return m.unknown(now, p, f, at)
	}
	each, queued := f.capacity(), float64(at.Queued)
	rate := max(e.rate, m.surge(now, at, each, e.rate))
	if spare := each*float64(at.Ready) - rate; spare > 0 && queued/spare < soonGone {
		// Gone by itself before anything helps; but nothing is taken away.
		return at.staying(), fmt.Sprintf("%d requests wait, and will be served in a moment", at.Queued)
	}
	// What frozen instances do, they do at once.
	n := at.staying()
	if at.Frozen > 0 {
		want := atLeast((rate/0.9 + queued/thawDrain) / each)
		n = max(n, min(want, n+at.Frozen))
		if want <= n {
			return n, fmt.Sprintf("%d requests wait, and %.4g/s come in", at.Queued, rate)
		}
	}
	if left, ok := m.shrinks(now, at); ok && left < f.Create {
		return n, fmt.Sprintf("%d requests wait, but all will be served in %s, sooner than a new instance is ready", at.Queued, left.Round(time.Millisecond))
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

// shrinks tells in what time a queue will be gone that became shorter since the
// last look.
func (m *Memory) shrinks(now time.Time, at Present) (left time.Duration, ok bool) {
	gone, since := m.look.queued-at.Queued, now.Sub(m.look.at)
	if gone <= 0 || since <= 0 || since > 5*lookEvery {
		return 0, false
	}
	return time.Duration(float64(since) * float64(at.Queued) / float64(gone)), true
}

// unknown is what a queue asks for before it is known how long a request takes:
// as many instances as there are requests for, if the queue does not shrink by
// itself. An app that has no instance yet gets one: many that came at once may
// well be served by it.
func (m *Memory) unknown(now time.Time, p router.Policy, f Facts, at Present) (int, string) {
	have := at.staying()
	wait := fmt.Sprintf("%d requests wait, and it is not known yet how long one takes", at.Queued)
	left, shrinking := m.shrinks(now, at)
	if at.Ready == 0 || m.look.queued == 0 || m.look.ready == 0 || now.Sub(m.look.at) > 5*lookEvery || shrinking && left < f.Create {
		return max(have, 1), wait
	}
	target := p.TargetConcurrency
	if target == 0 {
		target = p.TargetUtilization * float64(f.Slots)
	}
	return max(have, atLeast(float64(at.Queued+at.Ready*f.Slots)/target)), wait
}
