package autoscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// adoptDeadline is how long an instance whose starter is gone has to answer.
const adoptDeadline = 3 * time.Second

// Reconcile makes records and containers agree, as after a crash of this
// process or of a node: what runs is adopted as it is, records without a
// container are dropped. Containers without a record are removed, unless the
// app has no instance of their release at all: then the records were lost, as
// with an older state that was restored, and what runs is taken back by its
// labels. Instances that
// somebody holds a claim on, or that this process is working on, are left to
// them, and so are those on nodes that do not answer.
func (c *Controller) Reconcile(ctx context.Context) error { return c.reconcileOn(ctx) }

// reconcileSoon reconciles what a node has; those of many nodes at once.
func (c *Controller) reconcileSoon(node string) {
	c.reconcile.nodes.add(node)
	c.reconcile.ask(c, func(ctx context.Context) {
		nodes := c.reconcile.nodes.take()
		if len(nodes) == 0 {
			return
		}
		if err := c.reconcileOn(ctx, nodes...); err != nil && ctx.Err() == nil {
			c.Log.Warn("records and containers not reconciled", "nodes", nodes, "err", err)
		}
	})
}

// reconcileOn is Reconcile of the named nodes, or of all where none is named.
func (c *Controller) reconcileOn(ctx context.Context, nodes ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	asOf := c.Now()
	list, names := c.Runtime.Containers(ctx, nodes...)
	seen := map[string]router.Container{}
	apps, answered := map[string]bool{}, map[string]bool{}
	for _, name := range names {
		answered[name] = true
	}
	for _, app := range c.ledger.appsOn(answered) {
		apps[app] = true
	}
	unknown := map[string]bool{} // apps with a container that the Catalog does not know
	for _, k := range list {
		seen[k.Instance] = k
		apps[k.App] = true
		if in, ok := c.find(k.Instance); !ok || in.App != k.App {
			unknown[k.App] = true
		}
	}
	known := map[string]bool{}
	for app := range apps {
		if !unknown[app] && c.agrees(app, asOf, answered, seen, known) {
			continue
		}
		if err := c.reconcileApp(ctx, app, asOf, answered, seen, known); err != nil {
			return err
		}
	}
	if err := c.takeBack(ctx, seen, known); err != nil {
		return err
	}
	for id, k := range seen {
		if known[id] {
			continue
		}
		in := router.Instance{ID: id, App: k.App, Release: k.Release, Node: k.Node, Container: k.ID}
		c.Log.Info("removing a container that no record knows", "instance", id, "node", k.Node)
		c.goFor(id, func(ctx context.Context) {
			rctx, cancel := context.WithTimeout(ctx, stopGrace+claimMargin)
			defer cancel()
			if err := c.Runtime.Remove(rctx, in); err != nil {
				c.Log.Warn("container not removed", "instance", id, "err", err)
			}
		})
	}
	return nil
}

// takeBack makes records, from their labels, for containers that have none, of
// releases that have no instance on record. Ids of those are added to known.
func (c *Controller) takeBack(ctx context.Context, seen map[string]router.Container, known map[string]bool) error {
	type release struct {
		app    string
		number int
	}
	lost := map[release][]router.Container{}
	for id, k := range seen {
		if !known[id] {
			r := release{k.App, k.Release}
			lost[r] = append(lost[r], k)
		}
	}
	for r, list := range lost {
		_, err := c.Store.Update(ctx, r.app, func(st *router.AppState) error {
			if _, ok := st.Release(r.number); !ok || slices.ContainsFunc(st.Instances, func(in router.Instance) bool { return in.Release == r.number }) {
				return errAbort
			}
			now := c.Now()
			for _, k := range list {
				in := router.Instance{ID: k.Instance, App: k.App, Release: k.Release, Node: k.Node, State: router.Starting, Since: now}
				st.PutInstance(in)
				adopt(st, in.ID, k, true, now)
			}
			return nil
		})
		switch {
		case errors.Is(err, errAbort):
		case err != nil:
			return fmt.Errorf("taking back containers of %s: %w", r.app, err)
		default:
			c.Log.Warn("containers had no record; taken back by their labels", "app", r.app, "release", r.number, "containers", len(list))
			for _, k := range list {
				known[k.Instance] = true
			}
		}
		if st, ok := c.Catalog.Get(r.app); ok && err == nil {
			for _, in := range st.Instances {
				if in.State == router.Starting && in.Claim.Op == "adopt" {
					c.goFor(in.ID, func(ctx context.Context) { c.adoptStarting(ctx, in) })
				}
			}
		}
	}
	return nil
}

