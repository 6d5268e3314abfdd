package autoscale

import (
	"context"
	"errors"

	"github.com/fluxgate/fluxgate/router"
)

// unsaved is an instance that came up or died while Redis was away.
type unsaved struct {
	in    router.Instance
	state router.InstanceState
}

// claimOffline chooses, from the Catalog alone, a sleeping instance to wake
// while Redis cannot be asked: thawing and starting are safe to do twice.
// Nothing is created: that could make two.
func (c *Controller) claimOffline(app string) *raising {
	st, ok := c.Catalog.Get(app)
	if !ok {
		return nil
	}
	rel, ok := st.Serving()
	if !ok {
		return nil
	}
	s, id := planRaise(st, st.App.Current, c.Gateway, c.Now())
	if s == stepCreate {
		return nil
	}
	in, _ := st.Instance(id)
	return &raising{in: *in, rel: *rel, step: s, offline: true}
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
		_, err := c.Store.Update(ctx, u.in.App, func(st *router.AppState) error {
			in, ok := st.Instance(u.in.ID)
			if !ok {
				return errAbort
			}
			in.State, in.Claim, in.Since = u.state, router.Claim{}, u.in.Since
			in.Addr, in.Reason, in.ExitCode = u.in.Addr, u.in.Reason, u.in.ExitCode
			if u.state == router.Failed {
				st.App.Crash = st.App.Crash.After(u.in.Since, u.in.Reason)
			}
			return nil
		})
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
