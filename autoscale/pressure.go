package autoscale

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

const (
	// highWater is how much of a node may be in use before idle instances there
	// have to go down the ladder, lowWater is where that ends.
	highWater = 0.9
	lowWater  = 0.8
	// justNow is how long after a request an instance is left alone.
	justNow = 5 * time.Second
	// soon is the time within which an instance is held to be needed again.
	soon = time.Minute
	// refault is how many bytes a second a thawed instance reads again of what
	// was taken from it.
	refault = 1 << 30
	// leastCPU is how many cores an idle instance uses for which freezing it is
	// worth a wake: most use none.
	leastCPU = 0.02
	// reclaimable is how much of what a frozen instance holds is taken to be
	// page cache, until it was measured.
	reclaimable = 0.5
)

// Load is how full a node is.
type Load struct {
	Capacity router.Bytes // memory
	Used     router.Bytes
	Need     router.Bytes // what running instances have reserved and do not use yet, those that are starting included
	CPUs     int
	CPU      float64 // cores in use; 0 where it is not known
}

// Shortage is what has to come free on a node; what is 0 or less is not short.
type Shortage struct {
	Memory  router.Bytes // that is held
	Reserve router.Bytes // that is counted by placement
	CPU     float64      // cores
}

// Short is what is lacking on a node. Once a node is short, it stays so until
// what is in use has come down to the low-water mark. It is pure.
func Short(l Load, memoryWas, cpuWas bool) Shortage {
	var s Shortage
	mark := func(was bool) float64 {
		if was {
			return lowWater
		}
		return highWater
	}
	if use := float64(l.Used + l.Need); l.Capacity > 0 && use > mark(memoryWas)*float64(l.Capacity) {
		s.Memory = router.Bytes(math.Ceil(use - lowWater*float64(l.Capacity)))
	}
	if all := float64(l.CPUs); l.CPU > mark(cpuWas)*all && all > 0 {
		s.CPU = l.CPU - lowWater*all
	}
	return s
}

// Resident is an instance as it matters where its node runs short.
type Resident struct {
	ID      string
	App     string
	State   router.InstanceState
	Serving bool // of the release that serves
	Kept    bool // needed for the policy's min
	Claimed bool // somebody is changing it

	InFlight int64     // requests that its app has, and connections that its clients hold open unless the policy says freeze_sockets
	Busy     time.Time // until when it asked not to be stopped

	Idle    time.Duration
	Due     time.Duration // until it is expected to be needed; 0: not known
	Held    router.Bytes  // memory that it holds
	Reserve router.Bytes  // memory that placement counts for it
	CPU     float64       // cores that it uses

	WakeCost    float64       // the policy's
	Thaw, Start time.Duration // how long a wake takes, frozen and stopped
	Freezes     bool          // its node can freeze it
	Reclaims    bool          // its node can take page cache from it while it is frozen, and has not yet
}

// Step is one instance that goes down the ladder. A frozen one that stays on its
// rung gives up its page cache only.
type Step struct {
	ID, App string
	To      router.Rung
	Memory  router.Bytes // expected to come free
	Reserve router.Bytes
	CPU     float64
	Regret  float64 // expected cost, in instance-seconds: what waking costs, by how likely that is soon
	Why     string
}

// Protected is why an instance must stay on its rung; empty where it need not.
func Protected(r Resident, now time.Time) string {
	switch {
	case r.State != router.Ready && r.State != router.Frozen:
		return "it is " + string(r.State)
	case r.Claimed:
		return "somebody is changing it"
	case now.Before(r.Busy):
		return "it is busy, and asked not to be stopped before " + r.Busy.UTC().Format(time.RFC3339)
	case r.State == router.Frozen:
		return ""
	case r.InFlight > 0:
		return fmt.Sprintf("its app has %d requests or open connections", r.InFlight)
	case r.Kept:
		return "min keeps it ready"
	case r.Idle < justNow:
		return "its app had a request a moment ago"
	}
	return ""
}

