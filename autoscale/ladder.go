package autoscale

import (
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// failedKept is how long the remains of a dead container are left to whoever
// saw it die, before the ladder removes them.
const failedKept = 5 * time.Second

// rest is the rung on which an instance should be that has been idle for the
// given time and is not needed ready. Without a freezer on its node the first
// rung down is stopped.
func rest(p router.Policy, idle time.Duration, freezer bool) router.Rung {
	switch {
	case idle >= p.RemoveAfter.D():
		return router.RungAbsent
	case idle >= p.StopAfter.D() || !freezer:
		return router.RungStopped
	}
	return router.RungFrozen
}

// descend lists the sleeping instances that have come to a lower rung than the
// one they are on, by instance ID. Ready and draining ones are the business of
// drains.
func descend(st *router.AppState, now time.Time, freezer func(node string) bool, leaving map[string]bool) map[string]router.Rung {
	down := map[string]router.Rung{}
	for _, in := range st.Instances {
		if now.Before(in.Claim.Until) {
			continue
		}
		r := rest(st.App.Policy, now.Sub(in.IdleSince), freezer(in.Node))
		switch {
		case leaving[in.Node] && (in.State == router.Frozen || in.State == router.Stopped):
			down[in.ID] = router.RungAbsent
		case in.State == router.Failed && now.Sub(in.Since) > failedKept:
			down[in.ID] = router.RungAbsent
		case in.State == router.Frozen && r != router.RungFrozen:
			down[in.ID] = router.RungStopped
		case in.State == router.Stopped && r == router.RungAbsent:
			down[in.ID] = router.RungAbsent
		}
	}
	return down
}

// surplus chooses which ready instances to drain so that keep of the serving
// release stay: all of other releases, and of the serving one those on nodes
// that are being drained, then those that became ready last.
func surplus(st *router.AppState, keep int, leaving map[string]bool) []string {
	var serving []router.Instance
	var out []string
	for _, in := range st.Instances {
		switch {
		case in.State != router.Ready:
		case in.Release != st.App.Current:
			out = append(out, in.ID)
		default:
			serving = append(serving, in)
		}
	}
	for len(serving) > keep {
		first := 0
		for i := range serving {
			a, b := serving[i], serving[first]
			if leaving[a.Node] != leaving[b.Node] && leaving[a.Node] || leaving[a.Node] == leaving[b.Node] && a.Since.After(b.Since) {
				first = i
			}
		}
		out = append(out, serving[first].ID)
		serving = append(serving[:first], serving[first+1:]...)
	}
	return out
}
