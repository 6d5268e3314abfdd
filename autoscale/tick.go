package autoscale

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// tickDeadline bounds what a tick asks of Redis.
const tickDeadline = 3 * time.Second

// raiseTries is how often an instance is raised on another node because the one
// that was chosen turns out not to answer.
const raiseTries = 3

// tickLoop ticks until ctx ends. Only the lease holder decides; who becomes it
// first reconciles records with containers. In between two ticks the holder
// only renews its lease, and the others ask for it, so that it moves soon.
func (c *Controller) tickLoop(ctx context.Context) {
	// A little off the beat, so that gateways do not tick in step.
	ticker := time.NewTicker((c.Tick + time.Duration(rand.Int64N(int64(c.Tick)/20+1))) / 2)
	defer ticker.Stop()
	leading, between := false, false
	for {
		if leading && between {
			leading = c.renew(ctx)
		} else {
			leading = c.tick(ctx, leading)
			between = false
		}
		between = !between
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// renew keeps the lease. A Redis that does not answer is the next tick's to
// report.
func (c *Controller) renew(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, tickDeadline)
	defer cancel()
	leads, err := c.Cluster.Lead(ctx)
	c.away.Store(err != nil)
	return leads || err != nil
}

// tick is one round; it returns whether this process leads.
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
		c.history = newHistory()
		if err := c.Reconcile(ctx); err != nil {
			c.Log.Warn("records and containers not reconciled, will be tried again", "err", err)
			return false
		}
	}
	if err := c.observe(tctx); err != nil {
		c.Log.Warn("no tick: rates cannot be read; nothing scales down", "err", err)
		return true
	}
	now, nodes := c.Now(), byName(c.Runtime.Nodes())
	list := c.awake()
	for _, st := range list {
		if st.App.Current == 0 {
			c.bury(st, now)
			continue
		}
		c.govern(st, nodes, now)
	}
	c.lastTick.Store(&TickReport{Took: time.Since(began), Apps: len(list), Nodes: len(nodes)})
	return true
}

// TickReport is what the last tick was about.
type TickReport struct {
	Took  time.Duration // from asking for the lease to the last decision
	Apps  int           // that were looked at: those with instances or requests
	Nodes int
}

// LastTick is what the last tick was about; nil where another gateway decides.
func (c *Controller) LastTick() *TickReport {
	if !c.leads.Load() {
		return nil
	}
	return c.lastTick.Load()
}

// awake are the apps that a tick is about: those that live, and those that have
// had requests lately.
func (c *Controller) awake() []*router.AppState {
	list := c.Catalog.Living()
	living := make(map[string]bool, len(list))
	for _, st := range list {
		living[st.App.Name] = true
	}
	for app := range c.history.apps {
		if st, ok := c.Catalog.Get(app); ok && !living[app] {
			list = append(list, st)
		}
	}
	return list
}

// observe reads the seconds since the last tick. The current second is not
// over and is left for the next time; the one before it is read again, for a
// gateway flushes it a moment late.
func (c *Controller) observe(ctx context.Context) error {
	now := c.Now()
	longest := 60 * time.Second
	var unknown []string
	for _, st := range c.awake() {
		longest = max(longest, st.App.Policy.SlowWindow.D())
		if _, ok := c.history.active[st.App.Name]; !ok && len(st.Instances) > 0 {
			unknown = append(unknown, st.App.Name)
		}
	}
	from := now.Add(-longest)
	if c.history.upTo > 0 {
		from = time.Unix(c.history.upTo-2, 0)
	}
	rates, err := c.Signals.Rates(ctx, from, now.Add(-time.Second))
	if err != nil {
		return err
	}
	for second := from.Unix(); second < now.Unix(); second++ {
		c.history.add(second, rates[second])
	}
	c.history.trim(longest)
	if len(unknown) > 0 {
		seen, err := c.Signals.LastActive(ctx, unknown)
		if err != nil {
			return err
		}
		maps.Copy(c.history.active, seen)
	}
	return nil
}

