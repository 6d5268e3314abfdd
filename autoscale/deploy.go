package autoscale

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// routeDeadline bounds the write that switches the route, and what undoes a
// deploy: both go on although the caller has gone.
const routeDeadline = 10 * time.Second

// maxInstances is more than any policy allows.
const maxInstances = 1 << 30

// Deploy makes a release and, once an instance of it is healthy, routes the app
// to it in one atomic write together with its domains, policy and secrets. If
// no instance gets healthy, the app stays exactly as it was (a new app does not
// come to be) and the error holds the container's last lines. The old release's
// instances finish their requests and are then frozen, for a rollback.
//
// Errors: CodeInvalid (policy), CodeConflict (a domain of another app),
// CodeFailed (the app did not get healthy), CodeExhausted, CodeUnavailable.
func (c *Controller) Deploy(ctx context.Context, d router.Deploy, progress func(router.DeployStep)) (router.AppState, error) {
	progress(router.DeployStep{Name: "store", Text: "storing the release"})
	number := 0
	_, err := c.Store.Update(ctx, d.App, func(st *router.AppState) error {
		now := c.Now()
		if st.Version == 0 {
			st.App.Name, st.App.Owner, st.App.Created, st.App.Policy = d.App, d.By, now, router.DefaultPolicy()
		}
		if _, bad := st.App.Policy.With(d.Scale, "scale."); len(bad) > 0 {
			return router.Invalid("the policy", bad)
		}
		rel := d.Release
		rel.By, rel.Created = d.By, now
		rel.Secrets = mergeSecrets(st.App.Secrets, d.Secrets)
		number = st.AddRelease(rel)
		return nil
	})
	if err != nil {
		return router.AppState{}, err
	}
	return c.route(ctx, d.App, number, d.Release.Note, progress, func(st *router.AppState) error {
		policy, bad := st.App.Policy.With(d.Scale, "scale.")
		if len(bad) > 0 {
			return router.Invalid("the policy", bad)
		}
		st.App.SetPolicy(policy, d.By, c.Now())
		if d.Domains != nil {
			st.App.Domains = d.Domains
		}
		st.App.Secrets = mergeSecrets(st.App.Secrets, d.Secrets)
		return nil
	})
}

// Rollback routes an app to an earlier release; 0 is the one that served before
// the current one. Frozen instances of it are thawed rather than started.
func (c *Controller) Rollback(ctx context.Context, app string, number int, by string, progress func(router.DeployStep)) (router.AppState, error) {
	st, err := c.Store.Load(ctx, app)
	if err != nil {
		return router.AppState{}, err
	}
	if number == 0 {
		for _, r := range st.Releases {
			if r.Number < st.App.Current && r.Failed == "" {
				number = r.Number
			}
		}
		if number == 0 {
			return router.AppState{}, router.Errorf(router.CodeNotFound, "%s has no earlier release to go back to", app)
		}
	}
	rel, ok := st.Release(number)
	switch {
	case !ok:
		return router.AppState{}, router.Errorf(router.CodeNotFound, "%s has no release v%d; `fluxgate releases %s` lists them", app, number, app)
	case rel.Failed != "":
		return router.AppState{}, router.Errorf(router.CodeConflict, "v%d of %s never got healthy: %s", number, app, firstLine(rel.Failed))
	case number == st.App.Current:
		return router.AppState{}, router.Errorf(router.CodeConflict, "v%d of %s is already serving", number, app)
	}
	return c.route(ctx, app, number, "rollback by "+by, progress, nil)
}

// route gets instances of a release to answer, then makes it the serving one.
// more is done in the same write.
func (c *Controller) route(ctx context.Context, app string, number int, note string, progress func(router.DeployStep), more func(*router.AppState) error) (router.AppState, error) {
	started := c.Now()
	first, err := c.raiseCandidate(ctx, app, number, progress)
	if first != nil {
		defer c.letGo(first)
	}
	if err != nil {
		return router.AppState{}, c.undo(ctx, app, number, first, err)
	}
	progress(router.DeployStep{Name: "route", Text: fmt.Sprintf("letting v%d serve", number)})
	raised := append(c.matchOld(ctx, app, number), first)
	defer func() {
		for _, r := range raised {
			c.letGo(r)
		}
	}()

	// From here on the deploy completes although the caller may be gone.
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), routeDeadline)
	defer cancel()
	old := 0
	st, err := c.settle(rctx, app, raised, func(st *router.AppState) error {
		old = st.App.Current
		st.App.Current, st.App.Crash = number, router.Crash{}
		if more != nil {
			return more(st)
		}
		return nil
	})
	if err != nil {
		return router.AppState{}, c.undo(ctx, app, number, first, err)
	}
	what := fmt.Sprintf("v%d serves", number)
	if old != 0 {
		what += fmt.Sprintf(" instead of v%d", old)
	}
	c.note(app, router.Event{
		Kind: "deploy", Text: fmt.Sprintf("%s after %s (%s)", what, c.Now().Sub(started).Round(time.Millisecond), note),
		Fields: map[string]string{"release": fmt.Sprint(number), "before": fmt.Sprint(old)}, Phases: first.phases,
	})
	for _, id := range surplus(&st, st.Count(number, router.Ready), nil, nil, c.Now()) {
		c.drain(app, id, c.Now(), fmt.Sprintf("v%d serves", number))
	}
	c.pruneImages()
	c.prefetch(&st)
	return st, nil
}