// agrees reports whether an app's record, as the Catalog has it, is what its
// containers are, so that the store need not be asked. If so, ids of its
// instances are added to known.
func (c *Controller) agrees(app string, asOf time.Time, answered map[string]bool, seen map[string]router.Container, known map[string]bool) bool {
	st, ok := c.Catalog.Get(app)
	if !ok {
		return false
	}
	clone := st.Clone()
	for _, in := range st.Instances {
		if !c.theirs(in, asOf, answered) {
			continue
		}
		k, there := seen[in.ID]
		adopt(&clone, in.ID, k, there, c.Now())
	}
	if !slices.Equal(clone.Instances, st.Instances) {
		return false
	}
	for _, in := range st.Instances {
		known[in.ID] = true
	}
	return true
}

// theirs reports whether a record is to be made what a list of containers says:
// the list is of its node, nobody is changing the instance, and it has not
// changed since the list was made.
func (c *Controller) theirs(in router.Instance, asOf time.Time, answered map[string]bool) bool {
	return answered[in.Node] && !c.working(in.ID) && !in.Claim.Held(c.Gateway, c.Now()) && !in.Since.After(asOf)
}

// reconcileApp brings one app's records up to what its containers are. Ids of
// instances that have a record are added to known.
func (c *Controller) reconcileApp(ctx context.Context, app string, asOf time.Time, answered map[string]bool, seen map[string]router.Container, known map[string]bool) error {
	var events []router.Event
	_, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
		events = nil
		if st.Version == 0 {
			return errAbort
		}
		now := c.Now()
		for _, in := range append([]router.Instance(nil), st.Instances...) {
			known[in.ID] = true
			if !c.theirs(in, asOf, answered) {
				continue
			}
			k, there := seen[in.ID]
			text := adopt(st, in.ID, k, there, now)
			if text != "" {
				events = append(events, router.Event{At: now, Kind: "rung", Text: in.ID + " " + text})
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errAbort) {
		return fmt.Errorf("reconciling %s: %w", app, err)
	}
	if st, ok := c.Catalog.Get(app); ok {
		for _, in := range st.Instances {
			if in.State == router.Starting && in.Claim.Op == "adopt" {
				c.goFor(in.ID, func(ctx context.Context) { c.adoptStarting(ctx, in) })
			}
		}
	}
	for _, e := range events {
		c.Log.Info("reconciled", "app", app, "what", e.Text)
		c.note(app, e)
	}
	return nil
}

// adopt changes the record of an instance to what its container is and says
// what changed; empty where they agree. An exited container is kept as stopped
// and not counted as a crash: a machine that was restarted is not the app's
// fault.
func adopt(st *router.AppState, id string, k router.Container, there bool, now time.Time) string {
	in, _ := st.Instance(id)
	if !there {
		st.DropInstance(id)
		return "has no container any more"
	}
	if in.State == router.Failed {
		return "" // the ladder removes it
	}
	in.Claim = router.Claim{}
	set := func(state router.InstanceState, text string) string {
		same := in.State == state && (state == router.Stopped || in.Addr == k.Addr) && in.Container == k.ID
		if same && state == router.Ready {
			return ""
		}
		if in.IdleSince.IsZero() { // else it would have slept for ever
			in.IdleSince = now
		}
		if same {
			return ""
		}
		in.State, in.Since, in.Container, in.Addr = state, now, k.ID, k.Addr
		if state == router.Stopped {
			in.Addr = ""
		}
		return text
	}
	switch {
	case k.State == router.ContainerRunning && in.State == router.Draining:
		return ""
	case k.State == router.ContainerRunning && in.State == router.Starting:
		// Its claim ran out or its holder is gone: the tick looks whether it answers.
		in.Container, in.Addr = k.ID, k.Addr
		in.Claim = router.Claim{Op: "adopt", Until: now.Add(adoptDeadline)}
		return "was being started and is looked at"
	case k.State == router.ContainerRunning:
		return set(router.Ready, "runs and is adopted")
	case k.State == router.ContainerPaused:
		return set(router.Frozen, "is frozen and adopted")
	case k.State == router.ContainerCreated && in.State == router.Starting:
		st.App.Crash.Until = time.Time{}
		in.State, in.Reason = router.Failed, "it was never started"
		return "was created and never started"
	}
	return set(router.Stopped, "is stopped and adopted")
}

// adoptStarting looks after an instance whose starter is gone: if it answers it
// is ready, else it is removed.
func (c *Controller) adoptStarting(ctx context.Context, in router.Instance) {
	st, ok := c.Catalog.Get(in.App)
	if !ok {
		return
	}
	rel, ok := st.Release(in.Release)
	if !ok || in.Addr == "" {
		c.remove(ctx, in, nil)
		return
	}
	pctx, cancel := context.WithTimeout(ctx, adoptDeadline)
	err := probe(pctx, c.dialer(in.Node), in.Addr, rel.Run)
	cancel()
	if err == nil {
		_, err = c.settle(ctx, in.App, []*raising{{in: in, rel: *rel}}, nil)
	}
	if err != nil && ctx.Err() == nil {
		c.remove(ctx, in, nil)
	}
}
