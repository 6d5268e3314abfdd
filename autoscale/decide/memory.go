package decide

import (
	"slices"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Second is what all gateways measured of an app in one second.
type Second struct {
	Unix     int64 // when it began
	Requests int64 // that arrived
	Done     int64 // that were answered
	Service  time.Duration
	InFlight int64 // being served at its end; 0 where it is not known
	Queued   int64 // waiting at its end
	Running  int   // instances ready or starting
}

// Memory is what was learned of an app. The zero value knows nothing. It is
// stored as JSON, so that the next holder of the lease need not learn again. It
// may not be used concurrently.
type Memory struct {
	Signal signal `json:"signal"`
	Levels levels `json:"levels"`
	Rhythm rhythm `json:"rhythm"`
	Season season `json:"season"`
	Times  Times  `json:"times"`
	Spent  spent  `json:"spent"`

	inFlight [2]int64 // of the last two seconds
	queued   int64    // in the last second

	look    look
	raise   time.Time // when an instance was last added
	started int       // instances added in the second of raise
	asked   int       // what the queue last asked for
	askedAt time.Time
}

// look is one look at a queue.
type look struct {
	at     time.Time
	queued int
	ready  int
}

// Observe takes in a second. Seconds come in order; those without a request may
// be left out.
func (m *Memory) Observe(s Second, p router.Policy, f Facts) {
	if s.Unix <= m.Signal.Second {
		return
	}
	m.Signal.add(s.Unix, float64(s.Requests))
	m.Times.served(s.Done, s.Service)
	m.Spent.add(s.Unix, s.Running)
	if s.Queued > 0 {
		s.InFlight = 0 // what a queue is emptied with says nothing of what comes in
	}
	m.inFlight[0], m.inFlight[1] = m.inFlight[1], s.InFlight
	m.queued = s.Queued
	f = m.facts(p, f)
	e := m.estimate(s.Unix, p, f)
	horizon := horizon(f)
	m.Signal.guess(s.Unix+int64(horizon+0.999), max(e.rate/2, min(e.rate+e.growth*horizon, 2*e.rate)))
	m.Levels.see(e.comfortable, s.Unix)
	m.Rhythm.see(e.comfortable, s.Unix)
	m.Season.see(e.comfortable, s.Unix)
}

// Look takes in what there is at a moment. While requests wait it is called ten
// times a second: how fast a queue grows tells of a jump before the second is
// over.
func (m *Memory) Look(now time.Time, at Present) {
	m.look = look{now, at.Queued, at.Ready}
}

// Decided takes in what was decided and is going to be carried out.
func (m *Memory) Decided(now time.Time, d Decision, at Present) {
	if more := d.Desired - at.Have(); more > 0 {
		if now.Unix() != m.raise.Unix() {
			m.started = 0
		}
		m.started += more
		m.raise = now
	}
	for _, v := range d.Votes {
		if v.Rule == RuleQueue && at.Queued > 0 {
			m.asked, m.askedAt = v.Count, now
		}
	}
}

// Woke takes in how long a wake took.
func (m *Memory) Woke(from router.Rung, took time.Duration) { m.Times.woke(from, took) }

// Queued is how many requests waited at the end of the last second.
func (m *Memory) Queued() int { return int(m.queued) }

// Expected is how long a wake from a rung takes, as far as is known.
func (m *Memory) Expected(from router.Rung) time.Duration {
	f := m.facts(router.Policy{MaxConcurrency: 1}, Facts{})
	switch from {
	case router.RungFrozen:
		return f.Thaw
	case router.RungStopped:
		return f.Start
	case router.RungAbsent:
		return f.Create
	}
	return 0
}

func (m *Memory) raised() time.Time { return m.raise }

// startedIn is how many instances were added in the second of now.
func (m *Memory) startedIn(now time.Time) int {
	if now.Unix() != m.raise.Unix() {
		return 0
	}
	return m.started
}

// spent counts the instance-seconds of a day.
type spent struct {
	Day     int64 `json:"day,omitempty"` // since 1970
	Seconds int64 `json:"seconds,omitempty"`
}

const day = 24 * 3600

func (s *spent) add(unix int64, running int) {
	if d := unix / day; d != s.Day {
		s.Day, s.Seconds = d, 0
	}
	s.Seconds += int64(running)
}

func (s spent) on(now time.Time) float64 {
	if now.Unix()/day != s.Day {
		return 0
	}
	return float64(s.Seconds)
}

// Idle is the time since the last second with a request; long where there was
// none.
func (m *Memory) Idle(now time.Time) time.Duration {
	if m.Signal.Last == 0 {
		return long
	}
	return max(0, now.Sub(time.Unix(m.Signal.Last+1, 0)))
}

// Next is when an app that sleeps has to be decided for although no request
// comes: something is due then. ok is false where nothing is known.
func (m *Memory) Next(now time.Time, p router.Policy, f Facts) (at time.Time, ok bool) {
	f = m.facts(p, f)
	one, ok1 := m.Rhythm.next(now.Unix()+1, f.Create)
	two, ok2 := m.Season.next(now.Unix()+1, f.Create)
	switch {
	case ok1 && (!ok2 || one < two):
		return time.Unix(one, 0), true
	case ok2:
		return time.Unix(two, 0), true
	}
	return time.Time{}, false
}

// Copy is a Memory that changes apart from m.
func (m *Memory) Copy() Memory {
	c := *m
	c.Levels.Needed, c.Levels.Gaps = slices.Clone(m.Levels.Needed), slices.Clone(m.Levels.Gaps)
	c.Rhythm.Bursts = slices.Clone(m.Rhythm.Bursts)
	for i, d := range m.Season.Days {
		if d != nil {
			copied := *d
			c.Season.Days[i] = &copied
		}
	}
	return c
}
