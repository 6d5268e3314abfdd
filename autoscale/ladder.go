package autoscale

import (
	"cmp"
	"slices"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// failedKept is how long the remains of a dead container are left to whoever
// saw it die, before the ladder removes them.
const failedKept = 5 * time.Second

// keepOld is how long an instance of a release that does not serve any more stays
// frozen for a rollback, where stop_after is auto.
const keepOld = 10 * time.Minute

// rest is the rung on which an instance should be that has been idle for the
// given time and is not needed ready. Without a freezer on its node the first
// rung down is stopped. Where stop_after is auto, how many stay frozen is
// decided for the app as a whole.
func rest(p router.Policy, idle time.Duration, freezer bool) router.Rung {
	switch {
	case idle >= p.RemoveAfter.D():
		return router.RungAbsent
	case p.StopAfter != router.Auto && idle >= p.StopAfter.D() || !freezer:
		return router.RungStopped
	}
	return router.RungFrozen
}

// descend lists the sleeping instances that have come to a lower rung than the
// one they are on, by instance ID. Ready and draining ones are the business of
// drains. frozen is how many of the serving release should stay frozen where
// stop_after is auto; those that have slept longest go.
func descend(st *router.AppState, now time.Time, freezer func(node string) bool, leaving map[string]bool, frozen int) map[string]router.Rung {
	down := map[string]router.Rung{}
	var sleeping []router.Instance // frozen ones of the serving release, by what is decided for all of them
	for _, in := range st.Instances {
		if now.Before(in.Claim.Until) {
			continue
		}
		idle := now.Sub(in.IdleSince)
		r := rest(st.App.Policy, idle, freezer(in.Node))
		auto := st.App.Policy.StopAfter == router.Auto && in.State == router.Frozen
		switch {
		case leaving[in.ID] && (in.State == router.Frozen || in.State == router.Stopped):
			down[in.ID] = router.RungAbsent
		case in.State == router.Failed && now.Sub(in.Since) > failedKept:
			down[in.ID] = router.RungAbsent
		case in.State == router.Frozen && r != router.RungFrozen:
			down[in.ID] = router.RungStopped
		case auto && in.Release == st.App.Current:
			sleeping = append(sleeping, in)
		case auto && idle >= keepOld:
			down[in.ID] = router.RungStopped
		case in.State == router.Stopped && r == router.RungAbsent:
			down[in.ID] = router.RungAbsent
		}
	}
	slices.SortStableFunc(sleeping, func(a, b router.Instance) int { return b.IdleSince.Compare(a.IdleSince) })
	for i := frozen; i < len(sleeping); i++ {
		down[sleeping[i].ID] = router.RungStopped
	}
	return down
}

// surplus chooses which ready instances to drain so that keep of the serving
// release stay: all of other releases, and of the serving one those that are
// leaving their node, then those in the most crowded failure domain, then those
// that became ready last. None that is busy is chosen; one that is busy and
// leaving counts as gone already, or its replacement would go in its place.
// domain may be nil: then all nodes are alike.
func surplus(st *router.AppState, keep int, leaving map[string]bool, domain func(node string) string, now time.Time) []string {
	if domain == nil {
		domain = func(string) string { return "" }
	}
	var serving []router.Instance
	var out []string
	for _, in := range st.Instances {
		switch {
		case in.State != router.Ready:
		case in.Busy(now):
			if in.Release == st.App.Current && !leaving[in.ID] {
				keep--
			}
		case in.Release != st.App.Current:
			out = append(out, in.ID)
		default:
			serving = append(serving, in)
		}
	}
	for len(serving) > max(keep, 0) {
		crowd := map[string]int{}
		for _, in := range serving {
			crowd[domain(in.Node)]++
		}
		first := slices.IndexFunc(serving, func(in router.Instance) bool {
			return !slices.ContainsFunc(serving, func(o router.Instance) bool {
				return cmp.Or(
					compareBool(leaving[o.ID], leaving[in.ID]), cmp.Compare(crowd[domain(o.Node)], crowd[domain(in.Node)]), o.Since.Compare(in.Since),
				) > 0
			})
		})
		out = append(out, serving[first].ID)
		serving = slices.Delete(serving, first, first+1)
	}
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
