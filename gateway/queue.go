package gateway

import (
	"errors"
	"time"
)

const (
	// lookAround is how often a request that waits sees whether its deadline has
	// changed, and where it is not told, whether its client is still there.
	lookAround = time.Second
	// shortWait is how long a request waits before it asks to be told when its
	// client hangs up: most waits are over by then.
	shortWait = 5 * time.Millisecond
)

// grant ends a wait: with a place, or with an error.
type grant struct {
	up    *upstream
	call  *wakeCall // the wake that was waited for, if one was
	err   error
	again time.Duration // with an error: when another try is likely to succeed
}

// waiter is one request in the queue.
type waiter struct {
	flow       *flow // nil: it is in no queue
	prev, next *waiter
	asleep     bool      // no instance was ready when it came
	since      time.Time // earlier waits of the same request are added before
	granted    chan grant
	gone       chan struct{} // the client has hung up, most likely
	timer      *time.Timer
}

// waiter takes one from the Edge's pool; put it back.
func (e *Edge) waiter() *waiter {
	if w, ok := e.waiters.Get().(*waiter); ok {
		return w
	}
	t := time.NewTimer(time.Hour)
	t.Stop()
	// Both are buffered: whoever has news never waits.
	return &waiter{granted: make(chan grant, 1), gone: make(chan struct{}, 1), timer: t}
}

// wait queues x until it gets a place, its time is over, its client hangs up,
// or a client that has fewer requests waiting takes its place in a full queue.
// While nothing is ready, it sees to it that the app is being woken.
func (a *admission) wait(x *exchange) (*upstream, error) {
	a.mu.Lock()
	if a.gone {
		a.mu.Unlock()
		return nil, errNoApp
	}
	t := a.target.Load()
	if a.queue.size == 0 {
		// x came with an older Table, or a place has become free since it looked.
		if u := t.pick(nil); u != nil {
			a.mu.Unlock()
			return u, nil
		}
	}
	asleep := len(t.endpoints) == 0
	now, from := time.Now(), x.client()
	if a.queue.size >= t.policy.QueueDepth {
		if asleep {
			a.startWake() // or a queue of depth 0 would never wake its app
		}
		if !a.makeRoom(from, now) {
			x.again = a.untilServed(from, now)
			a.mu.Unlock()
			return nil, errQueueFull(t.app)
		}
	}
	w := a.edge.waiter()
	defer a.edge.waiters.Put(w)
	w.asleep, w.since = asleep, now.Add(-x.waited)
	if a.queue.size == 0 {
		a.pace.resume(now)
	}
	a.queue.push(w, from)
	a.waiting.Add(1)
	// A place that became free between our look and our counting ourselves in
	// was handed to nobody: look again.
	a.dispatch()
	a.ensureWake()
	forming := a.queue.size == 1 && !asleep
	a.mu.Unlock()
	if forming && a.edge.opts.Kick != nil {
		a.edge.opts.Kick(a.app)
	}
	g := a.await(x, w)
	x.waited = time.Since(w.since)
	if g.up != nil && x.hungUp() {
		// It went at the same moment. Its place is of more use to the next.
		a.vacate(g.up)
		return nil, errClientGone
	}
	if g.err != nil {
		x.again = g.again
		return nil, g.err
	}
	x.call = g.call
	return g.up, nil
}

// makeRoom sends the newest request of the client with the most waiting away,
// if that has more than the newcomer's client would have: so a client that
// floods fills the queue for itself only. a.mu is held.
func (a *admission) makeRoom(newcomer client, now time.Time) bool {
	w := a.queue.newestOfLongest()
	if w == nil || w.flow.size <= a.queue.of(newcomer)+1 {
		return false
	}
	again := a.untilServed(w.flow.client, now)
	a.remove(w)
	w.granted <- grant{err: errQueueFull(a.app), again: again}
	return true
}

// await blocks until w is granted something or leaves by itself.
func (a *admission) await(x *exchange, w *waiter) grant {
	defer w.timer.Stop()
	var watch watched
	defer func() { a.edge.hangups.unwatch(watch, w.gone) }()
	step := shortWait
	for {
		t := a.target.Load()
		left := deadline(t, w) - time.Since(w.since)
		if left <= 0 {
			return a.quit(w, errWaitedTooLong(t, w))
		}
		w.timer.Reset(min(left, step))
		select {
		case g := <-w.granted:
			return g
		case <-w.timer.C:
			if !watch.active() {
				if x.hungUp() {
					return a.quit(w, errClientGone)
				}
				watch = a.edge.hangups.watch(x.raw(), w.gone)
			}
			step = lookAround
		case <-w.gone:
			if x.hungUp() {
				return a.quit(w, errClientGone)
			}
		case <-a.edge.stopped:
			return a.quit(w, errStopping)
		}
	}
}

// deadline is how long w may wait. Who came while nothing was ready has the
// time for a wake; so has, if that is longer, who waited for a place and then
// saw the last instance go.
func deadline(t *target, w *waiter) time.Duration {
	wake, place := t.policy.WakeDeadline.D(), t.policy.QueueDeadline.D()
	switch {
	case w.asleep:
		return wake
	case len(t.endpoints) == 0:
		return max(wake, place)
	}
	return place
}

// quit takes w out of the queue. If it was granted something meanwhile, it
// takes that after all, unless nobody is there any more to be answered.
func (a *admission) quit(w *waiter, err error) grant {
	a.mu.Lock()
	queued := w.flow != nil
	var again time.Duration
	if queued {
		from := w.flow.client
		a.remove(w)
		again = a.untilServed(from, time.Now())
	}
	a.mu.Unlock()
	if queued {
		return grant{err: err, again: again}
	}
	g := <-w.granted
	if g.up != nil && errors.Is(err, errClientGone) {
		a.vacate(g.up)
		return grant{err: err}
	}
	return g
}
