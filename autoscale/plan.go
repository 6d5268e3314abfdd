package autoscale

import (
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// step is what raising one more instance of a release takes.
type step string

const (
	stepNone   step = "none"   // one is ready
	stepCancel step = "cancel" // a draining one goes back to ready
	stepThaw   step = "thaw"
	stepStart  step = "start"
	stepCreate step = "create"
	stepWait   step = "wait" // somebody is changing the one to use; look again when that is done
)

func (s step) rung() router.Rung {
	switch s {
	case stepThaw:
		return router.RungFrozen
	case stepStart:
		return router.RungStopped
	case stepCreate:
		return router.RungAbsent
	}
	return router.RungReady
}

// planWake chooses how to get the serving release to one ready instance: the
// warmest way first. An instance on its way is waited for, unless another is
// only a thaw away. shun says on which nodes what sleeps is left asleep.
func planWake(st *router.AppState, holder string, now time.Time, shun func(node string) bool) (step, string) {
	release := st.App.Current
	if st.Count(release, router.Ready) > 0 {
		return stepNone, ""
	}
	s, id := planRaise(st, release, now, shun)
	if s == stepCancel || s == stepThaw {
		return s, id
	}
	for _, in := range st.Instances {
		if in.Release != release || in.State == router.Failed {
			continue
		}
		if in.State == router.Starting && now.Before(in.Claim.Until) || in.Claim.Held(holder, now) || in.Claim.Holder == holder && now.Before(in.Claim.Until) {
			return stepWait, in.ID
		}
	}
	return s, id
}

// planRaise chooses how to get one more instance of a release: the warmest way
// that nobody is using, and that is not on a node to be shunned.
func planRaise(st *router.AppState, release int, now time.Time, shun func(node string) bool) (step, string) {
	best, id := stepCreate, ""
	rank := map[step]int{stepCancel: 3, stepThaw: 2, stepStart: 1, stepCreate: 0}
	for _, in := range st.Instances {
		if in.Release != release || now.Before(in.Claim.Until) {
			continue
		}
		var s step
		switch in.State {
		case router.Draining:
			s = stepCancel
		case router.Frozen:
			s = stepThaw
		case router.Stopped:
			s = stepStart
		default:
			continue
		}
		if rank[s] > rank[best] && (s == stepCancel || !shun(in.Node)) {
			best, id = s, in.ID
		}
	}
	return best, id
}
