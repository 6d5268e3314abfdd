package rehearse

import (
	"runtime"
	"strconv"
	"sync"

	"github.com/fluxgate/fluxgate/router"
)

// Bar is part of a goal: at most a share of all requests waits longer than so
// many milliseconds. A p99 of at most 100 ms is Bar{100, 0.01}.
type Bar struct {
	MS    int64
	Share float64
}

// Trial is what a policy came to.
type Trial struct {
	Policy router.Policy
	Result
	Shares []float64 // that waited longer, by bar of the goal
	Miss   float64   // how far it is from the goal; 0: it holds
}

// Search looks for the cheapest policy that holds a goal.
type Search struct {
	Goal []Bar
	// Run drives the trace through the plant under a policy. It is called from
	// several goroutines, and must come to the same whenever it is called for a
	// policy. waited must be told as Timing.Waited is.
	Run func(p router.Policy, waited func(came, wait, requests int64)) Result
	// Tried, where set, is told of each policy that was tried; of several
	// goroutines' at once.
	Tried func()
	// Stopped, where set, says whether nobody waits for the result any more.
	Stopped func() bool

	known map[router.Policy]Trial
}

// space are the settings that are tried, in the order in which they are. The
// first matter most.
var space = []struct {
	key    string
	values []string
}{
	{"wake_cost", []string{"0", "1", "3", "10", "30", "100", "300", "1000", "3000"}},
	{"target_utilization", []string{"0.4", "0.5", "0.6", "0.7", "0.8", "0.9"}},
	{"min", []string{"0", "1", "2", "3", "5", "8", "12", "20", "30", "50"}},
	{"slow_window", []string{"10s", "30s", "1m", "2m", "5m", "15m"}},
	{"cool_down", []string{"0s", "5s", "15s", "1m"}},
	{"fast_window", []string{"2s", "5s", "10s", "20s"}},
	{"freeze_after", []string{"auto", "10s", "1m", "10m"}},
	{"stop_after", []string{"auto", "10m", "1h"}},
	{"max_scale_up_rate", []string{"10", "100", "1000"}},
}

const (
	// mostRounds bounds how often all settings are gone through.
	mostRounds = 4
	// worthwhile is how much a change of a setting must save.
	worthwhile = 0.005
)

// SpaceSize is about how many policies a search tries at the most.
func SpaceSize() int {
	n := 0
	for _, s := range space {
		n += len(s.values)
	}
	return n * mostRounds
}

// Best is the trial of the cheapest policy that was found to hold the goal,
// beside that of the current one; where none holds, that of the one that comes
// closest. Max is raised only where nothing holds without.
//
// It goes through the settings one by one, from the current policy and from the
// default one, and takes of each the value that is best while the others stay;
// what saves next to nothing stays as it is.
func (s *Search) Best(current router.Policy) (best, now Trial) {
	s.known = map[router.Policy]Trial{}
	now = s.try([]router.Policy{current})[0]
	best = s.prune(s.descend(now), current)
	limits := map[string]string{"max": strconv.Itoa(current.Max), "max_concurrency": strconv.Itoa(current.MaxConcurrency)}
	if fresh, bad := router.DefaultPolicy().With(limits, ""); len(bad) == 0 && fresh != current {
		fresh.Schedule, fresh.Budget = current.Schedule, current.Budget
		if other := s.prune(s.descend(s.try([]router.Policy{fresh})[0]), current); other.better(best) {
			best = other
		}
	}
	for more := current.Max; best.Miss > 0 && best.Peak >= more && more < 1000; {
		more = min(2*more, 1000)
		p := best.Policy
		p.Max = more
		raised := s.descend(s.try([]router.Policy{p})[0])
		if !raised.better(best) {
			break
		}
		best = s.prune(raised, current)
	}
	return best, now
}

// descend improves on a trial, setting by setting, until nothing does.
func (s *Search) descend(at Trial) Trial {
	for range mostRounds {
		before := at
		for _, dim := range space {
			var policies []router.Policy
			for _, v := range dim.values {
				if p, bad := at.Policy.With(map[string]string{dim.key: v}, ""); len(bad) == 0 && p != at.Policy {
					policies = append(policies, p)
				}
			}
			for _, t := range s.try(policies) {
				if t.better(at) {
					at = t
				}
			}
		}
		if at.Policy == before.Policy {
			break
		}
	}
	return at
}

// prune takes back what differs from the current policy for next to nothing.
func (s *Search) prune(at Trial, current router.Policy) Trial {
	for _, c := range at.Policy.Changes(current) {
		p, bad := at.Policy.With(map[string]string{c.Key: c.To}, "")
		if len(bad) > 0 {
			continue
		}
		if t := s.try([]router.Policy{p})[0]; !at.better(t) {
			at = t
		}
	}
	return at
}

// better reports whether a trial is worth a change from another one.
func (t Trial) better(other Trial) bool {
	if t.Miss > 0 || other.Miss > 0 {
		return t.Miss < other.Miss-1e-9
	}
	return t.Cost() < other.Cost()*(1-worthwhile)
}

// try runs policies, as many at a time as there are cores; of each once.
func (s *Search) try(policies []router.Policy) []Trial {
	trials := make([]Trial, len(policies))
	var all sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, p := range policies {
		if t, ok := s.known[p]; ok {
			trials[i] = t
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			trials[i] = s.trial(p)
		})
	}
	all.Wait()
	for _, t := range trials {
		s.known[t.Policy] = t
	}
	return trials
}

func (s *Search) trial(p router.Policy) Trial {
	t := Trial{Policy: p, Shares: make([]float64, len(s.Goal))}
	if s.Stopped != nil && s.Stopped() {
		return t
	}
	over := make([]int64, len(s.Goal))
	t.Result = s.Run(p, func(_, wait, n int64) {
		for i, bar := range s.Goal {
			if wait > bar.MS {
				over[i] += n
			}
		}
	})
	for i, bar := range s.Goal {
		if t.Requests > 0 {
			t.Shares[i] = float64(over[i]) / float64(t.Requests)
		}
		switch {
		case t.Shares[i] <= bar.Share:
		case bar.Share > 0:
			t.Miss += t.Shares[i]/bar.Share - 1
		default:
			t.Miss += 1 + 1000*t.Shares[i]
		}
	}
	if s.Tried != nil {
		s.Tried()
	}
	return t
}
