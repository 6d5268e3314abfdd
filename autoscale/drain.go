package autoscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// stopGrace is how long a container may take to end after SIGTERM.
const stopGrace = 10 * time.Second

// lowerClaim is how long a claim to lower an instance lasts.
const lowerClaim = stopGrace + 2*claimMargin

// freshClaim is how old a claim may be that is acted on without another look: a
// good deal younger than one of a gateway that the others take for dead.
const freshClaim = time.Second

// stillOurs reports whether a claim to lower an instance may be acted on. One
// that was written a while ago, because this process stood still since, may have
// been voided, and the instance may serve again.
func (c *Controller) stillOurs(ctx context.Context, in router.Instance) bool {
	if c.Now().Sub(in.Claim.Until.Add(-lowerClaim)) < freshClaim {
		return true
	}
	st, err := c.Store.Load(ctx, in.App)
	if err != nil {
		c.Log.Warn("a claim that is no longer fresh is given up", "instance", in.ID, "op", in.Claim.Op, "err", err)
		return false
	}
	p, ok := st.Instance(in.ID)
	return ok && sameClaim(*p, in)
}

// sameClaim reports whether the instance on record has the claim that in has.
func sameClaim(record, in router.Instance) bool {
	return record.Claim.Holder == in.Claim.Holder && record.Claim.Op == in.Claim.Op && record.Claim.Until.Equal(in.Claim.Until)
}

// drain takes a ready instance out of service and to its rung: it becomes
// draining in the record; every live gateway takes it out of its Table and,
// when its last request there has ended, acknowledges; only then it is claimed
// and frozen or stopped. A wake meanwhile makes it ready again, and the drain
// ends. idleSince is when the app's last request was seen.
//
// One on a node that does not answer stays in service: it could not be lowered,
// and nothing could take its place there. It leaves where its node is to be empty.
func (c *Controller) drain(app, instance string, idleSince time.Time, why string) {
	if in, ok := c.find(instance); ok && c.down(in.Node) && !c.cordoned(in.Node) {
		return
	}
	c.goFor(instance, func(ctx context.Context) {
		_, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
			in, ok := st.Instance(instance)
			if !ok || in.State != router.Ready {
				return errAbort
			}
			// The last word before it leaves: is it still not needed?
			if in.Release == st.App.Current && st.Count(st.App.Current, router.Ready) <= st.App.Policy.Min {
				return errAbort
			}
			if in.Busy(c.Now()) {
				return errAbort
			}
			in.IdleSince = idleSince
			return in.To(router.Draining, c.Now())
		})
		if err != nil {
			c.logFailure(err, "beginning a drain", instance)
			return
		}
		c.note(app, router.Event{Kind: "rung", Text: fmt.Sprintf("%s drains: %s", instance, why), Fields: map[string]string{"instance": instance}})
		c.finishDrain(ctx, app, instance)
	})
}

// resumeDrain goes on with a drain that another process or an earlier run
// began.
func (c *Controller) resumeDrain(app, instance string) {
	if in, ok := c.find(instance); ok && c.down(in.Node) {
		return // until it answers
	}
	c.goFor(instance, func(ctx context.Context) { c.finishDrain(ctx, app, instance) })
}

func (c *Controller) finishDrain(ctx context.Context, app, instance string) {
	drain := c.awaitAcks(ctx, app, instance)
	if in, ok := c.find(instance); drain == "" || ok && c.down(in.Node) {
		return
	}
	var in router.Instance
	var target router.Rung
	busy := false
	_, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
		p, ok := st.Instance(instance)
		if !ok || p.State != router.Draining || p.DrainID() != drain || p.Claim.Held(c.Gateway, c.Now()) {
			return errAbort
		}
		if busy = p.Busy(c.Now()); busy {
			// Its last requests left it with something to do.
			return p.To(router.Ready, c.Now())
		}
		target = c.strains.floor(instance, rest(st.App.Policy, c.Now().Sub(p.IdleSince), c.freezer(p.Node)))
		op := "freeze"
		if target != router.RungFrozen {
			op = "stop"
		}
		p.Claim = router.Claim{Holder: c.Gateway, Op: op, Until: c.Now().Add(lowerClaim)}
		in = *p
		return nil
	})
	if err != nil {
		c.logFailure(err, "finishing a drain", instance)
		return
	}
	_ = c.Cluster.ClearAcks(ctx, drain)
	if busy {
		return
	}
	if target == router.RungFrozen {
		if err := c.lower(ctx, in, router.Frozen); err == nil || router.CodeOf(err) == router.CodeUnavailable {
			return
		}
		// What cannot be frozen is stopped.
	}
	_ = c.lower(ctx, in, router.Stopped)
}

