package cli

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/rehearse"
	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

// What a rehearsal assumes of start times until they were measured, in ms.
var assumed = api.StartTimes{Absent: 600, Stopped: 500, Frozen: 15}

const (
	// leastTraffic is what is too short to tell anything.
	leastTraffic = 10 * time.Minute
	// shortGap is how long nobody may have counted, as when a gateway is started
	// anew, and the traffic is still of use.
	shortGap = 10 * time.Second
	// mostInstances is what no policy's max exceeds.
	mostInstances = 1000
)

// measured takes the app's facts from what was measured.
func (r *rehearsal) measured(t api.Traffic) error {
	if t.Service <= 0 {
		return router.Errorf(router.CodeUnavailable, "how long %s takes for a request was not measured yet: it must answer some first, or say it with --app FILE", r.app)
	}
	whole := func(ms float64) int64 { return int64(math.Round(ms)) }
	r.facts = rehearse.App{
		Name: r.app, ServiceMS: max(1, whole(t.Service)), Concurrency: int64(r.current.MaxConcurrency), MaxInstances: mostInstances,
	}
	if t.Service < 1 {
		r.notes = append(r.notes, fmt.Sprintf("a request is served for %.2f ms; it counts as 1 ms", t.Service))
	}
	var unknown []string
	start := func(what string, ms, otherwise float64) int64 {
		if ms > 0 {
			return whole(ms)
		}
		unknown = append(unknown, fmt.Sprintf("%s (%g ms)", what, otherwise))
		return whole(otherwise)
	}
	r.facts.AbsentMS = start("absent", t.Starts.Absent, assumed.Absent)
	r.facts.StoppedMS = start("stopped", t.Starts.Stopped, assumed.Stopped)
	r.facts.FrozenMS = start("frozen", t.Starts.Frozen, assumed.Frozen)
	if len(unknown) > 0 {
		r.notes = append(r.notes, "no start was measured yet, and the usual time is assumed, from "+strings.Join(unknown, ", "))
	}
	return nil
}

// recorded takes the trace from what was recorded. Short gaps count as silence;
// with longer ones, or with too little, there is nothing to rehearse on.
func (r *rehearsal) recorded(t api.Traffic, last time.Duration) error {
	seconds := t.Requests
	for len(seconds) > 0 && seconds[0] == router.Unrecorded {
		seconds, t.From = seconds[1:], t.From.Add(time.Second)
	}
	for len(seconds) > 0 && seconds[len(seconds)-1] == router.Unrecorded {
		seconds = seconds[:len(seconds)-1]
	}
	requests, missing, from := int64(0), 0, t.From
	var gap, long int
	var longEnd time.Time
	trace := make(rehearse.Trace, len(seconds))
	for i, n := range seconds {
		if n == router.Unrecorded {
			gap++
			missing++
			continue
		}
		if time.Duration(gap)*time.Second > shortGap {
			long, longEnd = gap, from.Add(time.Duration(i)*time.Second)
		}
		gap = 0
		requests += n
		trace[i] = 1000 * n
	}
	have := time.Duration(len(seconds)) * time.Second
	switch {
	case requests == 0:
		return router.Errorf(router.CodeUnavailable, "%s got no request in the last %s: there is nothing to rehearse on; say --trace FILE", r.app, router.Duration(last))
	case long > 0:
		since := from.Add(have).Sub(longEnd).Truncate(time.Minute)
		if since < leastTraffic {
			return router.Errorf(router.CodeUnavailable, "for %s until %s UTC no gateway counted requests, and since then too little time has passed; say --trace FILE", time.Duration(long)*time.Second, longEnd.UTC().Format(time.TimeOnly))
		}
		return router.Errorf(router.CodeUnavailable, "for %s until %s UTC no gateway counted requests: take what came since then, --last %s", time.Duration(long)*time.Second, longEnd.UTC().Format(time.TimeOnly), router.Duration(since))
	case have < leastTraffic:
		return router.Errorf(router.CodeUnavailable, "only %s of %s's traffic are recorded, and a rehearsal needs %s; wait, or say --trace FILE", have, r.app, router.Duration(leastTraffic))
	}
	if missing > 0 {
		r.notes = append(r.notes, fmt.Sprintf("no gateway counted for %d seconds in all; they count as silent", missing))
	}
	if have < last-time.Minute {
		r.notes = append(r.notes, fmt.Sprintf("only %s are recorded", have))
	}
	r.trace, r.start, r.traceName = trace, t.From, "recorded"
	return nil
}
