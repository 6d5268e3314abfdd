package autoscale

import (
	"fmt"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/decide"
	"github.com/fluxgate/fluxgate/router"
)

// residents are the instances on a node as the last measurement and the Catalog
// tell of them, and how full it is. Who does not hold the lease knows nothing of
// apps' requests: to him only frozen ones are idle.
func (c *Controller) residents(n *router.Node, s *strain) ([]Resident, Load) {
	now := c.Now()
	load := Load{Capacity: n.Facts.Memory, CPUs: n.Facts.CPUs}
	var held router.Bytes
	var cores float64
	var list []Resident
	for _, app := range c.ledger.appsOn(map[string]bool{n.Name: true}) {
		st, ok := c.Catalog.Get(app)
		if !ok {
			continue
		}
		k := c.minds.find(app)
		inFlight, due, thaw, start := k.outlook(st.App.Policy, now)
		least, _, _ := st.App.Policy.Schedule.At(now, st.App.Policy.Min, st.App.Policy.Max)
		spare := st.Count(st.App.Current, router.Ready) - least
		for _, in := range st.Instances {
			if in.Node != n.Name {
				continue
			}
			use := s.use.Instances[in.ID]
			held += use.Memory
			load.Need += max(0, st.Reserves(in)-use.Memory)
			cpu := s.cores(in.ID)
			cores += cpu
			r := Resident{
				ID: in.ID, App: app, State: in.State, Serving: in.Release == st.App.Current,
				Claimed: now.Before(in.Claim.Until) || c.working(in.ID), InFlight: inFlight, Busy: in.BusyUntil,
				Due: due, Held: use.Memory, Reserve: st.Reserves(in), CPU: cpu,
				WakeCost: st.App.Policy.WakeCost, Thaw: thaw, Start: start, Freezes: n.Facts.Freeze,
				Reclaims: n.Facts.Reclaim != router.ReclaimNone && !s.emptied[in.ID].Equal(in.Since),
			}
			switch in.State {
			case router.Ready:
				if !c.leads.Load() {
					continue
				}
				r.Idle = c.idle(st, now)
				if r.Serving {
					r.Kept = spare <= 0
					spare--
				}
			case router.Frozen:
				r.Idle = max(0, now.Sub(in.IdleSince))
			default:
				continue
			}
			list = append(list, r)
		}
	}
	load.fill(s, held, cores)
	return list, load
}

// fill says what is in use: of the whole machine where that is known, else of
// the instances.
func (l *Load) fill(s *strain, held router.Bytes, cores float64) {
	l.Used, l.CPU = held, cores
	if !s.use.Machine {
		return
	}
	// A node that is to have less than its machine leaves the rest to others.
	others := max(0, s.use.Total-l.Capacity)
	l.Used = s.use.Total - s.use.Available - others
	if others > 0 {
		l.Used = max(l.Used, held)
	}
	if took := s.use.At.Sub(s.before.At); s.before.Machine && took > 0 {
		l.CPU = (s.use.Busy - s.before.Busy).Seconds() / took.Seconds()
	}
}

// cores is what an instance used of the CPU between the last two measurements.
func (s *strain) cores(instance string) float64 {
	now, ok := s.use.Instances[instance]
	was, ok2 := s.before.Instances[instance]
	took := s.use.At.Sub(s.before.At)
	if !ok || !ok2 || took <= 0 || now.CPU < was.CPU {
		return 0
	}
	return (now.CPU - was.CPU).Seconds() / took.Seconds()
}

// describe says in words what a node is short of.
func (l Load) describe(s Shortage) string {
	text := ""
	if s.Memory > 0 {
		text = fmt.Sprintf("%s of its %s of memory are in use", gigabytes(l.Used), gigabytes(l.Capacity))
		if l.Need > 0 {
			text += fmt.Sprintf(", %s more are reserved by what runs or starts there", gigabytes(l.Need))
		}
	}
	if s.CPU > 0 {
		if text != "" {
			text += ", and "
		}
		text += fmt.Sprintf("%.1f of its %d cores", l.CPU, l.CPUs)
	}
	return "its node runs short: " + text
}

// find is what is known of an app's traffic; nil where nothing is.
func (m *minds) find(app string) *mind {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.apps[app]
}

// openFor is how long it counts that an app had requests or open connections at
// the end of a second: gateways tell once a second, and may be late.
const openFor = 3 * time.Second

// outlook is what an app has open, in how long it is expected to be needed, and
// how long its wakes take. k may be nil.
func (k *mind) outlook(p router.Policy, now time.Time) (open int64, due, thaw, start time.Duration) {
	if k == nil {
		k = &mind{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Sub(k.openAt) < openFor {
		open = k.open
	}
	if at, ok := k.memory.Next(now, p, decide.Facts{}); ok {
		due = max(at.Sub(now), time.Nanosecond)
	}
	return open, due, k.memory.Expected(router.RungFrozen), k.memory.Expected(router.RungStopped)
}
