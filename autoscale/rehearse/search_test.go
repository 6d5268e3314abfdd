package rehearse

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// model is a Run without a plant: what waits and what it costs follow from a
// policy by a formula, of 1000 requests.
func model(over func(router.Policy) int64, cost func(router.Policy) float64) func(router.Policy, func(came, wait, n int64)) Result {
	return func(p router.Policy, waited func(came, wait, n int64)) Result {
		n := over(p)
		waited(0, 5000, n)
		waited(0, 100, 1000-n) // just within the bar
		return Result{Requests: 1000, InstanceSeconds: cost(p), Peak: p.Max}
	}
}

func TestSearch(t *testing.T) {
	p99 := []Bar{{100, 0.01}}
	base := router.DefaultPolicy()
	tests := map[string]struct {
		over  func(router.Policy) int64
		cost  func(router.Policy) float64
		holds bool
		want  map[string]string // settings that differ from the current ones
	}{
		"the cheapest that holds": {
			func(p router.Policy) int64 { return 100 / int64(1+p.WakeCost) },
			func(p router.Policy) float64 { return 100 + p.WakeCost },
			true,
			map[string]string{"wake_cost": "10"}, // 3: 25 of 1000 wait; 10: 9
		},
		"two settings together": {
			func(p router.Policy) int64 { return max(0, 50-20*int64(p.Min)) + int64(100*p.TargetUtilization)/10 },
			func(p router.Policy) float64 { return 100*float64(p.Min) - 100*p.TargetUtilization + 1000 },
			true,
			map[string]string{"min": "3", "target_utilization": "0.9"},
		},
		"what saves nothing stays": {
			func(router.Policy) int64 { return 0 },
			func(p router.Policy) float64 { return 1000 + p.WakeCost/100 },
			true, nil,
		},
		"nothing holds: the closest": {
			func(p router.Policy) int64 { return 100 - int64(p.Min) },
			func(p router.Policy) float64 { return float64(1 + p.Min) },
			false,
			map[string]string{"min": "50", "max": "80"},
		},
		"more instances than allowed, where needed": {
			func(p router.Policy) int64 { return max(0, 500-10*int64(p.Max)) },
			func(p router.Policy) float64 { return float64(p.Max) },
			true,
			map[string]string{"max": "80"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var tried atomic.Int64
			search := func() (Trial, Trial) {
				s := Search{Goal: p99, Run: model(tt.over, tt.cost), Tried: func() { tried.Add(1) }}
				return s.Best(base)
			}
			best, now := search()
			if now.Policy != base {
				t.Errorf("the current policy is %+v", now.Policy)
			}
			if (best.Miss == 0) != tt.holds {
				t.Errorf("held: %v, %v wait", best.Miss == 0, best.Shares)
			}
			want, bad := base.With(tt.want, "")
			if len(bad) > 0 {
				t.Fatal(bad)
			}
			if best.Policy != want {
				t.Errorf("changes %+v, want %+v", base.Changes(best.Policy), base.Changes(want))
			}
			if n := tried.Load(); n < 30 || n > 5*int64(SpaceSize()) {
				t.Errorf("%d were tried", n)
			}
			if again, _ := search(); again.Policy != best.Policy {
				t.Errorf("the second time it is %+v", base.Changes(again.Policy))
			}
		})
	}
}

// TestSearchTriesOnce: no policy is run twice, whatever the path.
func TestSearchTriesOnce(t *testing.T) {
	runs := make(chan router.Policy, 10*SpaceSize())
	s := Search{Goal: []Bar{{100, 0}}, Run: func(p router.Policy, waited func(came, wait, n int64)) Result {
		runs <- p
		waited(0, 5000, int64(p.SlowWindow.D()/time.Second))
		return Result{Requests: 1000, InstanceSeconds: 1}
	}}
	s.Best(router.DefaultPolicy())
	close(runs)
	seen := map[router.Policy]bool{}
	for p := range runs {
		if seen[p] {
			t.Fatalf("run twice: %+v", router.DefaultPolicy().Changes(p))
		}
		seen[p] = true
	}
}

func TestSearchStops(t *testing.T) {
	s := Search{Goal: []Bar{{100, 0}}, Stopped: func() bool { return true }, Run: func(router.Policy, func(came, wait, n int64)) Result {
		t.Error("it goes on")
		return Result{}
	}}
	s.Best(router.DefaultPolicy())
}
