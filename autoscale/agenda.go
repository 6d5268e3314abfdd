package autoscale

import (
	"container/heap"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/decide"
	"github.com/fluxgate/fluxgate/router"
)

// agenda says which apps a tick has to look at: those whose time has come. Of
// very many that sleep, it looks at few.
type agenda struct {
	mu   sync.Mutex
	when map[string]time.Time
	heap appointments
}

type appointment struct {
	app string
	at  time.Time
}

// put has an app looked at by a moment, at the latest; an earlier one stays.
func (a *agenda) put(app string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if was, ok := a.when[app]; ok && !at.Before(was) {
		return
	}
	if a.when == nil {
		a.when = map[string]time.Time{}
	}
	a.when[app] = at
	heap.Push(&a.heap, appointment{app, at})
}

// take is the apps whose time has come; they have no appointment any more.
func (a *agenda) take(now time.Time) map[string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	due := map[string]bool{}
	for len(a.heap) > 0 && !a.heap[0].at.After(now) {
		p := heap.Pop(&a.heap).(appointment) //nolint:forcetypeassert // nothing else is in it
		if at, ok := a.when[p.app]; ok && at.Equal(p.at) {
			due[p.app] = true
			delete(a.when, p.app)
		}
	}
	return due
}

// appointments is a heap, the earliest first. An app may be in it more than
// once; the one that counts is in the agenda's when.
type appointments []appointment

func (h appointments) Len() int           { return len(h) }
func (h appointments) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h appointments) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *appointments) Push(x any)        { *h = append(*h, x.(appointment)) } //nolint:forcetypeassert // as above

func (h *appointments) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// An app that sleeps is looked at again after a share of the time that it has
// slept, within these bounds.
const (
	soonest = time.Second
	latest  = 5 * time.Minute
)

// rests reports whether nothing has to be done for an app before somebody asks
// for it or what was learned of it is due. Nearly all of very many apps rest.
func rests(st *router.AppState) bool {
	p := st.App.Policy
	return len(st.Instances) == 0 && p.Min == 0 && p.Schedule == "" && st.App.Current > 0
}

// nextLook is when an app has to be looked at again if nothing happens before;
// false for never.
func nextLook(st *router.AppState, m *decide.Memory, now time.Time) (next time.Time, ok bool) {
	p := st.App.Policy
	if p.Min > 0 || !asleep(st) || st.App.Current == 0 {
		return now.Add(soonest), true
	}
	earlier := func(at time.Time) {
		if !ok || at.Before(next) {
			next, ok = at, true
		}
	}
	if p.Schedule != "" {
		earlier(now.Add(10 * time.Second))
	}
	if at, ok := m.Next(now, p, decide.Facts{}); ok {
		earlier(at)
	}
	for _, in := range st.Instances {
		idle := now.Sub(in.IdleSince)
		switch {
		case in.State == router.Stopped && p.RemoveAfter != router.Never:
			earlier(in.IdleSince.Add(p.RemoveAfter.D()))
		case in.State == router.Frozen && p.StopAfter == router.Auto:
			earlier(now.Add(min(max(idle/8, soonest), latest)))
		case in.State == router.Frozen && p.StopAfter != router.Never:
			earlier(in.IdleSince.Add(p.StopAfter.D()))
		}
		if now.Before(in.Claim.Until) { // somebody is at it; if he goes, it is ours
			earlier(in.Claim.Until)
		}
	}
	if ok && next.Before(now.Add(soonest)) {
		next = now.Add(soonest)
	}
	return next, ok
}
