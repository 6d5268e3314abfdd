package autoscale

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// raiseTo gets more instances of the serving release ready, up to desired: all
// of them are claimed in one write, and each is then brought up by itself.
func (c *Controller) raiseTo(st *router.AppState, desired int, now time.Time) {
	if now.Before(st.App.Crash.Until) || st.Count(st.App.Current, router.Ready, router.Starting) >= desired {
		return
	}
	app, deadline := st.App.Name, st.App.Policy.WakeDeadline.D()
	failed := func(ctx context.Context, err error) {
		if err != nil && ctx.Err() == nil {
			c.Log.Warn("scale-up failed", "app", app, "err", firstLine(err.Error()))
			c.note(app, router.Event{Kind: "crash", Text: "scale-up failed: " + firstLine(err.Error())})
		}
	}
	c.goFor(fmt.Sprintf("raise %s to %d", app, desired), func(ctx context.Context) {
		cctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		claimed, err := c.claimRaises(cctx, app, desired)
		if router.CodeOf(err) == router.CodeExhausted && c.makePlace(cctx, app, 0) {
			var more []*raising
			more, err = c.claimRaises(cctx, app, desired)
			claimed = append(claimed, more...)
		}
		failed(cctx, err)
		for _, r := range claimed {
			c.group.Go(func() {
				rctx, cancel := context.WithTimeout(ctx, deadline)
				defer cancel()
				err := c.carryOn(rctx, app, desired, r)
				failed(rctx, err)
			})
		}
	})
}

// raiseTries is how often an instance is raised on another node because the one
// that was chosen turns out not to answer.
const raiseTries = 3

// carryOn brings up a claimed instance, or another one in its place where its
// node was lost meanwhile or its engine fails. It lets it go.
func (c *Controller) carryOn(ctx context.Context, app string, limit int, r *raising) error {
	defer c.letGo(r)
	if r.step == stepCancel {
		return nil
	}
	err := c.carry(ctx, r)
	for tries := 1; tries < raiseTries && router.CodeOf(err) == router.CodeUnavailable && ctx.Err() == nil; tries++ {
		err = c.raiseOne(ctx, app, 0, limit)
	}
	return err
}

// claimRaises claims instances of the serving release until limit of them are
// ready or on their way. Where not all have room, those that have are claimed,
// and the error says why the next has none. The caller lets them go.
func (c *Controller) claimRaises(ctx context.Context, app string, limit int) ([]*raising, error) {
	var claimed []*raising
	var refused error
	letGo := func() {
		for _, r := range claimed {
			c.letGo(r)
		}
		claimed = nil
	}
	err := c.update(ctx, app, func(st *router.AppState) error {
		letGo()
		refused = nil
		rel, ok := st.Serving()
		if !ok {
			return router.Errorf(router.CodeNotFound, "%s has nothing that serves", app)
		}
		now := c.Now()
		nodes := c.candidates(app, rel)
		for st.Count(st.App.Current, router.Ready, router.Starting) < limit {
			r := &raising{started: now}
			s, id := planRaise(st, st.App.Current, now, c.shun)
			if err := c.claimStepOn(st, r, s, id, *rel, now, nodes); err != nil {
				c.letGo(r)
				refused = err
				break
			}
			claimed = append(claimed, r)
		}
		if len(claimed) == 0 {
			return errAbort
		}
		return nil
	})
	if err != nil {
		letGo()
		if err == errAbort || refused != nil { //nolint:errorlint // it is returned as it is
			err = nil
		}
	}
	if err == nil {
		err = refused
	}
	return claimed, err
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

// occupy counts one more instance of an app on a node.
func occupy(nodes []Candidate, node, app string, need router.Bytes) {
	for i := range nodes {
		if nodes[i].Node.Name != node {
			continue
		}
		apps := make(map[string]int, len(nodes[i].Apps)+1)
		for k, v := range nodes[i].Apps {
			apps[k] = v
		}
		apps[app]++
		nodes[i].Apps = apps
		nodes[i].Reserved += need
	}
}

// adoptLate has somebody see to an instance whose raiser is gone.
func (c *Controller) adoptLate(in router.Instance) {
	c.goFor(in.ID, func(ctx context.Context) { c.adoptStarting(ctx, in) })
}
