package gateway

import (
	"slices"
	"time"
)

// How long an instance may refuse connections before its app counts as not
// answering, and how long the pauses between the tries are.
const (
	refusalPatience = 2 * time.Second
	refusalFirst    = 2 * time.Millisecond
	refusalMost     = 100 * time.Millisecond
)

// refusal is an instance's refusing of one request's connection.
type refusal struct {
	since time.Time
	pause time.Duration
}

// retreat finds another way for a request whose instance refuses connections;
// not one byte of it was written. Another instance's place is taken at once.
// Where there is none, the reason may be that the container has died and this
// is not known yet: after a moment the Table tells, and the request then waits
// for the next instance like one that came while nothing was ready. An error
// means that the place is given up, or that there is no use in trying again.
func (x *exchange) retreat(r *refusal) error {
	if s := x.edge.opts.Suspect; s != nil && x.up.instance != "" {
		s(x.up.instance)
	}
	a := x.target.admission
	if a.move(x) {
		return nil
	}
	if r.since.IsZero() {
		r.since, r.pause = time.Now(), refusalFirst
	}
	select {
	case <-time.After(r.pause):
	case <-x.edge.stopped:
		return errStopping
	}
	r.pause = min(2*r.pause, refusalMost)
	if x.hungUp() {
		return errClientGone
	}
	if slices.Contains(a.target.Load().endpoints, x.up) {
		if time.Since(r.since) > refusalPatience {
			return errNoAnswer
		}
		return nil
	}
	x.leave()
	u, err := a.wait(x)
	if err != nil {
		return err
	}
	a.inFlight.Add(1)
	x.up, x.holding, x.target = u, true, a.target.Load()
	*r = refusal{}
	return nil
}