// raiseCandidate gets the first instance of a release to answer. It is not
// ready yet: that comes together with the switch of the route. Where a node does
// not answer, another is tried.
func (c *Controller) raiseCandidate(ctx context.Context, app string, number int, progress func(router.DeployStep)) (*raising, error) {
	for {
		r, err := c.claimRaise(ctx, app, number, maxInstances)
		if router.CodeOf(err) == router.CodeExhausted && c.makePlace(ctx, app, number) {
			r, err = c.claimRaise(ctx, app, number, maxInstances)
		}
		if err != nil {
			return nil, err // r is let go
		}
		st, ok := c.Catalog.Get(app)
		if !ok {
			return r, router.Errorf(router.CodeConflict, "%s was removed meanwhile", app)
		}
		progress(router.DeployStep{Name: "start", Text: fmt.Sprintf("starting v%d", number)})
		if r.step == stepCancel {
			return r, nil
		}
		dctx, cancel := context.WithTimeout(ctx, st.App.Policy.WakeDeadline.D())
		r.probing = func() {
			progress(router.DeployStep{Name: "probe", Text: fmt.Sprintf("waiting until v%d answers", number)})
		}
		err = c.bring(dctx, r)
		over := dctx.Err() != nil
		cancel()
		if router.CodeOf(err) != router.CodeUnavailable || over || !c.elsewhere(r.in.Node) {
			return r, err
		}
		c.leave(ctx, r, err)
		c.letGo(r)
	}
}

// matchOld gets as many further instances of the new release to answer as the
// old one has, so that the switch takes no capacity away under load. What fails
// here is left to the ticks.
func (c *Controller) matchOld(ctx context.Context, app string, number int) []*raising {
	st, ok := c.Catalog.Get(app)
	if !ok || st.App.Current == number {
		return nil
	}
	want := min(max(st.Count(st.App.Current, router.Ready), st.App.Policy.Min), st.App.Policy.Max)
	ctx, cancel := context.WithTimeout(ctx, st.App.Policy.WakeDeadline.D())
	defer cancel()
	results := make(chan *raising, max(want, 1))
	for i := 1; i < want; i++ {
		c.group.Go(func() { results <- c.raiseAlong(ctx, app, number, want) })
	}
	var raised []*raising
	for i := 1; i < want; i++ {
		if r := <-results; r != nil {
			raised = append(raised, r)
		}
	}
	return raised
}

// raiseAlong gets one further instance of a release to answer; nil where that
// failed.
func (c *Controller) raiseAlong(ctx context.Context, app string, number, limit int) *raising {
	r, err := c.claimRaise(ctx, app, number, limit)
	if r == nil {
		return nil
	}
	if err == nil && r.step != stepCancel {
		if err = c.bring(ctx, r); err != nil {
			err = c.giveUp(ctx, r, err)
		}
	}
	if err != nil {
		c.letGo(r)
		c.Log.Warn("the new release has fewer instances than the old one for now", "app", app, "err", firstLine(err.Error()))
		return nil
	}
	return r
}

// undo takes back a deploy that failed: its containers and records go, the
// release is marked failed, and an app that has nothing else is removed. It
// returns what to tell: cause, what serves now, and the container's last lines.
func (c *Controller) undo(ctx context.Context, app string, number int, first *raising, cause error) error {
	uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*routeDeadline)
	defer cancel()
	serving, told := 0, cause
	if first != nil && router.CodeOf(cause) != router.CodeUnavailable {
		told = c.withTail(uctx, first.in, cause)
	}
	if st, ok := c.Catalog.Get(app); ok && st.App.Current != number {
		serving = st.App.Current
		for _, in := range st.Instances {
			if in.Release == number && in.State != router.Frozen && in.State != router.Stopped {
				c.remove(uctx, in, nil)
			}
		}
	}
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), routeDeadline) // a node that hangs may have used up the other
	defer cancel()
	_, err := c.Store.Update(wctx, app, func(st *router.AppState) error {
		if st.Version == 0 || st.App.Current == number {
			return errAbort
		}
		// A release that served before is not made worse by a rollback to it
		// that failed.
		if rel, ok := st.Release(number); ok && (first == nil || first.step == stepCreate) && number > st.App.Current {
			rel.Failed = cause.Error()
		}
		st.Deleted = st.App.Current == 0
		return nil
	})
	if err != nil && !errors.Is(err, errAbort) {
		c.Log.Warn("failed deploy not cleaned up", "app", app, "release", number, "err", err)
	}
	c.note(app, router.Event{Kind: "deploy", Text: fmt.Sprintf("v%d was not deployed: %s", number, firstLine(cause.Error()))})

	still := "nothing serves yet"
	if serving != 0 {
		still = fmt.Sprintf("v%d goes on serving", serving)
	}
	code := router.CodeOf(cause)
	if errors.Is(cause, context.DeadlineExceeded) {
		code = router.CodeFailed
	}
	return router.Errorf(code, "v%d of %s did not come up, %s: %w", number, app, still, told)
}