// govern decides for one app and has it carried out.
func (c *Controller) govern(st *router.AppState, nodes map[string]router.Node, now time.Time) {
	app := st.App.Name
	o := Observation{Seconds: c.history.seconds(app, st.App.Policy.SlowWindow.D()), Idle: c.idle(st, now)}
	d := Decide(st.App.Policy, o)
	current := st.App.Current
	have := st.Count(current, router.Ready, router.Starting)
	if last, ok := c.history.last[app]; (!ok || last.Desired != d.Desired || last.Rule != d.Rule) && (have != d.Desired || ok && last.Desired != d.Desired) {
		c.noteDecision(app, d, have)
	}
	c.history.last[app] = d

	leaving := leaving(st, nodes)
	moving := 0 // serving instances on nodes that are being drained: their replacements come first
	for _, in := range st.Instances {
		if leaving[in.ID] && in.Release == current && (in.State == router.Ready || in.State == router.Starting) {
			moving++
		}
	}
	why := "its node is being drained, or its placement excludes it"
	if moving == 0 && d.Desired == have {
		candidates := func() []Candidate {
			rel, _ := st.Serving() // there is one, or nobody would ask
			return c.candidates(app, rel)
		}
		if how, ok := lopsided(st, nodes, candidates, now); ok {
			moving, why = 1, how
			c.note(app, router.Event{Kind: "decision", Text: "one instance moves to spread the app better: " + how})
		}
	}
	switch {
	case d.Desired > have-moving:
		c.raiseTo(st, d.Desired+moving, now)
	case d.Desired < st.Count(current, router.Ready) && d.Desired+moving <= st.Count(current, router.Ready):
		reason := d.Reason
		if moving > 0 {
			reason = why
		}
		for _, id := range surplus(st, d.Desired, leaving, domains(st, nodes)) {
			c.drain(app, id, now.Add(-o.Idle), reason)
		}
	default:
		for _, id := range surplus(st, st.Count(current, router.Ready), leaving, nil) {
			c.drain(app, id, now, "another release serves")
		}
	}
	for _, in := range st.Instances {
		switch {
		case in.State == router.Draining && !in.Claim.Held(c.Gateway, now):
			c.resumeDrain(app, in.ID)
		case in.State == router.Starting && now.After(in.Claim.Until):
			c.goFor(in.ID, func(ctx context.Context) { c.adoptStarting(ctx, in) })
		}
	}
	freezer := func(node string) bool { return nodes[node].Facts.Freeze }
	for id, rung := range descend(st, now, freezer, leaving) {
		c.sink(app, id, rung)
	}
}

// idle is the time since an app was last active: since its last request, or
// since its newest instance became ready where none came.
func (c *Controller) idle(st *router.AppState, now time.Time) time.Duration {
	last := c.history.active[st.App.Name]
	for _, in := range st.Instances {
		if in.State == router.Ready && in.Since.After(last) {
			last = in.Since
		}
	}
	if last.IsZero() {
		return 365 * 24 * time.Hour
	}
	return max(0, now.Sub(last))
}

// raiseTo gets more instances of the serving release ready, up to desired, each
// in its own goroutine.
func (c *Controller) raiseTo(st *router.AppState, desired int, now time.Time) {
	if now.Before(st.App.Crash.Until) {
		return
	}
	app := st.App.Name
	for i := st.Count(st.App.Current, router.Ready, router.Starting); i < desired; i++ {
		c.goFor(fmt.Sprintf("raise %s %d", app, i), func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, st.App.Policy.WakeDeadline.D())
			defer cancel()
			err := c.raiseOne(ctx, app, 0, desired)
			for tries := 1; tries < raiseTries && router.CodeOf(err) == router.CodeUnavailable && ctx.Err() == nil; tries++ {
				err = c.raiseOne(ctx, app, 0, desired) // the node was lost meanwhile, or its engine fails: another is chosen
			}
			if err != nil && ctx.Err() == nil {
				c.Log.Warn("scale-up failed", "app", app, "err", firstLine(err.Error()))
				c.note(app, router.Event{Kind: "crash", Text: "scale-up failed: " + firstLine(err.Error())})
			}
		})
	}
}

// raiseOne gets one more instance of a release (0: the serving one) ready,
// unless limit of them are ready or on their way.
func (c *Controller) raiseOne(ctx context.Context, app string, release, limit int) error {
	r, err := c.claimRaise(ctx, app, release, limit)
	if r == nil || err != nil {
		return err
	}
	defer c.letGo(r)
	if r.step == stepCancel {
		return nil
	}
	return c.carry(ctx, r)
}

// claimRaise claims one more instance of a release; nil where there are limit
// already. The caller lets it go.
func (c *Controller) claimRaise(ctx context.Context, app string, release, limit int) (*raising, error) {
	r := &raising{started: c.Now()}
	full := false
	err := c.update(ctx, app, func(st *router.AppState) error {
		number := release
		if number == 0 {
			number = st.App.Current
		}
		rel, ok := st.Release(number)
		if !ok {
			return router.Errorf(router.CodeNotFound, "%s has no release v%d", app, number)
		}
		if full = st.Count(number, router.Ready, router.Starting) >= limit; full {
			return errAbort
		}
		now := c.Now()
		s, id := planRaise(st, number, now, c.shun)
		return c.claimStep(st, r, s, id, *rel, now)
	})
	if full || err != nil {
		c.letGo(r)
	}
	if full {
		return nil, nil
	}
	return r, err
}

func (c *Controller) noteDecision(app string, d Decision, have int) {
	c.note(app, router.Event{
		Kind: "decision", Text: fmt.Sprintf("%d instances, not %d: %s", d.Desired, have, d.Reason),
		Fields: map[string]string{
			"desired": fmt.Sprint(d.Desired), "had": fmt.Sprint(have), "rule": d.Rule,
			"rps": fmt.Sprintf("%.1f", d.RPS), "concurrency": fmt.Sprintf("%.1f", d.Concurrency),
		},
	})
}
