package rehearse

import (
	"math"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// baseline is the result of Knative's algorithm for a trace and an app, once
// with concurrency as its metric and once with requests per second.
type baseline struct {
	Trace, App, Policy string
	Cost               float64 `json:"instance_seconds"` // it freezes nothing
	Ideal              float64 `json:"ideal_instance_seconds"`
	Over250            float64 `json:"share_wait_gt_250ms"`
	Flaps              float64 `json:"flaps_per_hour"`
}

// TestBaselines: with the default policy, for every reference trace and app, the
// decisions cost no more than the dearer of the two baselines, and let no larger
// share of the requests wait than the better of them; over all, they hold the
// bars of docs/benchmarks.md.
func TestBaselines(t *testing.T) {
	all := map[[2]string][]baseline{}
	for _, b := range loadJSON[[]baseline](t, traces+"/baseline.json") {
		all[[2]string{b.Trace, b.App}] = append(all[[2]string{b.Trace, b.App}], b)
	}
	var logs, waits, flaps, theirs float64
	for _, trace := range traceNames {
		for _, app := range appNames {
			t.Run(trace+" "+app, func(t *testing.T) {
				a := loadApp(t, app)
				s := NewScaler(a, router.DefaultPolicy())
				r := Run(loadTrace(t, trace), a, s, s.Timing())
				both := all[[2]string{trace, app}]
				if len(both) != 2 {
					t.Fatalf("%d baselines", len(both))
				}
				dear, least := max(both[0].Cost, both[1].Cost), min(both[0].Over250, both[1].Over250)
				t.Logf("cost %.2f of the ideal (baseline %.2f), %.4f %% wait more than 250 ms (baseline %.4f %%), %.1f flaps an hour", r.Cost()/r.IdealSeconds, dear/r.IdealSeconds, 100*r.Over250, 100*least, r.Flaps)
				if r.Cost() > dear {
					t.Errorf("it costs %.0f instance-seconds, the dearer baseline %.0f", r.Cost(), dear)
				}
				if r.Over250 > least {
					t.Errorf("a share of %f waits, with the better baseline %f", r.Over250, least)
				}
				logs += math.Log(r.Cost() / r.IdealSeconds)
				waits += r.Over250
				flaps += r.Flaps
				for _, b := range both {
					if b.Policy == "kpa" {
						theirs += b.Flaps
					}
				}
			})
		}
	}
	pairs := float64(len(traceNames) * len(appNames))
	cost := math.Exp(logs / pairs)
	t.Logf("geometric mean of cost / ideal %.3f, mean share that waits %.3f %%, %.1f flaps an hour (baseline %.1f)", cost, 100*waits/pairs, flaps/pairs, theirs/pairs)
	if cost > 2.5 || waits/pairs > 0.02 || flaps > theirs {
		t.Error("the bars over all pairs are not held")
	}
}
