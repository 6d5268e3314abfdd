package gateway

import (
	"errors"
	"sync"
	"time"
)

// lookAround is how often a request that waits sees whether its client is
// still there.
const lookAround = time.Second

// grant ends a wait: with a place, or with an error.
type grant struct {
	up   *upstream
	call *wakeCall // the wake that was waited for, if one was
	err  error
}

// waiter is one request in the queue.
type waiter struct {
	prev, next *waiter
	queued     bool
	asleep     bool // no instance was ready when it came
	since      time.Time
	granted    chan grant // buffered: whoever grants never waits
	timer      *time.Timer
}

var waiters = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &waiter{granted: make(chan grant, 1), timer: t}
}}

// queue is a first-in-first-out list from which anybody can leave at any time.
type queue struct {
	first, last *waiter
	size        int
}

func (q *queue) push(w *waiter) {
	w.prev, w.next, w.queued = q.last, nil, true
	if q.last != nil {
		q.last.next = w
	} else {
		q.first = w
	}
	q.last = w
	q.size++
}

func (q *queue) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.last = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	q.size--
}

// wait queues x until it gets a place, its time is over, or its client hangs
// up. While nothing is ready, it sees to it that the app is being woken.
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
	if a.queue.size >= t.policy.QueueDepth {
		if asleep {
			a.startWake() // or a queue of depth 0 would never wake its app
		}
		a.mu.Unlock()
		return nil, errQueueFull(t.app)
	}
	w := waiters.Get().(*waiter)
	defer waiters.Put(w)
	w.asleep, w.since = asleep, time.Now()
	a.queue.push(w)
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
	x.waited += time.Since(w.since)
	if g.err != nil {
		return nil, g.err
	}
	x.call = g.call
	return g.up, nil
}

// await blocks until w is granted something or leaves by itself.
func (a *admission) await(x *exchange, w *waiter) grant {
	defer w.timer.Stop()
	for {
		t := a.target.Load()
		left := deadline(t, w) - time.Since(w.since)
		if left <= 0 {
			return a.quit(w, errWaitedTooLong(t, w))
		}
		w.timer.Reset(min(left, lookAround))
		select {
		case g := <-w.granted:
			return g
		case <-w.timer.C:
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

// quit takes w out of the queue. If it was granted a place meanwhile, it takes
// it after all, unless nobody is there any more to be answered.
func (a *admission) quit(w *waiter, err error) grant {
	a.mu.Lock()
	queued := w.queued
	if queued {
		a.remove(w)
	}
	a.mu.Unlock()
	if queued {
		return grant{err: err}
	}
	g := <-w.granted
	if g.up != nil && errors.Is(err, errClientGone) {
		a.vacate(g.up)
		return grant{err: err}
	}
	return g
}
