package rehearse

import (
	"time"

	"github.com/fluxgate/fluxgate/autoscale/decide"
	"github.com/fluxgate/fluxgate/router"
)

// Scaler drives the plant with the product's own decisions: once a second, and
// ten times a second while requests wait, as the Controller does.
type Scaler struct {
	Policy router.Policy
	Facts  decide.Facts
	Start  time.Time // of the trace; schedules and rhythms go by it
	// Told, where set, is told of each decision.
	Told func(ms int64, d decide.Decision)

	memory decide.Memory
}

// traceStart is when a trace begins that does not say: a Monday, 0:00 UTC.
var traceStart = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// NewScaler is a Scaler of an app under a policy. The app's own facts take the
// place of what the product would measure or be told: its concurrency that of
// max_concurrency, its max_instances that of max.
func NewScaler(app App, p router.Policy) *Scaler {
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	p.MaxConcurrency, p.Max = int(app.Concurrency), app.MaxInstances
	return &Scaler{
		Policy: p, Start: traceStart,
		Facts: decide.Facts{Slots: int(app.Concurrency), Service: ms(app.ServiceMS), Thaw: ms(app.FrozenMS), Start: ms(app.StoppedMS), Create: ms(app.AbsentMS)},
	}
}

// Timing is when the plant calls it.
func (s *Scaler) Timing() Timing { return Timing{TickMS: stepMS} }

// Tick implements Driver.
func (s *Scaler) Tick(o Observation) []Order {
	for _, sec := range o.Seconds {
		s.memory.Observe(decide.Second{
			Unix: s.Start.Unix() + sec.End - 1, Requests: sec.Requests, Queued: o.Queued, Running: sec.Ready + o.Starting,
		}, s.Policy, s.Facts)
	}
	if o.MS%1000 != 0 && o.Queued == 0 {
		return nil
	}
	return []Order{s.decide(o)}
}

// Activate implements Driver.
func (s *Scaler) Activate(o Observation) Order {
	order := s.decide(o)
	order.Desired = max(1, order.Desired)
	return order
}

func (s *Scaler) decide(o Observation) Order {
	now := s.Start.Add(time.Duration(o.MS) * time.Millisecond)
	at := decide.Present{Ready: o.Ready, Frozen: o.Frozen, Queued: int(o.Queued), Idle: s.memory.Idle(now)}
	for _, due := range o.Due {
		at.Starting = append(at.Starting, time.Duration(due-o.MS)*time.Millisecond)
	}
	d := decide.Decide(now, s.Policy, s.Facts, &s.memory, at)
	s.memory.Look(now, at)
	s.memory.Decided(now, d, at)
	if s.Told != nil {
		s.Told(o.MS, d)
	}
	return Order{Desired: d.Desired, Frozen: d.Frozen}
}
