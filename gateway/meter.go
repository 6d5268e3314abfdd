package gateway

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// RateSink keeps what this gateway counted. FlushRates is called with one
// second's samples, at most one call at a time, and may be called again for a
// second whose call failed: it must be idempotent for the same gateway and
// second. gateway names this run of it.
type RateSink interface {
	FlushRates(ctx context.Context, gateway string, second time.Time, samples map[string]router.Sample) error
}

const (
	flushDeadline = 900 * time.Millisecond // of all calls of one tick
	flushBacklog  = 60                     // seconds kept while the sink does not answer
)

// meter counts requests per app and second. Its cost is in proportion to the
// apps that had requests, not to all apps.
type meter struct {
	gateway string
	sink    RateSink
	log     *slog.Logger

	mu     sync.Mutex
	active []*admission // apps that have, or may have, something to count

	backlog []batch // seconds not taken by the sink yet, oldest first; only tick uses it
	failing bool
}

// newMeter makes the meter of one run of a gateway. It counts under a name of
// its own: a gateway that stops and is started again in the same second would
// otherwise take that second's first half for a repetition.
func newMeter(o Options) *meter {
	run := o.Gateway + "." + strconv.FormatInt(time.Now().UnixMilli(), 36)
	return &meter{gateway: run, sink: o.Rates, log: o.Logger}
}

type batch struct {
	second  time.Time
	samples map[string]router.Sample
}

// note puts an app on the list. It is called for the first request after each
// count, so once a second and app at most.
func (m *meter) note(a *admission) {
	if a.app == "" {
		return // the control API is not an app
	}
	m.mu.Lock()
	if !a.metered {
		a.metered, a.quiet = true, false
		m.active = append(m.active, a)
	}
	m.mu.Unlock()
}

// collect takes the counts since the last collect.
func (m *meter) collect() map[string]router.Sample {
	m.mu.Lock()
	defer m.mu.Unlock()
	var samples map[string]router.Sample
	kept := m.active[:0]
	for _, a := range m.active {
		// In flight first: whatever ended before that look is in the counts
		// that are taken after it, and so an app without any is really done.
		s := router.Sample{InFlight: a.inFlight.Load()}
		s.Requests, s.Done, s.Service = a.arrived.Swap(0), a.done.Swap(0), a.service.Swap(0)
		if t := a.target.Load(); len(t.endpoints) > 0 {
			s.Queued = int64(a.waiting.Load())
		}
		if s != (router.Sample{}) {
			if samples == nil {
				samples = make(map[string]router.Sample, len(m.active))
			}
			samples[a.app] = s
		}
		if s == (router.Sample{}) && a.waiting.Load() == 0 {
			// Twice in a row: at one look a request may be between the queue and
			// the place that it was granted.
			if a.quiet {
				a.metered = false // the next request puts it on the list again
				continue
			}
			a.quiet = true
		} else {
			a.quiet = false
		}
		kept = append(kept, a)
	}
	clear(m.active[len(kept):])
	m.active = kept
	return samples
}

// tick counts the second that has just ended, and hands it and what is left
// from before to the sink.
func (m *meter) tick(ctx context.Context, second time.Time) {
	if samples := m.collect(); samples != nil {
		if len(m.backlog) == flushBacklog {
			m.backlog = append(m.backlog[:0], m.backlog[1:]...)
		}
		m.backlog = append(m.backlog, batch{second, samples})
	}
	ctx, cancel := context.WithTimeout(ctx, flushDeadline)
	defer cancel()
	for len(m.backlog) > 0 {
		b := m.backlog[0]
		if err := m.sink.FlushRates(ctx, m.gateway, b.second, b.samples); err != nil {
			if !m.failing {
				m.log.Warn("request rates cannot be stored; they are kept and tried again", "error", err)
			}
			m.failing = true
			return
		}
		m.backlog = append(m.backlog[:0], m.backlog[1:]...)
		if m.failing {
			m.failing = false
			m.log.Info("request rates are stored again")
		}
	}
}

// run ticks once a second until ctx ends, and a last time then.
func (m *meter) run(ctx context.Context) {
	timer := time.NewTimer(untilNextSecond(time.Now()))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			now := time.Now()
			m.tick(ctx, now.Truncate(time.Second).Add(-time.Second))
			timer.Reset(untilNextSecond(time.Now()))
		case <-ctx.Done():
			m.tick(context.WithoutCancel(ctx), time.Now().Truncate(time.Second))
			return
		}
	}
}

// untilNextSecond is a little more than the time left of this second: a timer
// that fires early would count the same second twice.
func untilNextSecond(now time.Time) time.Duration {
	return now.Truncate(time.Second).Add(time.Second + time.Millisecond).Sub(now)
}

// Load is what an app has here at this moment: requests being served, and
// requests that wait. Both are 0 for an app that is not known.
func (e *Edge) Load(app string) (inFlight, queued int) {
	e.changes.Lock()
	a := e.admissions[app]
	e.changes.Unlock()
	if a == nil {
		return 0, 0
	}
	return int(a.inFlight.Load()), int(a.waiting.Load())
}
