package autoscale

import (
	"fmt"
	"math"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/decide"
	"github.com/fluxgate/fluxgate/router"
)

// present is what an app has at a moment, as decisions see it.
func present(st *router.AppState, m *decide.Memory, now time.Time, queued int, idle time.Duration, leaving map[string]bool) decide.Present {
	at := decide.Present{Queued: queued, Idle: idle}
	for _, in := range st.Instances {
		if in.Release != st.App.Current {
			continue
		}
		if leaving[in.ID] && (in.State == router.Ready || in.State == router.Starting) {
			at.Leaving++
		}
		switch in.State {
		case router.Ready:
			at.Ready++
		case router.Starting:
			at.Starting = append(at.Starting, max(0, m.Expected(step(in.Claim.Op).rung())-now.Sub(in.Since)))
		case router.Frozen:
			at.Frozen++
		case router.Stopped:
			at.Stopped++
		}
	}
	return at
}

// govern decides for one app and has it carried out.
func (c *Controller) govern(st *router.AppState, now time.Time) {
	app := st.App.Name
	current := st.App.Current
	idle := c.idle(st, now)
	leaving := leaving(st, c.Runtime.Node)
	d := c.decide(st, now, -1, idle, leaving)
	have := st.Count(current, router.Ready, router.Starting)
	d.Desired = c.strains.yielded(st, d.Desired, have, idle, now)

	moving := 0 // serving instances on nodes that are being drained: their replacements come first
	for _, in := range st.Instances {
		if leaving[in.ID] && in.Release == current && (in.State == router.Ready || in.State == router.Starting) {
			moving++
		}
	}
	why := "its node is being drained, or its placement excludes it"
	if moving == 0 && d.Desired == have {
		candidates := func() []Candidate {
			rel, _ := st.Serving() // there is one, or nobody would ask
			return c.candidates(app, rel)
		}
		if how, ok := lopsided(st, c.Runtime.Node, candidates, now); ok {
			moving, why = 1, how
			c.note(app, router.Event{Kind: "decision", Text: "one instance moves to spread the app better: " + how})
		}
	}
	switch {
	case d.Desired > have-moving:
		c.raiseTo(st, d.Desired+moving, now)
	case d.Desired < st.Count(current, router.Ready) && d.Desired+moving <= st.Count(current, router.Ready):
		reason := d.Reason
		if moving > 0 {
			reason = why
		}
		for _, id := range surplus(st, d.Desired, leaving, domains(st, c.Runtime.Node), now) {
			c.drain(app, id, now.Add(-idle), reason)
		}
	default:
		for _, id := range surplus(st, st.Count(current, router.Ready), leaving, nil, now) {
			c.drain(app, id, now, "another release serves")
		}
	}
	for _, in := range st.Instances {
		switch {
		case in.State == router.Draining && !in.Claim.Held(c.Gateway, now):
			c.resumeDrain(app, in.ID)
		case in.State == router.Starting && now.After(in.Claim.Until):
			c.adoptLate(in)
		}
	}
	for id, rung := range descend(st, now, c.freezer, leaving, d.Frozen) {
		c.sink(app, id, rung)
	}
	k := c.minds.open(app)
	k.mu.Lock()
	next, ok := nextLook(st, &k.memory, now)
	k.mu.Unlock()
	if ok {
		c.agenda.put(app, next)
	}
}

// decide asks what an app should have, and notes it if it is news. queued is how
// many requests wait; below 0: as gateways said last.
func (c *Controller) decide(st *router.AppState, now time.Time, queued int, idle time.Duration, leaving map[string]bool) decide.Decision {
	app := st.App.Name
	k := c.minds.open(app)
	k.mu.Lock()
	defer k.mu.Unlock()
	if queued < 0 {
		queued = k.memory.Queued()
	}
	at := present(st, &k.memory, now, queued, idle, leaving)
	d := decide.Decide(now, st.App.Policy, decide.Facts{}, &k.memory, at)
	k.memory.Look(now, at)
	k.memory.Decided(now, d, at)
	if news := d.Desired != at.Have() || k.decided && k.last.Desired != d.Desired; news && (!k.decided || k.last.Desired != d.Desired || k.last.Rule != d.Rule) {
		c.noteDecision(app, d, at)
	}
	k.last, k.decided = d, true
	return d
}

// idle is the time since an app was last active: since its last request, or
// since its newest instance became ready, or went to sleep, where none came.
func (c *Controller) idle(st *router.AppState, now time.Time) time.Duration {
	k := c.minds.open(st.App.Name)
	k.mu.Lock()
	last := k.active
	k.mu.Unlock()
	for _, in := range st.Instances {
		at := in.IdleSince // of one that sleeps
		if in.State == router.Ready {
			at = in.Since
		}
		if at.After(last) {
			last = at
		}
	}
	if last.IsZero() {
		return 365 * 24 * time.Hour
	}
	return max(0, now.Sub(last))
}

func (c *Controller) noteDecision(app string, d decide.Decision, at decide.Present) {
	s := d.Signals
	note := router.Decision{
		Had: at.Have(), Desired: d.Desired, Frozen: d.Frozen, Rule: d.Rule,
		Signals: []router.Signal{
			{Name: "rate", Value: rounded(s.Rate), Unit: "requests/s"},
			{Name: "growth", Value: rounded(s.Growth), Unit: "requests/s each second"},
			{Name: "noise", Value: rounded(s.Noise), Unit: "of the rate"},
			{Name: "load", Value: rounded(s.Load), Unit: "requests at once"},
			{Name: "service", Value: rounded(float64(s.Service) / float64(time.Millisecond)), Unit: "ms"},
			{Name: "queued", Value: float64(s.Queued), Unit: "requests"},
		},
	}
	for _, v := range d.Votes {
		note.Votes = append(note.Votes, router.Vote(v))
	}
	c.note(app, router.Event{Kind: "decision", Text: fmt.Sprintf("%d instances, not %d: %s", d.Desired, at.Have(), d.Reason), Decision: &note})
}

// rounded is a measurement to three decimals, which is more than it is good for.
func rounded(v float64) float64 { return math.Round(v*1000) / 1000 }
