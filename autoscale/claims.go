package autoscale

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/fluxgate/fluxgate/router"
)

// claims keeps, from the changes of a Catalog, which apps have an instance that
// anybody has claimed: few, of very many.
type claims struct {
	mu   sync.Mutex
	apps map[string]bool
}

func newClaims(catalog *router.Catalog) *claims {
	k := &claims{apps: map[string]bool{}}
	for _, st := range catalog.All() {
		k.changed(nil, st)
	}
	catalog.OnChange(k.changed)
	return k
}

func (k *claims) changed(prev, next *router.AppState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case next == nil:
		delete(k.apps, prev.App.Name)
	case slices.ContainsFunc(next.Instances, func(in router.Instance) bool { return in.Claim.Holder != "" }):
		k.apps[next.App.Name] = true
	default:
		delete(k.apps, next.App.Name)
	}
}

func (k *claims) list() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := make([]string, 0, len(k.apps))
	for name := range k.apps {
		names = append(names, name)
	}
	return names
}

// voidOwn ends claims of this gateway's that nothing here works for: those
// whose write was carried out although its answer never came, and those of an
// earlier process of the same gateway. Nobody would go on with them, and wakes
// would wait until they ran out.
func (c *Controller) voidOwn(ctx context.Context) {
	now := c.Now()
	orphaned := func(in router.Instance) bool {
		return in.Claim.Holder == c.Gateway && now.Before(in.Claim.Until) && !c.working(in.ID)
	}
	for _, app := range c.claims.list() {
		st, ok := c.Catalog.Get(app)
		if !ok || !slices.ContainsFunc(st.Instances, orphaned) {
			continue
		}
		var found []router.Instance
		_, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
			found = nil
			for i := range st.Instances {
				if in := &st.Instances[i]; orphaned(*in) {
					found = append(found, *in)
					in.Claim.Until = now
				}
			}
			if len(found) == 0 {
				return errAbort
			}
			return nil
		})
		if err != nil {
			if !errors.Is(err, errAbort) {
				c.Log.Warn("claims that nobody works for run on", "app", app, "err", err)
			}
			continue
		}
		for _, in := range found {
			c.Log.Warn("nobody here works for a claim of this gateway; it is taken over", "instance", in.ID, "began", in.Claim.Op)
		}
	}
}