// Relieve chooses which instances go down the ladder until a node lacks nothing
// any more: those whose going is regretted least for what it frees, over all
// apps. An instance that must stay is never chosen, nor one without which enough
// is freed already. The order of list is of no matter. It is pure.
func Relieve(s Shortage, list []Resident, now time.Time) []Step {
	ranks := rank(list)
	var options []Step
	for _, r := range list {
		if Protected(r, now) == "" {
			options = append(options, steps(r, ranks[r.ID], s)...)
		}
	}
	price := func(o Step) float64 { return o.Regret / covers(o, s) }
	options = slices.DeleteFunc(options, func(o Step) bool { return covers(o, s) <= 0 })
	slices.SortFunc(options, func(a, b Step) int {
		return cmp.Or(cmp.Compare(price(a), price(b)), cmp.Compare(covers(b, s), covers(a, s)), cmp.Compare(a.ID, b.ID), cmp.Compare(a.To, b.To))
	})
	left := s
	chosen := map[string]Step{}
	var order []string
	for _, o := range options {
		if covers(o, left) <= 0 {
			continue
		}
		was, ok := chosen[o.ID]
		if ok && o.Memory <= was.Memory && o.Reserve <= was.Reserve && o.CPU <= was.CPU {
			continue
		}
		if !ok {
			order = append(order, o.ID)
		}
		chosen[o.ID] = o
		left.Memory -= o.Memory - was.Memory
		left.Reserve -= o.Reserve - was.Reserve
		left.CPU -= o.CPU - was.CPU
	}
	// The last ones chosen may free so much that others can stay: the dearest do.
	var out []Step
	for _, id := range slices.Backward(order) {
		o := chosen[id]
		without := Shortage{Memory: left.Memory + o.Memory, Reserve: left.Reserve + o.Reserve, CPU: left.CPU + o.CPU}
		if !lacking(without) {
			left = without
			continue
		}
		out = append(out, o)
	}
	slices.Reverse(out)
	return out
}

func lacking(s Shortage) bool { return s.Memory > 0 || s.Reserve > 0 || s.CPU > 1e-9 }

// covers is how much of a shortage a step makes good, as a share.
func covers(o Step, s Shortage) float64 {
	share := func(frees, lacks float64) float64 {
		if lacks <= 1e-9 {
			return 0
		}
		return min(frees/lacks, 1)
	}
	return share(float64(o.Memory), float64(s.Memory)) + share(float64(o.Reserve), float64(s.Reserve)) + share(o.CPU, s.CPU)
}

// steps are the ways down that an instance has.
func steps(r Resident, rank int, s Shortage) []Step {
	chance := likelihood(r, rank)
	regret := func(longer time.Duration) float64 { return chance * r.WakeCost * longer.Seconds() }
	step := func(to router.Rung, longer time.Duration, memory router.Bytes) Step {
		o := Step{ID: r.ID, App: r.App, To: to, Memory: memory, Regret: regret(max(longer, 0))}
		if r.State == router.Ready {
			o.Reserve = r.Reserve
			if r.CPU >= leastCPU {
				o.CPU = r.CPU
			}
		}
		o.Why = describe(r, o)
		return o
	}
	var list []Step
	if r.State == router.Frozen {
		if r.Reclaims {
			cache := router.Bytes(reclaimable * float64(r.Held))
			list = append(list, step(router.RungFrozen, time.Duration(float64(cache)/refault*float64(time.Second)), cache))
		}
		return append(list, step(router.RungStopped, r.Start-r.Thaw, r.Held))
	}
	if r.Freezes {
		list = append(list, step(router.RungFrozen, r.Thaw, 0))
	}
	if s.Memory > 0 || !r.Freezes {
		// What it has reserved and does not use need not be kept free any more.
		list = append(list, step(router.RungStopped, r.Start, max(r.Held, r.Reserve)))
	}
	return list
}

// likelihood is how likely an instance is needed soon. Where nothing else is
// known, one that has been idle for long will be so for as long again. Of several
// of one app, the second is needed only where the first does not do.
func likelihood(r Resident, rank int) float64 {
	if !r.Serving {
		return 0 // but for a rollback
	}
	p := soon.Seconds() / (soon + max(r.Idle, 0)).Seconds()
	if r.Due > 0 && r.Due <= soon {
		p = 1
	}
	return math.Pow(p, float64(rank+1))
}

// rank numbers the instances of each app, the one that is used first at 0: ready
// before frozen, then those that were used last.
func rank(list []Resident) map[string]int {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b Resident) int {
		return cmp.Or(cmp.Compare(a.App, b.App), compareBool(b.State == router.Ready, a.State == router.Ready), cmp.Compare(a.Idle, b.Idle), cmp.Compare(a.ID, b.ID))
	})
	ranks, app, n := map[string]int{}, "", 0
	for _, r := range sorted {
		if r.App != app {
			app, n = r.App, 0
		}
		if r.Serving && (r.State == router.Ready || r.State == router.Frozen) {
			ranks[r.ID] = n
			n++
		}
	}
	return ranks
}

// describe says what a step does and why it is the one.
func describe(r Resident, o Step) string {
	what := map[router.Rung]string{router.RungFrozen: "is frozen", router.RungStopped: "is stopped"}[o.To]
	if r.State == router.Frozen && o.To == router.RungFrozen {
		what = "gives its page cache back"
	}
	idle := "has been idle for " + r.Idle.Round(time.Second).String()
	if r.Idle > 24*time.Hour {
		idle = "has been idle for more than a day"
	}
	return fmt.Sprintf("%s %s: it %s, holds %s, and to have it back soon would cost %.2g instance-seconds", r.ID, what, idle, megabytes(r.Held), o.Regret)
}

func megabytes(b router.Bytes) string { return fmt.Sprintf("%.0f MB", float64(b)/(1<<20)) }
