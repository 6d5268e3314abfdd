// Package decide says how many instances of an app should be ready and how many
// should stay frozen, and why. All of it is pure: a Memory is folded from what
// gateways measured second by second, and Decide looks at nothing but a moment,
// a policy, an app's facts, its Memory, and what there is at that moment. The
// same code decides live and in a rehearsal.
//
// docs/autoscaling.md explains the algorithm to operators.
package decide

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// frozenPrice is what a frozen instance costs of a running one: it holds memory
// and uses no CPU.
const frozenPrice = 0.1

// flapCost is what lowering an instance and raising it again is worth beside the
// wait, in instance-seconds: work for the node, and a count that others follow.
const flapCost = 80

// frozenFloor is how long a frozen instance is kept at the most before anything
// was learned of its app's gaps.
const frozenFloor = 300 * time.Second

// Present is what an app has at the moment of a decision.
type Present struct {
	Ready    int
	Starting []time.Duration // how long each will take yet, as start times tell
	Frozen   int
	Stopped  int
	Leaving  int           // of the ready and starting: on nodes that they have to leave, so that others will take their place
	Queued   int           // requests that wait, at all gateways or at the one that asks
	Idle     time.Duration // since the last request, or since the newest instance was ready
}

// Have is what counts against the desired number: ready and starting.
func (p Present) Have() int { return p.Ready + len(p.Starting) }

// staying is what there is without those that have to leave.
func (p Present) staying() int { return p.Have() - p.Leaving }

// Decision is how many instances should be ready or starting, how many more
// should stay frozen, and why.
type Decision struct {
	Desired int
	Frozen  int
	Rule    string // of the vote that won
	Reason  string // in a sentence
	Votes   []Vote // what each rule asked for, the winner first: what would have been done otherwise
	Signals Signals
}

// Vote is what one rule asks for.
type Vote struct {
	Rule   string `json:"rule"`
	Count  int    `json:"count"`
	Reason string `json:"reason"`
}

// Signals are the measurements behind a decision.
type Signals struct {
	Rate    float64       // requests/s, now
	Growth  float64       // requests/s each second, 0 where it may be chance
	Noise   float64       // what forecasts are off by beyond chance, of the rate
	Load    float64       // requests at once that Rate comes to
	Service time.Duration // mean time that a request is served
	Queued  int
}

// The rules, as decisions name them.
const (
	RuleIdle     = "idle"     // nothing asks for an instance
	RuleMin      = "min"      // the policy's min, or a schedule's
	RuleRate     = "rate"     // the traffic there is and its growth
	RuleWarm     = "warm"     // keeping costs less than waking
	RuleQueue    = "queue"    // requests wait
	RuleRhythm   = "rhythm"   // a burst comes at regular times, and the next is due
	RuleSeason   = "season"   // the days before had it at this time
	RuleCoolDown = "cooldown" // an instance was added moments ago
	RuleMax      = "max"      // the policy's max, or a schedule's
	RuleBudget   = "budget"   // the day's instance-hours are spent
	RuleSpeed    = "speed"    // max_scale_up_rate
)

// Decide is pure. What it looks at of m was observable before now.
func Decide(now time.Time, p router.Policy, f Facts, m *Memory, at Present) Decision {
	f = m.facts(p, f)
	e := m.estimate(now.Unix(), p, f)
	d := Decision{Signals: Signals{
		Rate: e.rate, Growth: e.growth, Noise: m.Signal.noise(), Load: e.rate * f.Service.Seconds(), Service: f.Service, Queued: at.Queued,
	}}
	vote := func(rule string, count int, format string, args ...any) {
		if count > 0 {
			d.Votes = append(d.Votes, Vote{rule, count, fmt.Sprintf(format, args...)})
		}
	}
	have := at.Have()
	least, most, entry := p.Schedule.At(now, p.Min, p.Max)
	if entry != "" {
		vote(RuleMin, least, "the schedule %q keeps %d", entry, least)
	} else {
		vote(RuleMin, least, "min is %d", least)
	}
	n := e.comfortable
	if e.least <= have && have < n {
		n = max(e.least, have) // between enough and comfortable nothing changes
	}
	if have > 0 || n > 1 { // the first one is woken by the request itself
		vote(RuleRate, n, "%s", e.reason)
	}
	if warm, why := m.warm(now, p, f, at); warm > n {
		vote(RuleWarm, warm, "%s", why)
	}
	if q, why := m.queue(now, p, f, at, e); q > 0 {
		vote(RuleQueue, q, "%s", why)
	}
	due := m.Rhythm.due(now.Unix(), f.Create)
	if due.near && due.worth(p.WakeCost, f) {
		vote(RuleRhythm, due.count, "the next burst is due about %s; they come every %s", time.Unix(due.at, 0).UTC().Format("15:04:05"), time.Duration(due.period)*time.Second)
	}
	if s := m.Season.due(now, f.Create); s > 0 {
		vote(RuleSeason, s, "the two days before needed %d at this time", s)
	}
	slept := p.FreezeAfter != router.Auto && at.Idle >= p.FreezeAfter.D() // the policy's own word goes first
	if cool := p.CoolDown.D() - now.Sub(m.raised()); cool > 0 && at.staying() > 0 && !slept {
		vote(RuleCoolDown, at.staying(), "an instance was added %s ago (cool_down %s)", now.Sub(m.raised()).Round(100*time.Millisecond), p.CoolDown)
	}
	// The first of equals wins.
	slices.SortStableFunc(d.Votes, func(a, b Vote) int { return cmp.Compare(b.Count, a.Count) })
	d.Rule, d.Reason = RuleIdle, fmt.Sprintf("no request for %s", at.Idle.Round(time.Second))
	if len(d.Votes) > 0 {
		d.Desired, d.Rule, d.Reason = d.Votes[0].Count, d.Votes[0].Rule, d.Votes[0].Reason
	}
	d.limit(now, p, m, at, least, most, entry)
	d.Frozen = m.frozen(now, p, f, at, due, d.Desired)
	return d
}

