package autoscale

import (
	"context"
	"errors"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// unsaved is an instance that came up or died while Redis was away.
type unsaved struct {
	in    router.Instance
	state router.InstanceState
}

const (
	// claimPatience is how long a wake waits for the store before it does without.
	claimPatience = 250 * time.Millisecond
	// lateClaim is how long the store's answer is waited for after that.
	lateClaim = 15 * time.Second
)

// claimSoon asks the store for a claim. Where the answer takes too long, or the
// store was found not to answer, a sleeping instance is woken without one; the
// late answer is then seen to by carryOffline.
func (c *Controller) claimSoon(ctx context.Context, app string, offline bool) claimed {
	if !offline {
		return c.claimOnce(ctx, app)
	}
	if c.away.Load() {
		if got, ok := c.claimOffline(app); ok {
			return got
		}
	}
	// What is asked goes on when the caller leaves with an instance.
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateClaim)
	ended := context.AfterFunc(c.ctx, cancel)
	leave := context.AfterFunc(ctx, cancel)
	answer := make(chan claimed, 1)
	c.group.Go(func() {
		defer cancel()
		defer ended()
		got := c.claimOnce(own, app)
		if got.silent && ctx.Err() == nil {
			c.away.Store(true)
		}
		answer <- got
	})
	patience := time.NewTimer(claimPatience)
	defer patience.Stop()
	select {
	case got := <-answer:
		return c.orOffline(ctx, app, got)
	case <-patience.C:
	}
	if got, ok := c.claimOffline(app); ok {
		leave()
		if got.r != nil {
			got.r.late = answer
		} else {
			c.group.Go(func() { c.settleLate(<-answer, nil) })
		}
		return got
	}
	return c.orOffline(ctx, app, <-answer)
}

// orOffline is what the store answered, or, where it did not, an instance that
// can be woken without it.
func (c *Controller) orOffline(ctx context.Context, app string, got claimed) claimed {
	if err := ctx.Err(); err != nil && got.err != nil {
		return claimed{err: err}
	}
	if got.silent {
		if off, ok := c.claimOffline(app); ok {
			return off
		}
	}
	return got
}

// claimOffline chooses, from the Catalog alone, a sleeping instance to wake
// while Redis cannot be asked: thawing and starting are safe to do twice.
// Nothing is created: that could make two. It reports whether there is a way;
// with nothing claimed, an instance is ready by now.
func (c *Controller) claimOffline(app string) (claimed, bool) {
	st, ok := c.Catalog.Get(app)
	if !ok {
		return claimed{}, false
	}
	rel, ok := st.Serving()
	if !ok {
		return claimed{}, false
	}
	if st.Count(st.App.Current, router.Ready) > 0 {
		return claimed{}, true
	}
	now := c.Now()
	s, id := planRaise(st, st.App.Current, now, c.shun)
	switch {
	case s == stepCreate, s == stepStart && now.Before(st.App.Crash.Until):
		return claimed{}, false
	case s == stepCancel:
		s = stepThaw // whoever drains it may be about to freeze it
	}
	in, _ := st.Instance(id)
	r := &raising{in: *in, rel: *rel, step: s, offline: true}
	c.hold(r, id)
	return claimed{r: r}, true
}

// carryOffline brings up an instance that was chosen without the store. Where
// that fails, the store's own answer is waited for.
func (c *Controller) carryOffline(ctx context.Context, r *raising) error {
	err := c.bring(ctx, r)
	if err == nil {
		c.saveLater(r.in)
	}
	switch {
	case r.late == nil:
		return err
	case err == nil:
		c.group.Go(func() { c.settleLate(<-r.late, &r.in) })
		return nil
	}
	select {
	case got := <-r.late:
		if got.r == nil || got.r.step == stepCancel {
			c.settleLate(got, nil)
			return err
		}
		defer c.letGo(got.r)
		if cerr := c.carry(ctx, got.r); cerr != nil {
			return cerr
		}
		r.in, r.step = got.r.in, got.r.step
		return nil
	case <-ctx.Done():
		c.group.Go(func() { c.settleLate(<-r.late, nil) })
		return err
	}
}

// settleLate sees to a claim that came after the wake had gone on without it.
// woken is what was woken instead; nil: nothing. Nothing is left claimed.
func (c *Controller) settleLate(got claimed, woken *router.Instance) {
	if got.r == nil {
		return // what was woken is written down by saveUnsaved
	}
	defer c.letGo(got.r)
	if got.r.step == stepCancel {
		return
	}
	if woken != nil && woken.ID == got.r.in.ID {
		got.r.in.Addr = woken.Addr
		ready := got.r.in
		ready.State, ready.Claim, ready.Since = router.Ready, router.Claim{}, c.Now()
		c.Catalog.Amend(ready.App, func(st *router.AppState) { st.PutInstance(ready) })
		c.writeReady(got.r)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, lateClaim)
	defer cancel()
	if err := c.carry(ctx, got.r); err != nil {
		c.Log.Warn("an instance that was claimed late did not come up", "instance", got.r.in.ID, "err", firstLine(err.Error()))
	}
}

// saveLater makes the Catalog show the instance as ready now, and the record
// once Redis is back.
func (c *Controller) saveLater(in router.Instance) {
	in.State, in.Claim, in.Since = router.Ready, router.Claim{}, c.Now()
	c.later(in, router.Ready)
}

func (c *Controller) later(in router.Instance, state router.InstanceState) {
	c.mu.Lock()
	c.saving[in.ID] = unsaved{in, state}
	c.mu.Unlock()
	c.Catalog.Amend(in.App, func(st *router.AppState) { st.PutInstance(in) })
}

// saveUnsaved writes what happened while Redis was away. It is called before
// every tick.
func (c *Controller) saveUnsaved(ctx context.Context) {
	c.mu.Lock()
	list := make([]unsaved, 0, len(c.saving))
	for _, u := range c.saving {
		list = append(list, u)
	}
	c.mu.Unlock()
	for _, u := range list {
		lowered, runs := false, false
		write := func(st *router.AppState) error {
			in, ok := st.Instance(u.in.ID)
			if !ok {
				return errAbort
			}
			// Another gateway could write all the time and has taken it down: then
			// the container says which of the two came last.
			lowered = u.state == router.Ready && (in.State == router.Stopped || in.State == router.Failed)
			if lowered && !runs {
				return errAbort
			}
			in.State, in.Claim, in.Since = u.state, router.Claim{}, u.in.Since
			in.Addr, in.Reason, in.ExitCode = u.in.Addr, u.in.Reason, u.in.ExitCode
			if u.state == router.Failed {
				st.App.Crash = st.App.Crash.After(u.in.Since, u.in.Reason)
			}
			return nil
		}
		_, err := c.Store.Update(ctx, u.in.App, write)
		if lowered {
			if runs = c.runs(ctx, u.in); runs {
				_, err = c.Store.Update(ctx, u.in.App, write)
			}
		}
		if router.CodeOf(err) == router.CodeUnavailable && !errors.Is(err, errAbort) {
			return
		}
		c.mu.Lock()
		if c.saving[u.in.ID] == u {
			delete(c.saving, u.in.ID)
		}
		c.mu.Unlock()
	}
}
