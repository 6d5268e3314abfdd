package gateway

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// target is what the request path needs to know about one app. It is
// immutable: a change makes another one.
type target struct {
	app       string
	admission *admission
	endpoints []*upstream // the ready instances of the serving release
	limit     int64       // requests at once that one instance gets
	policy    router.Policy
	timeout   time.Duration // longest wait for the app's first byte
	crash     router.Crash
	rung      router.Rung // on which a wake would begin
	sticky    bool        // clients go on with the instance that answered them
}

// pick takes a place on an instance other than skip: the less loaded of two
// chosen at random, else any that has one. It returns nil when there is none.
// Two random choices spread load nearly as well as looking at all, and unlike
// "always the least loaded" do not send every gateway's requests to the same
// instance at once.
func (t *target) pick(skip *upstream) *upstream {
	n := len(t.endpoints)
	if n == 0 {
		return nil
	}
	if n == 1 {
		if u := t.endpoints[0]; u != skip && u.acquire(t.limit) {
			return u
		}
		return nil
	}
	i := rand.IntN(n)
	j := rand.IntN(n - 1)
	if j >= i {
		j++
	}
	a, b := t.endpoints[i], t.endpoints[j]
	if b.load() < a.load() {
		a = b
	}
	if a != skip && a.acquire(t.limit) {
		return a
	}
	for k := range n {
		if u := t.endpoints[(i+k)%n]; u != skip && u.acquire(t.limit) {
			return u
		}
	}
	return nil
}

// admission lets an app's requests in: at once where an instance has a place,
// else when it is their client's turn. It lives across Table swaps.
type admission struct {
	app    string
	edge   *Edge
	target atomic.Pointer[target] // the newest

	arrived  atomic.Int64 // requests since the last metering
	done     atomic.Int64 // answers that ended since then
	service  atomic.Int64 // microseconds that these took
	inFlight atomic.Int64 // requests that hold a place
	waiting  atomic.Int32 // size of queue, readable without mu
	metered  bool         // is on the meter's list; guarded by the meter
	quiet    bool         // had nothing to count the last time; guarded by the meter

	mu     sync.Mutex // guards what follows; taken only when somebody has to wait
	queue  queue
	call   *wakeCall // the latest wake
	waking bool      // the goroutine that wakes is running
	gone   bool      // the app was deleted
	pace   pace      // of the queue
	wakes  wakeTimes
}

// do runs serve with a place on an instance. The place is given back when serve
// returns, unless serve says that it keeps it: then it is given back by leave.
// An error means that serve was not called.
func (a *admission) do(x *exchange, serve func(*exchange)) error {
	if a.arrived.Add(1) == 1 {
		a.edge.meter.note(a)
	}
	var u *upstream
	// Those who wait go first.
	if a.waiting.Load() == 0 {
		if x.target.sticky {
			u = x.target.stuck(&x.ctx.Request.Header)
		}
		if u == nil {
			u = x.target.pick(nil)
		}
	}
	if u == nil {
		var err error
		if u, err = a.wait(x); err != nil {
			return err
		}
	}
	a.inFlight.Add(1)
	x.up, x.holding = u, true
	defer func() {
		if !x.keeps {
			x.leave()
		}
	}()
	serve(x)
	return nil
}

// move gives the place of x up for one on another instance. It reports false,
// and x has its old place, when no other instance has one.
func (a *admission) move(x *exchange) bool {
	u := a.target.Load().pick(x.up)
	if u == nil {
		return false
	}
	a.vacate(x.up)
	x.up = u
	return true
}

// vacate frees a place and hands it to the first who waits.
func (a *admission) vacate(u *upstream) {
	u.release()
	// The order matters: a waiter counts itself before it looks for a place, we
	// free the place before we look for a waiter. One of the two sees the other.
	if a.waiting.Load() > 0 {
		a.mu.Lock()
		if n := a.dispatch(); n > 0 {
			a.pace.moved(n, time.Now())
		}
		a.mu.Unlock()
	}
}

// update takes a new target in, and lets in whoever can be let in now.
func (a *admission) update(t *target) {
	old := a.target.Swap(t)
	a.mu.Lock()
	defer a.mu.Unlock()
	if old == nil || len(old.endpoints) == 0 {
		a.pace.resume(time.Now())
	}
	a.dispatch()
	a.ensureWake()
}

// end fails everybody who waits: the app was deleted.
func (a *admission) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
	a.fail(errNoApp, 0)
}

// dispatch gives places to waiters, one client after the other, and returns how
// many. a.mu is held.
func (a *admission) dispatch() (n int) {
	t := a.target.Load()
	for ; a.queue.size > 0; n++ {
		u := t.pick(nil)
		if u == nil {
			return n
		}
		w := a.queue.pop()
		a.waiting.Add(-1)
		g := grant{up: u}
		if w.asleep {
			g.call = a.call
		}
		w.granted <- g
	}
	return n
}

// fail sends everybody who waits away; again is when another try is likely to
// succeed, where err does not say. a.mu is held.
func (a *admission) fail(err error, again time.Duration) {
	for a.queue.size > 0 {
		w := a.queue.pop()
		a.waiting.Add(-1)
		w.granted <- grant{err: err, again: again}
	}
}

func (a *admission) remove(w *waiter) {
	a.queue.remove(w)
	a.waiting.Add(-1)
}

// answered counts an answer that has ended whole, at now. It must come before
// the place is given back: an app with a request in flight stays on the meter's
// list, so that nothing which is counted is left lying.
func (x *exchange) answered(now time.Time) {
	a := x.target.admission
	a.done.Add(1)
	a.service.Add(now.Sub(x.asked).Microseconds())
}

// leave gives the place of x back.
func (x *exchange) leave() {
	if !x.holding {
		return
	}
	x.holding = false
	a, u := x.target.admission, x.up
	a.inFlight.Add(-1)
	a.vacate(u)
}