// limit holds what the rules ask for within the policy's limits.
func (d *Decision) limit(now time.Time, p router.Policy, m *Memory, at Present, least, most int, entry string) {
	lower := func(to int, rule, format string, args ...any) {
		if d.Desired <= to {
			return
		}
		d.Reason = fmt.Sprintf("%s; that asks for %d, %s", d.Reason, d.Desired, fmt.Sprintf(format, args...))
		d.Desired, d.Rule = to, rule
	}
	if p.Budget > 0 && m.Spent.on(now) >= p.Budget*3600 {
		lower(max(1, least), RuleBudget, "the day's %g instance-hours are spent", p.Budget)
	}
	if entry != "" {
		lower(most, RuleMax, "the schedule's max is %d", most)
	} else {
		lower(most, RuleMax, "max is %d", most)
	}
	if have := at.Have(); d.Desired > have {
		lower(have+max(0, p.MaxScaleUpRate-m.startedIn(now)), RuleSpeed, "max_scale_up_rate is %d a second", p.MaxScaleUpRate)
	}
}

// warm is how many of the instances that there are, are kept ready although the
// traffic does not need them now.
func (m *Memory) warm(now time.Time, p router.Policy, f Facts, at Present) (int, string) {
	second := now.Unix()
	keep := func(rank int) bool {
		age := m.Levels.age(rank, second)
		if rank == 0 {
			if p.FreezeAfter != router.Auto {
				return at.Idle < p.FreezeAfter.D()
			}
			if at.Idle < p.CoolDown.D() {
				return true // it came up just now, and may not have been asked yet
			}
		}
		if age >= p.SlowWindow.D() {
			return false
		}
		return m.Levels.keep(rank, age, 1-frozenPrice, flapCost+p.WakeCost*f.Thaw.Seconds())
	}
	n := at.Have()
	for n > 0 && !keep(n-1) {
		n--
	}
	if n == 0 {
		return 0, ""
	}
	if n == 1 && p.FreezeAfter != router.Auto {
		return n, fmt.Sprintf("last request %s ago (freeze_after %s)", at.Idle.Round(time.Second), p.FreezeAfter)
	}
	return n, fmt.Sprintf("instance %d was needed %s ago, and may well be again soon", n, min(m.Levels.age(n-1, second), at.Idle).Round(time.Second))
}

// frozen is how many instances beyond the desired ones should stay frozen rather
// than be stopped.
func (m *Memory) frozen(now time.Time, p router.Policy, f Facts, at Present, due due, desired int) int {
	second := now.Unix()
	penalty := p.WakeCost * (f.Create - f.Thaw).Seconds()
	floor := min(time.Duration(penalty/frozenPrice*float64(time.Second)), frozenFloor)
	if due.confidence > 0 {
		// It is known when the next burst comes: what has to be started for it
		// can be started in time, at this price.
		floor = 0
		penalty = min(penalty, (1-due.confidence)*penalty+due.price(f))
	}
	n := at.Have() + at.Frozen
	for ; n > desired; n-- {
		age := m.Levels.age(n-1, second)
		if n == 1 {
			age = min(age, at.Idle) // it may have come up, and never have been asked
		}
		if p.StopAfter != router.Auto {
			if min(age, at.Idle) < p.StopAfter.D() {
				break
			}
			continue
		}
		if age < floor || m.Levels.keep(n-1, age, frozenPrice, penalty) {
			break
		}
	}
	return max(0, n-desired)
}

// atLeast is the smallest whole number not below x, but for what rounding makes
// of it.
func atLeast(x float64) int { return int(math.Ceil(x - 1e-9)) }
