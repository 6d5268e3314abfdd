package autoscale

import (
	"fmt"
	"math"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Observation is what a decision is made from.
type Observation struct {
	// Seconds are the app's samples, summed over gateways: one a second, the
	// newest last, seconds without any request included. Decide looks at no
	// more than the policy's slow window of them.
	Seconds []router.Sample
	// Idle is the time since the last request arrived or was being served.
	Idle time.Duration
}

// Decision is how many instances of the serving release should be ready, and
// why.
type Decision struct {
	Desired     int
	Rule        string  // rps, concurrency, warm, idle, min, max
	Reason      string  // in a sentence
	RPS         float64 // average of the fast window
	Concurrency float64 // average of the fast window
}

// Decide is pure. Load is averaged over the fast window, so that a rise counts
// within seconds; the highest such average of the slow window holds, so that a
// dip does not lower what the next moment needs again. Without any request for
// FreezeAfter nothing needs to be ready.
func Decide(p router.Policy, o Observation) Decision {
	fast := max(1, int(p.FastWindow.D()/time.Second))
	slow := max(fast, int(p.SlowWindow.D()/time.Second))
	seconds := o.Seconds
	if len(seconds) > slow {
		seconds = seconds[len(seconds)-slow:]
	}
	d := Decision{}
	peakRPS, peakConc := 0.0, 0.0
	var sumReq int64
	var sumConc float64
	conc := steady(seconds)
	for i := range seconds {
		sumReq += seconds[i].Requests
		sumConc += conc[i]
		if i >= fast {
			sumReq -= seconds[i-fast].Requests
			sumConc -= conc[i-fast]
		}
		// The window is never shorter than fast: a burst's first second is not
		// yet a rate.
		d.RPS, d.Concurrency = float64(sumReq)/float64(fast), math.Max(0, sumConc)/float64(fast)
		peakRPS, peakConc = math.Max(peakRPS, d.RPS), math.Max(peakConc, d.Concurrency)
	}
	byRPS, byConc := need(peakRPS, p.TargetRPS), need(peakConc, p.TargetConcurrency)
	switch {
	case o.Idle >= p.FreezeAfter.D():
		d.Desired, d.Rule = 0, "idle"
		d.Reason = fmt.Sprintf("no request for %s (freeze_after %s)", o.Idle.Round(time.Second), p.FreezeAfter)
	case byRPS > 1 && byRPS >= byConc:
		d.Desired, d.Rule = byRPS, "rps"
		d.Reason = fmt.Sprintf("up to %.1f requests/s, %g for each instance", peakRPS, p.TargetRPS)
	case byConc > 1:
		d.Desired, d.Rule = byConc, "concurrency"
		d.Reason = fmt.Sprintf("up to %.1f requests at once, %g for each instance", peakConc, p.TargetConcurrency)
	default:
		d.Desired, d.Rule = 1, "warm"
		d.Reason = fmt.Sprintf("last request %s ago, one instance is enough", o.Idle.Round(time.Second))
	}
	if d.Desired < p.Min {
		d.Desired, d.Rule = p.Min, "min"
		d.Reason += fmt.Sprintf("; min is %d", p.Min)
	}
	if d.Desired > p.Max {
		d.Rule = "max"
		d.Reason += fmt.Sprintf("; that asks for %d, max is %d", d.Desired, p.Max)
		d.Desired = p.Max
	}
	return d
}

func need(load, target float64) int {
	// A hair of tolerance: 200.0000001 of 200 is one instance, not two.
	return int(math.Ceil(load/target - 1e-6))
}

// steady is the requests at once of each second, less what only a single
// sample saw: a queue that is there in one sample and in neither neighbour
// emptied by itself.
func steady(seconds []router.Sample) []float64 {
	at := func(i int) float64 {
		if i < 0 || i >= len(seconds) {
			return 0
		}
		return float64(seconds[i].InFlight + seconds[i].Queued)
	}
	out := make([]float64, len(seconds))
	for i := range seconds {
		out[i] = math.Min(at(i), math.Max(at(i-1), at(i+1)))
	}
	return out
}

// QueueReading is one look at an app's live counters.
type QueueReading struct {
	At       time.Duration // since the queue formed
	InFlight int
	Queued   int
}

// DecideQueue says how many instances a queue asks for, from readings since it
// formed: none more (0) where it will be gone before a new instance could be
// ready, which takes about wake.
func DecideQueue(p router.Policy, readings []QueueReading, wake time.Duration) Decision {
	if len(readings) < 2 {
		return Decision{Rule: "queue", Reason: "too early to tell"}
	}
	first, last := readings[0], readings[len(readings)-1]
	if last.Queued == 0 {
		return Decision{Rule: "queue", Reason: "the queue is gone"}
	}
	if gone := first.Queued - last.Queued; gone > 0 {
		left := time.Duration(float64(last.At-first.At) * float64(last.Queued) / float64(gone))
		if left < wake {
			return Decision{Rule: "queue", Reason: fmt.Sprintf("the queue will be gone in %s, sooner than a new instance is ready", left.Round(time.Millisecond))}
		}
	}
	n := min(max(need(float64(last.InFlight+last.Queued), p.TargetConcurrency), 1), p.Max)
	return Decision{
		Desired: n, Rule: "queue", Concurrency: float64(last.InFlight + last.Queued),
		Reason: fmt.Sprintf("%d requests wait and %d are being served, %g for each instance", last.Queued, last.InFlight, p.TargetConcurrency),
	}
}
