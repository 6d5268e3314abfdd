package gateway

import (
	"context"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Waker brings an app to at least one ready instance.
//
// When Wake returns nil, the Catalog that the Edge reads has the ready
// instance. It may be called for different apps at once; for one app the Edge
// makes one call at a time, with a deadline. A *router.Error with
// CodeUnavailable and RetryAfter tells clients when to come back.
type Waker interface {
	Wake(ctx context.Context, app string) (router.Wake, error)
}

// A wake that succeeded and still left nothing ready (the instance died at
// once, or was taken out again) is repeated after a pause that grows.
const (
	rewakeFirst = 10 * time.Millisecond
	rewakeMost  = time.Second
)

// phasesPatience is how long an answer is held back for the phases of the wake
// that it waited for.
const phasesPatience = 2 * time.Millisecond

// wakeCall is one wake that requests wait for.
type wakeCall struct {
	began time.Time
	done  chan struct{} // closed when wake is set, or when the wake failed
	wake  router.Wake
}

// ensureWake starts the goroutine that wakes the app if somebody waits and
// nothing is ready. a.mu is held.
func (a *admission) ensureWake() {
	if a.queue.size > 0 && len(a.target.Load().endpoints) == 0 {
		a.startWake()
	}
}

// startWake starts the goroutine that wakes the app, unless it runs. a.mu is
// held.
func (a *admission) startWake() {
	if a.waking || a.gone {
		return
	}
	a.waking = true
	a.call = &wakeCall{began: time.Now(), done: make(chan struct{})}
	first := a.call
	if !a.edge.spawn(func() { a.wakeAll(first) }) {
		a.waking = false
		a.fail(errStopping, 0)
	}
}

// rescue wakes the app although nobody waits for that: requests are in an
// instance that was put to sleep.
func (a *admission) rescue() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.startWake()
}

// wakeAll calls Wake until nobody waits for it any more.
func (a *admission) wakeAll(call *wakeCall) {
	pause := rewakeFirst
	for {
		limit := a.target.Load().policy.WakeDeadline.D()
		ctx, cancel := context.WithTimeout(a.edge.life, limit)
		wake, err := a.edge.opts.Waker.Wake(ctx, a.app)
		timedOut := err != nil && ctx.Err() != nil
		cancel()
		if err == nil {
			call.wake = wake
		}
		close(call.done)

		a.mu.Lock()
		now := time.Now()
		if err == nil {
			if a.wakes == nil {
				a.wakes = wakeTimes{}
			}
			a.wakes.took(wake.From, wake.Took)
		}
		a.dispatch()
		if asleep := len(a.target.Load().endpoints) == 0; err != nil && asleep {
			if timedOut {
				// Who came later than this wake began still has time; their wait is
				// not over because another's is.
				a.failBefore(call.began, limit, a.untilAwake(now))
			} else {
				// The next try may fail as this one did, no sooner.
				a.fail(err, max(a.wakes.expected(a.target.Load().rung), now.Sub(call.began)))
			}
		}
		if a.queue.size == 0 || len(a.target.Load().endpoints) > 0 || a.gone || a.edge.life.Err() != nil {
			a.waking = false
			a.mu.Unlock()
			break
		}
		call = &wakeCall{began: time.Now(), done: make(chan struct{})}
		a.call = call
		a.mu.Unlock()

		select {
		case <-time.After(pause):
		case <-a.edge.life.Done():
		}
		pause = min(2*pause, rewakeMost)
	}
	if err := a.edge.life.Err(); err != nil {
		a.mu.Lock()
		a.fail(errStopping, 0)
		a.mu.Unlock()
	}
}

// failBefore sends those away whose time is over: who has waited since began or
// longer. a.mu is held.
func (a *admission) failBefore(began time.Time, limit, again time.Duration) {
	a.queue.each(func(w *waiter) {
		if w.asleep && !w.since.After(began) {
			a.remove(w)
			w.granted <- grant{err: errAsleepTooLong(a.app, limit), again: again}
		}
	})
}

// waitedFor is the wake that ended a request's wait. The place is handed out
// as soon as the instance is ready, which is a moment before Wake returns with
// its phases: by the time that the app has answered they are nearly always
// there, and are otherwise not worth waiting long for.
func (c *wakeCall) waitedFor() (router.Wake, bool) {
	select {
	case <-c.done:
		return c.wake, true
	default:
	}
	t := time.NewTimer(phasesPatience)
	defer t.Stop()
	select {
	case <-c.done:
		return c.wake, true
	case <-t.C:
		return router.Wake{}, false
	}
}
