package autoscale

import (
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// history holds the per-second samples of active apps, as far back as the
// longest slow window in use. It belongs to the tick loop alone.
type history struct {
	upTo   int64                // last second read
	apps   map[string]*track    // by app
	active map[string]time.Time // last activity of every app that ever had some
	last   map[string]Decision  // what was decided last, to note only changes
}

// track is one app's samples; at[0] is the sample of second from.
type track struct {
	from int64
	at   []router.Sample
}

func newHistory() *history {
	return &history{apps: map[string]*track{}, active: map[string]time.Time{}, last: map[string]Decision{}}
}

// add takes in what was read for one second.
func (h *history) add(second int64, samples map[string]router.Sample) {
	for app, s := range samples {
		t := h.apps[app]
		if t == nil {
			t = &track{from: second}
			h.apps[app] = t
		}
		for int64(len(t.at)) <= second-t.from {
			t.at = append(t.at, router.Sample{})
		}
		if i := second - t.from; i >= 0 {
			t.at[i] = s
		}
		if s.Requests > 0 || s.InFlight > 0 || s.Queued > 0 {
			if end := time.Unix(second+1, 0); end.After(h.active[app]) {
				h.active[app] = end
			}
		}
	}
	h.upTo = max(h.upTo, second)
}

// seconds are an app's samples up to the last second read, silent ones
// included, no more than window of them.
func (h *history) seconds(app string, window time.Duration) []router.Sample {
	t := h.apps[app]
	if t == nil {
		return nil
	}
	n := int64(window / time.Second)
	start := max(h.upTo-n+1, t.from)
	if start > h.upTo {
		return nil
	}
	out := make([]router.Sample, h.upTo-start+1)
	for i := range out {
		if j := start + int64(i) - t.from; j < int64(len(t.at)) {
			out[i] = t.at[j]
		}
	}
	return out
}

// trim forgets samples older than keep and apps that have none left.
func (h *history) trim(keep time.Duration) {
	oldest := h.upTo - int64(keep/time.Second)
	for app, t := range h.apps {
		if gone := oldest - t.from; gone >= int64(len(t.at)) {
			delete(h.apps, app)
		} else if gone > 0 {
			t.at = append([]router.Sample(nil), t.at[gone:]...)
			t.from = oldest
		}
	}
}