// awaitAcks waits until every live gateway has let go of a draining instance
// and returns the DrainID that they acknowledged; none where the drain was
// cancelled or ctx ended.
func (c *Controller) awaitAcks(ctx context.Context, app, instance string) string {
	pause := 5 * time.Millisecond
	for {
		st, ok := c.Catalog.Get(app)
		if !ok {
			return ""
		}
		in, ok := st.Instance(instance)
		if !ok || in.State != router.Draining {
			return ""
		}
		cctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		live, err := c.Cluster.Gateways(cctx)
		var acks []string
		if err == nil {
			acks, err = c.Cluster.DrainAcks(cctx, in.DrainID())
		}
		cancel()
		if err == nil && !slices.ContainsFunc(live, func(g string) bool { return !slices.Contains(acks, g) }) {
			return in.DrainID()
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ""
		case <-timer.C:
		}
		pause = min(pause*2, 500*time.Millisecond)
	}
}

// lower freezes or stops an instance that this process has claimed, and writes
// it down. Its error has been logged.
func (c *Controller) lower(ctx context.Context, in router.Instance, to router.InstanceState) error {
	octx, cancel := context.WithTimeout(ctx, stopGrace+claimMargin)
	defer cancel()
	if !c.stillOurs(octx, in) {
		return nil
	}
	var err error
	if to == router.Frozen {
		err = c.Runtime.Freeze(octx, in)
	} else {
		err = c.Runtime.Stop(octx, in, stopGrace)
	}
	if router.CodeOf(err) == router.CodeNotFound {
		c.remove(octx, in, nil)
		return nil
	}
	if err != nil {
		c.Log.Warn("instance not lowered", "instance", in.ID, "to", string(to), "err", err)
		if router.CodeOf(err) == router.CodeUnavailable {
			c.unclaim(in) // it is tried again when the node answers
			return err
		}
		if to == router.Frozen {
			return err
		}
		c.remove(octx, in, nil)
		return err
	}
	_, err = c.Store.Update(octx, in.App, func(st *router.AppState) error {
		p, ok := st.Instance(in.ID)
		if !ok || !sameClaim(*p, in) {
			return errAbort
		}
		return p.To(to, c.Now())
	})
	if err != nil {
		c.logFailure(err, "a lower rung", in.ID)
		return nil
	}
	c.note(in.App, router.Event{Kind: "rung", Text: fmt.Sprintf("%s is %s", in.ID, to), Fields: map[string]string{"instance": in.ID, "rung": string(to)}})
	return nil
}

// unclaim gives a claim to lower an instance back.
func (c *Controller) unclaim(in router.Instance) {
	ctx, cancel := context.WithTimeout(c.ctx, routeDeadline)
	defer cancel()
	_, err := c.Store.Update(ctx, in.App, func(st *router.AppState) error {
		p, ok := st.Instance(in.ID)
		if !ok || !sameClaim(*p, in) {
			return errAbort
		}
		p.Claim = router.Claim{}
		return nil
	})
	if err != nil {
		c.logFailure(err, "a claim given back", in.ID)
	}
}

// sink takes a sleeping instance down to a lower rung: stopped or absent.
func (c *Controller) sink(app, instance string, to router.Rung) {
	if in, ok := c.find(instance); ok && c.down(in.Node) {
		return // until it answers
	}
	c.goFor(instance, func(ctx context.Context) {
		var in router.Instance
		_, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
			p, ok := st.Instance(instance)
			now := c.Now()
			if !ok || now.Before(p.Claim.Until) || (p.State != router.Frozen && p.State != router.Stopped && p.State != router.Failed) {
				return errAbort
			}
			op := "stop"
			if to == router.RungAbsent {
				op = "remove"
			}
			p.Claim = router.Claim{Holder: c.Gateway, Op: op, Until: now.Add(lowerClaim)}
			in = *p
			return nil
		})
		if err != nil {
			c.logFailure(err, "going down the ladder", instance)
			return
		}
		if to == router.RungStopped {
			_ = c.lower(ctx, in, router.Stopped)
			return
		}
		rctx, cancel := context.WithTimeout(ctx, stopGrace+claimMargin)
		defer cancel()
		if !c.stillOurs(rctx, in) {
			return
		}
		c.remove(rctx, in, nil)
		c.note(app, router.Event{Kind: "rung", Text: instance + " is removed", Fields: map[string]string{"instance": instance, "rung": "absent"}})
	})
}

// freezer reports whether a node can freeze containers.
func (c *Controller) freezer(node string) bool {
	n, ok := c.Runtime.Node(node)
	return ok && n.Facts.Freeze
}

// logFailure logs an Update that failed; one that found nothing to do did not.
func (c *Controller) logFailure(err error, what, instance string) {
	if !errors.Is(err, errAbort) {
		c.Log.Warn("not written down", "what", what, "instance", instance, "err", err)
	}
}
