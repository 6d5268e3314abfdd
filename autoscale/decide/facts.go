package decide

import (
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Facts are what is known of an app beside its traffic. What is 0 is taken from
// what the Memory measured, or else from what is usual.
type Facts struct {
	Slots   int           // requests that an instance serves at once
	Service time.Duration // mean time that a request is served
	Thaw    time.Duration // from frozen to ready
	Start   time.Duration // from stopped to ready
	Create  time.Duration // from nothing to ready

	guessed bool // Service was neither told nor measured
}

// What is usual, until it was measured.
const (
	usualService = time.Millisecond
	usualThaw    = 15 * time.Millisecond
	usualStart   = 500 * time.Millisecond
	usualCreate  = 600 * time.Millisecond
)

// capacity is how many requests a second a saturated instance completes.
func (f Facts) capacity() float64 { return float64(f.Slots) / f.Service.Seconds() }

// facts completes f.
func (m *Memory) facts(p router.Policy, f Facts) Facts {
	first := func(known ...time.Duration) time.Duration {
		for _, d := range known {
			if d > 0 {
				return d
			}
		}
		return 0
	}
	if f.Slots == 0 {
		f.Slots = p.MaxConcurrency
	}
	f.guessed = f.Service == 0 && m.Times.service() == 0
	f.Service = max(first(f.Service, m.Times.service(), usualService), 10*time.Microsecond)
	f.Thaw = first(f.Thaw, m.Times.Thaw, usualThaw)
	f.Start = first(f.Start, m.Times.Start, usualStart)
	f.Create = first(f.Create, m.Times.Create, usualCreate)
	// A thaw that was slow once, on a node that had no time, is no reason to start
	// anew the next time: that would have been slower still.
	f.Thaw = min(f.Thaw, f.Create/2)
	return f
}

// Times are measured times, smoothed.
type Times struct {
	Thaw   time.Duration `json:"thaw,omitempty"`
	Start  time.Duration `json:"start,omitempty"`
	Create time.Duration `json:"create,omitempty"`

	Done    float64 `json:"done,omitempty"`    // requests answered, those of long ago fading
	Service float64 `json:"service,omitempty"` // seconds that they were served, likewise
}

// serviceFades is how much of what was measured counts a second later, where
// there was anything to measure: half of it after a minute.
const serviceFades = 0.9885

func (t *Times) served(done int64, service time.Duration) {
	if done > 0 {
		t.Done = t.Done*serviceFades + float64(done)
		t.Service = t.Service*serviceFades + service.Seconds()
	}
}

func (t *Times) service() time.Duration {
	if t.Done < 1 {
		return 0
	}
	return time.Duration(t.Service / t.Done * float64(time.Second))
}

// woke takes in how long a wake took. Slow ones count soon, fast ones by and by:
// what is expected of the next should rather be too long.
func (t *Times) woke(from router.Rung, took time.Duration) {
	at := map[router.Rung]*time.Duration{router.RungFrozen: &t.Thaw, router.RungStopped: &t.Start, router.RungAbsent: &t.Create}[from]
	switch {
	case at == nil:
	case *at == 0:
		*at = took
	case took > *at:
		*at += (took - *at) / 2
	default:
		*at -= (*at - took) / 4
	}
}

// Merge takes over what other has measured and t has not.
func (t *Times) Merge(other Times) {
	for _, at := range [][2]*time.Duration{{&t.Thaw, &other.Thaw}, {&t.Start, &other.Start}, {&t.Create, &other.Create}} {
		if *at[0] == 0 {
			*at[0] = *at[1]
		}
	}
	if t.Done == 0 {
		t.Done, t.Service = other.Done, other.Service
	}
}
