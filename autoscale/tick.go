package autoscale

import (
	"context"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/decide"
	"github.com/fluxgate/fluxgate/router"
)

const (
	// tickDeadline bounds what a tick asks of Redis.
	tickDeadline = 3 * time.Second
	// settleTime is how long after a second's end what gateways counted in it is
	// read: they store it right after it has ended.
	settleTime = 250 * time.Millisecond
	// mostDue is how many sleeping apps a tick wakes ahead of their time.
	mostDue = 1000
)

// tickLoop ticks until ctx ends, a little after each second's end. Only the
// lease holder decides; who becomes it first reconciles records with
// containers.
func (c *Controller) tickLoop(ctx context.Context) {
	leading, kept := false, time.Now()
	for {
		now := time.Now()
		timer := time.NewTimer(now.Truncate(c.Tick).Add(c.Tick + settleTime).Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		leading = c.tick(ctx, leading)
		if time.Since(kept) < keepEvery {
			continue
		}
		kept = time.Now()
		if leading {
			c.goFor("memories", c.keepMinds)
		} else {
			c.minds.clear() // the holder learns
		}
	}
}

// tick is one round; it returns whether this process leads. Beside what it
// finds to do, it asks Redis for the lease, the gateways, the rates, the apps
// that are due, and what was kept of apps that it does not know yet.
func (c *Controller) tick(ctx context.Context, led bool) bool {
	began := time.Now()
	tctx, cancel := context.WithTimeout(ctx, tickDeadline)
	defer cancel()
	leads, err := c.Cluster.Lead(tctx)
	c.away.Store(err != nil)
	if err != nil {
		if ctx.Err() == nil {
			c.Log.Warn("no tick: Redis does not answer; what runs goes on, nothing scales down", "err", err)
		}
		c.leads.Store(false)
		return false
	}
	c.saveUnsaved(tctx)
	c.voidOwn(tctx)
	c.leads.Store(leads)
	if !leads {
		return false
	}
	c.voidClaims(tctx)
	c.abandons.ask(c, c.abandonLost)
	if !led {
		c.minds.clear()
		c.folded = 0
		if err := c.Reconcile(ctx); err != nil {
			c.Log.Warn("records and containers not reconciled, will be tried again", "err", err)
			return false
		}
		for _, st := range c.Catalog.Living() {
			c.agenda.put(st.App.Name, c.Now())
		}
	}
	now, nodes := c.Now(), c.Runtime.Nodes()
	c.watchCordons(nodes, now)
	apps := c.agenda.take(now)
	if err := c.observe(tctx, now, apps); err != nil {
		c.Log.Warn("no tick: rates cannot be read; nothing scales down", "err", err)
		for app := range apps {
			c.agenda.put(app, now)
		}
		return true
	}
	for app := range apps {
		st, ok := c.Catalog.Get(app)
		switch {
		case !ok:
		case st.App.Current == 0:
			c.bury(st, now)
			c.agenda.put(app, now.Add(soonest))
		default:
			c.govern(st, now)
		}
	}
	if c.Machines != nil {
		c.relief.ask(c, c.lookAtNodes)
	}
	c.lastTick.Store(&TickReport{Took: time.Since(began), Apps: len(apps), Nodes: len(nodes)})
	return true
}

// TickReport is what the last tick was about.
type TickReport struct {
	Took  time.Duration // from asking for the lease to the last decision
	Apps  int           // that were looked at: those that run something, had requests, or whose time had come
	Nodes int
}

// LastTick is what the last tick was about; nil where another gateway decides.
func (c *Controller) LastTick() *TickReport {
	if !c.leads.Load() {
		return nil
	}
	return c.lastTick.Load()
}

// watchCordons has the apps of nodes looked at that have come to be drained, or
// not to be any more.
func (c *Controller) watchCordons(nodes []*router.Node, now time.Time) {
	changed := map[string]bool{}
	for _, n := range nodes {
		if c.cordons[n.Name] != n.Cordoned {
			changed[n.Name] = true
		}
	}
	if len(changed) == 0 {
		return
	}
	c.cordons = map[string]bool{}
	for _, n := range nodes {
		c.cordons[n.Name] = n.Cordoned
	}
	for _, app := range c.ledger.appsOn(changed) {
		c.agenda.put(app, now)
	}
}

// observe takes in the seconds since the last tick, and adds to apps those that
// had requests in them, and those that are due. The second that is not over is
// left for the next time; the one read last is read again, for a gateway may
// have been late with it.
func (c *Controller) observe(ctx context.Context, now time.Time, apps map[string]bool) error {
	last := now.Add(-time.Second - settleTime + 10*time.Millisecond).Unix() // of those that are complete
	first := c.folded
	if first == 0 {
		first = last - 60
	}
	rates, err := c.Signals.Rates(ctx, time.Unix(first, 0), time.Unix(last, 0))
	if err != nil {
		return err
	}
	for _, seconds := range rates {
		for app := range seconds {
			apps[app] = true
		}
	}
	if c.Memories != nil {
		due, err := c.Memories.Due(ctx, now, mostDue)
		if err != nil {
			return err
		}
		for _, app := range due {
			apps[app] = true
			k := c.minds.open(app)
			k.mu.Lock()
			k.fresh = true // so that it is kept when it is due next
			k.mu.Unlock()
		}
	}
	if err := c.recall(ctx, apps); err != nil {
		return err
	}
	for app := range apps {
		if st, ok := c.Catalog.Get(app); ok {
			c.fold(st, rates, first, last)
		}
	}
	c.folded = max(c.folded, last)
	return nil
}

// fold takes seconds into an app's memory.
func (c *Controller) fold(st *router.AppState, rates map[int64]map[string]router.Sample, first, last int64) {
	app, p := st.App.Name, st.App.Policy
	k := c.minds.open(app)
	k.mu.Lock()
	defer k.mu.Unlock()
	running := st.Count(st.App.Current, router.Ready, router.Starting)
	for second := first; second <= last; second++ {
		s, ok := rates[second][app]
		if !ok && second < last { // those without requests may be left out
			continue
		}
		if p.FreezeSockets && s.Requests == 0 {
			s.InFlight = 0
		}
		k.open, k.openAt = s.InFlight+s.Queued, time.Unix(second+1, 0)
		if s.Requests > 0 || s.InFlight > 0 || s.Queued > 0 {
			if end := time.Unix(second+1, 0); end.After(k.active) {
				k.active = end
			}
			k.fresh = true
		}
		k.memory.Observe(decide.Second{
			Unix: second, Requests: s.Requests, Done: s.Done, Service: time.Duration(s.Service) * time.Microsecond,
			InFlight: s.InFlight, Queued: s.Queued, Running: running,
		}, p, decide.Facts{})
	}
}
