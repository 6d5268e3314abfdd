package gateway

import (
	"math"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Whoever is sent away is told when to come back: when a wake is likely to be
// over, or the queue to have come to them, by what was measured of the app.
const (
	soonest    = time.Second      // Retry-After has whole seconds
	latest     = time.Minute      // a forecast that goes further is worth nothing
	paceMemory = 10 * time.Second // how fast old figures fade
	wakeWeight = 0.3              // of the newest wake among all
)

// pace is how fast a queue moves: places that were given back and handed on,
// and the seconds in which that was, both fading with age.
type pace struct {
	places, seconds float64
	last            time.Time
}

// resume leaves out the time until now, in which nobody waited for a place.
func (p *pace) resume(now time.Time) { p.last = now }

// moved notes that n places were handed on.
func (p *pace) moved(n int, now time.Time) {
	*p = p.at(now)
	p.places += float64(n)
}

func (p pace) at(now time.Time) pace {
	dt := now.Sub(p.last).Seconds()
	if dt <= 0 || p.last.IsZero() {
		p.last = now
		return p
	}
	fade := math.Exp(-dt / paceMemory.Seconds())
	return pace{p.places * fade, p.seconds*fade + dt, now}
}

// until is how long n places take. Where not one was handed on yet, one is
// taken to be about to.
func (p pace) until(n int, now time.Time) time.Duration {
	p = p.at(now)
	return bounded(float64(n) * p.seconds / max(p.places, 1))
}

// bounded turns seconds into a Duration of an hour at most.
func bounded(seconds float64) time.Duration {
	return time.Duration(min(seconds, 3600) * float64(time.Second))
}

// wakeTimes is how long the wakes of an app took, by the rung that they began
// on. Only one goroutine at a time writes.
type wakeTimes map[router.Rung]time.Duration

// took takes a measured wake in.
func (m wakeTimes) took(from router.Rung, d time.Duration) {
	if from == router.RungReady {
		return // it was none
	}
	if old, ok := m[from]; ok {
		d = old + time.Duration(wakeWeight*float64(d-old))
	}
	m[from] = d
}

// expected is how long a wake from a rung takes; where none from there was
// seen, the longest that was; 0 where none was.
func (m wakeTimes) expected(from router.Rung) time.Duration {
	if d, ok := m[from]; ok {
		return d
	}
	longest := time.Duration(0)
	for _, d := range m {
		longest = max(longest, d)
	}
	return longest
}

// untilAwake is how long it will be until an instance is ready: 0 where one
// is. A wake that takes longer than usual is expected to take as long again as
// it has. a.mu is held.
func (a *admission) untilAwake(now time.Time) time.Duration {
	t := a.target.Load()
	if len(t.endpoints) > 0 {
		return 0
	}
	expected := a.wakes.expected(t.rung)
	if !a.waking {
		return expected
	}
	elapsed := now.Sub(a.call.began)
	if left := expected - elapsed; left > 0 {
		return left
	}
	return elapsed
}

// untilServed is when a request that a client sends from now on is likely to
// get a place: after its client's waiting ones have had their turns, each after
// one of every other client's. a.mu is held.
func (a *admission) untilServed(c client, now time.Time) time.Duration {
	q := &a.queue
	turns := min(q.size, (q.of(c)+1)*len(q.flows))
	return a.untilAwake(now) + a.pace.until(turns, now)
}

// retryAfter is what a client is told of a forecast. What is known, such as
// the end of a crash backoff, may be later than any forecast.
func retryAfter(forecast, known time.Duration) time.Duration {
	return max(min(max(forecast, soonest), latest), known)
}

// rungOf is the warmest rung that a wake of the serving release can begin on.
func rungOf(st *router.AppState) router.Rung {
	warmest := router.RungAbsent
	for i := range st.Instances {
		in := &st.Instances[i]
		switch {
		case in.Release != st.App.Current:
		case in.State == router.Frozen:
			return router.RungFrozen
		case in.State == router.Stopped:
			warmest = router.RungStopped
		}
	}
	return warmest
}