// Delete removes an app: no new request is taken, those in flight end, then its
// containers and its record go.
func (c *Controller) Delete(ctx context.Context, app string) error {
	st, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
		if st.Version == 0 {
			return router.Errorf(router.CodeNotFound, "there is no app %q; `fluxgate apps` lists them", app)
		}
		st.App.Current = 0
		for i := range st.Instances {
			in := &st.Instances[i]
			if in.State == router.Ready {
				if err := in.To(router.Draining, c.Now()); err != nil {
					return err
				}
			}
			in.Claim = router.Claim{Holder: c.Gateway, Op: "remove", Until: c.Now().Add(stopGrace + 2*claimMargin)}
		}
		return nil
	})
	if err != nil {
		return err
	}
	dctx, cancel := context.WithTimeout(ctx, stopGrace)
	for _, in := range st.Instances {
		if in.State == router.Draining {
			c.awaitAcks(dctx, app, in.ID)
		}
	}
	cancel()
	for _, in := range st.Instances {
		if err := c.Runtime.Remove(ctx, in); err != nil {
			return router.Errorf(router.CodeUnavailable, "a container of %s could not be removed; try again: %w", app, err)
		}
	}
	_, err = c.Store.Update(ctx, app, func(st *router.AppState) error {
		if st.Version == 0 {
			return errAbort
		}
		st.Deleted = true
		return nil
	})
	if err != nil && !errors.Is(err, errAbort) {
		return err
	}
	if err := c.Runtime.DropLogs(app); err != nil {
		c.Log.Warn("logs of a removed app are left", "app", app, "err", err)
	}
	c.pruneImages()
	return nil
}

// abandonedAfter is how long after the deadline of its first start an app that
// does not serve counts as left behind.
const abandonedAfter = time.Minute

// bury removes what a gateway that was killed left of an app's first push, or
// of its removal: an app without a serving release that nobody works on.
func (c *Controller) bury(st *router.AppState, now time.Time) {
	for _, rel := range st.Releases {
		if now.Sub(rel.Created) < st.App.Policy.WakeDeadline.D()+abandonedAfter {
			return
		}
	}
	for _, in := range st.Instances {
		if c.working(in.ID) || now.Before(in.Claim.Until) {
			return
		}
	}
	app := st.App.Name
	c.goFor("bury "+app, func(ctx context.Context) {
		bctx, cancel := context.WithTimeout(ctx, 2*routeDeadline)
		defer cancel()
		c.Log.Info("removing an app that never came to serve", "app", app)
		if err := c.Delete(bctx, app); err != nil && router.CodeOf(err) != router.CodeNotFound && ctx.Err() == nil {
			c.Log.Warn("an app that never came to serve is left", "app", app, "err", err)
		}
	})
}

// prunePerNode is the least time between two prunings, for each node: with very
// many nodes not every deploy can have all of them asked.
const prunePerNode = 50 * time.Millisecond

// pruneImages removes the images that no release names any more, in the
// background; for the deploys of a while at once.
func (c *Controller) pruneImages() {
	c.prune.ask(c, func(ctx context.Context) {
		defer func() {
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(len(c.Runtime.Nodes())) * prunePerNode):
			}
		}()
		var keep []string
		for _, st := range c.Catalog.All() {
			for _, rel := range st.Releases {
				keep = append(keep, rel.Image)
			}
		}
		pctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := c.Runtime.PruneImages(pctx, keep); err != nil && ctx.Err() == nil {
			c.Log.Warn("images that nobody needs are left", "err", err)
		}
	})
}

// mergeSecrets is base with changes; a nil value removes.
func mergeSecrets(base map[string]router.Secret, changes map[string]*router.Secret) map[string]router.Secret {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]router.Secret{}
	}
	for k, v := range changes {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = *v
		}
	}
	return out
}
