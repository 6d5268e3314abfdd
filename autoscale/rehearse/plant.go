// Package rehearse drives scaling decisions through a plant: a deterministic
// model of one app behind a gateway, fed with recorded traffic, so that a policy
// can be tried before it counts.
//
// The plant is a discrete-time fluid model of a multi-server queue: n instances
// of c slots, a fixed service time S, first in first out, in steps of 100 ms.
// All that is counted is an integer (requests, milliseconds,
// slot-milliseconds), so that two implementations of it agree to the digit.
package rehearse

import (
	"math"
	"slices"
)

const (
	stepMS       = 100
	stepsASecond = 1000 / stepMS
	// idealPermille is how busy the clairvoyant reference keeps its instances.
	idealPermille = 700
)

// App is what the plant knows of an app.
type App struct {
	Name         string
	ServiceMS    int64 // time that one request is served
	Concurrency  int64 // requests in service per instance, a hard limit
	AbsentMS     int64 // from nothing to ready
	StoppedMS    int64 // from a stopped container to ready
	FrozenMS     int64 // from a frozen container to ready
	MaxInstances int   // ready and starting
}

// Capacity is the requests a second that one saturated instance completes.
func (a App) Capacity() float64 { return float64(a.Concurrency) * 1000 / float64(a.ServiceMS) }

// Trace is an arrival rate: thousandths of a request per second, one a second.
type Trace []int64

// Second is what a gateway measured in one second that has ended.
type Second struct {
	End         int64   // it is [End-1, End)
	Requests    int64   // arrivals
	Concurrency float64 // mean of in service and queued
	Ready       int     // instances ready when it ended
}

// Observation is what a driver may look at.
type Observation struct {
	MS                      int64    // since the start
	Seconds                 []Second // that ended since the last tick
	Ready, Starting, Frozen int
	Due                     []int64 // when each starting one will be ready, as start times tell
	Queued                  int64
}

// Order is what a driver wants: instances ready or starting, and how many more
// to keep frozen. Hold leaves both as they are.
type Order struct {
	Desired, Frozen int
	Hold            bool
}

// Driver decides in the plant.
type Driver interface {
	// Tick is called every TickMS from FirstMS on. Its orders are carried out
	// one after the other.
	Tick(o Observation) []Order
	// Activate is called when a request waits and there is no instance, ready
	// or starting. At least one is started, whatever it says.
	Activate(o Observation) Order
}

// Timing says when a driver is called, and what it begins with.
type Timing struct {
	TickMS, FirstMS int64 // multiples of 100
	Ready           int   // instances ready before the trace begins
	Stopped         bool  // instances scaled down and not frozen stay on the host, stopped; else they are removed
	NoActivation    bool  // nobody starts the first instance when a request comes
	Poisson         bool  // arrivals are random
	Seed            uint64
	// Probe, where set, is told of each step after it is done.
	Probe func(Step)
	// Waited, where set, is told when requests that came in the step at a moment
	// are served, or of those left at the end, and how long they waited.
	Waited func(cameMS, waitMS, requests int64)
	// Stop, where it is closed, ends the run early; its Result is then of no use.
	Stop <-chan struct{}
}

// Step is one step of the plant, after it is done.
type Step struct {
	MS, Arrived, Queued              int64
	Ready, Starting, Frozen, Stopped int
	Desired, Target                  int    // as last ordered: instances, and how many more to keep frozen
	Starts                           Starts // so far
}

type cohort struct{ at, n int64 }

// Run drives a trace through the plant.
func Run(trace Trace, app App, d Driver, timing Timing) Result {
	p := &plant{app: app, timing: timing, waits: map[int64]int64{}, random: splitMix{timing.Seed}}
	p.ready = min(timing.Ready, app.MaxInstances)
	p.desired, p.peak = p.ready, p.ready
	p.carry = int64(p.ready) * p.idleCredit()
	p.spill = make([]int64, (app.ServiceMS+stepMS-1)/stepMS)
	p.timeline = []Row{{0, p.desired, 0}}
	next := timing.FirstMS
	var slotMS, requests int64
	for second, rate := range trace {
		select {
		case <-timing.Stop:
			return Result{}
		default:
		}
		for sub := range int64(stepsASecond) {
			t := (int64(second)*stepsASecond + sub) * stepMS
			if t == next {
				for _, o := range d.Tick(p.observe(t)) {
					p.apply(t, o)
				}
				next += timing.TickMS
			}
			n := p.arrive(rate)
			if n > 0 {
				p.queue = append(p.queue, cohort{t, n})
				p.queued += n
				p.total += n
				requests += n
			}
			if p.queued > 0 && p.ready == 0 && len(p.starting) == 0 && !timing.NoActivation {
				o := d.Activate(Observation{MS: t, Frozen: p.frozen, Queued: p.queued})
				if o.Hold {
					o.Frozen = p.target
				}
				o.Desired, o.Hold = max(1, o.Desired), false
				p.apply(t, o)
			}
			running := p.ready + len(p.starting)
			p.serve(t)
			p.runningMS += int64(running) * stepMS
			p.frozenMS += int64(p.frozen) * stepMS
			slotMS += p.busy + p.queued*stepMS
			p.maxQueue = max(p.maxQueue, p.queued)
			p.peak = max(p.peak, running)
			if timing.Probe != nil {
				timing.Probe(Step{t, n, p.queued, p.ready, len(p.starting), p.frozen, p.stopped, p.desired, p.target, p.starts})
			}
		}
		p.seconds = append(p.seconds, Second{int64(second) + 1, requests, float64(slotMS) / 1000, p.ready})
		requests, slotMS = 0, 0
	}
	return p.result(trace)
}

// plant is the state of a run.
type plant struct {
	app     App
	timing  Timing
	random  splitMix
	seconds []Second // not observed yet

	ready, frozen, stopped int
	starting               []int64 // when each is ready, ascending
	desired, target        int     // as last ordered
	queue                  []cohort
	queued                 int64
	carry                  int64 // slot-ms left over from the last step
	spill                  []int64
	busy                   int64 // in-service slot-ms of the last step
	acc                    int64 // arrivals that are not whole yet

	waits               map[int64]int64 // requests by wait in ms
	runningMS, frozenMS int64
	total, maxQueue     int64
	peak                int
	starts              Starts
	timeline            []Row
}

// idleCredit is the slot-ms that an idle instance may save up.
func (p *plant) idleCredit() int64 { return p.app.Concurrency * max(0, p.app.ServiceMS-stepMS) }

// mostCarry is the most that may be left over for the next step.
func (p *plant) mostCarry() int64 {
	most := int64(p.ready) * p.idleCredit()
	if p.queued > 0 {
		most = max(most, p.app.ServiceMS-1)
	}
	return most
}

func (p *plant) observe(t int64) Observation {
	o := Observation{MS: t, Seconds: p.seconds, Ready: p.ready, Starting: len(p.starting), Frozen: p.frozen, Queued: p.queued, Due: slices.Clone(p.starting)}
	p.seconds = nil
	return o
}

func (p *plant) arrive(rate int64) int64 {
	if p.timing.Poisson {
		return p.random.poisson(float64(rate) / (1000 * stepsASecond))
	}
	p.acc += rate
	n := p.acc / (1000 * stepsASecond)
	p.acc -= n * 1000 * stepsASecond
	return n
}

// apply carries an order out.
func (p *plant) apply(t int64, o Order) {
	if o.Hold {
		return
	}
	want := max(0, min(o.Desired, p.app.MaxInstances))
	p.target = max(0, o.Frozen)
	have := p.ready + len(p.starting)
	for ; have < want; have++ {
		var takes int64
		switch {
		case p.frozen > 0:
			p.frozen--
			p.starts.Frozen++
			takes = p.app.FrozenMS
		case p.stopped > 0:
			p.stopped--
			p.starts.Stopped++
			takes = p.app.StoppedMS
		default:
			p.starts.Absent++
			takes = p.app.AbsentMS
		}
		p.starting = append(p.starting, t+takes)
	}
	slices.Sort(p.starting)
	for ; have > want && len(p.starting) > 0; have-- { // the start that is furthest away first
		p.starting = p.starting[:len(p.starting)-1]
		p.leave(1)
	}
	if gone := have - want; gone > 0 { // then ready ones, which finish their work
		p.ready -= gone
		if p.busy > 0 {
			p.runningMS += int64(gone) * p.app.ServiceMS
		}
		keep := min(gone, max(0, p.target-p.frozen))
		p.frozen += keep
		p.leave(gone - keep)
		p.carry = min(p.carry, p.mostCarry())
		if p.ready == 0 {
			p.carry = 0
		}
	}
	if p.frozen > p.target {
		p.leave(p.frozen - p.target)
		p.frozen = p.target
	}
	if last := p.timeline[len(p.timeline)-1]; last.Desired != want || last.Frozen != p.target {
		p.timeline = append(p.timeline, Row{t, want, p.target})
	}
	p.desired = want
}

// leave is where instances go that are neither needed nor frozen.
func (p *plant) leave(n int) {
	if p.timing.Stopped {
		p.stopped += n
	}
}

// serve lets instances become ready, and serves what they can, first in first
// out.
func (p *plant) serve(t int64) {
	begin := int64(-1)
	if p.ready > 0 {
		begin = t
	}
	credit := int64(p.ready)*p.app.Concurrency*stepMS + p.carry
	for len(p.starting) > 0 && p.starting[0] < t+stepMS {
		at := p.starting[0]
		p.starting = p.starting[1:]
		if begin < 0 {
			begin = at
		}
		credit += p.app.Concurrency * max(t+stepMS-at, p.app.ServiceMS)
		p.ready++
	}
	started := int64(0)
	if p.queued > 0 && begin >= 0 {
		started = min(p.queued, credit/p.app.ServiceMS)
		for left := started; left > 0; {
			first := &p.queue[0]
			take := min(first.n, left)
			p.waited(first.at, begin-first.at, take)
			left -= take
			if first.n -= take; first.n == 0 {
				p.queue = p.queue[1:]
			}
		}
		p.queued -= started
	}
	p.carry = min(credit-started*p.app.ServiceMS, p.mostCarry())
	rest := p.app.ServiceMS
	for i := range p.spill {
		p.spill[i] += started * min(rest, stepMS)
		rest -= stepMS
	}
	p.busy = p.spill[0]
	copy(p.spill, p.spill[1:])
	p.spill[len(p.spill)-1] = 0
}

// waited counts requests that came at a moment and waited so long.
func (p *plant) waited(came, wait, n int64) {
	p.waits[wait] += n
	if p.timing.Waited != nil {
		p.timing.Waited(came, wait, n)
	}
}

// splitMix is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
// number generators, OOPSLA 2014): small, and easy to repeat elsewhere.
type splitMix struct{ state uint64 }

func (r *splitMix) uniform() float64 {
	r.state += 0x9E3779B97F4A7C15
	z := r.state
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	z ^= z >> 31
	return float64(z>>11) / (1 << 53)
}

func (r *splitMix) poisson(mean float64) int64 {
	switch {
	case mean <= 0:
		return 0
	case mean < 30:
		limit, n, p := math.Exp(-mean), int64(0), r.uniform()
		for ; p > limit; n++ {
			p *= r.uniform()
		}
		return n
	}
	u1 := 1 - r.uniform()
	u2 := r.uniform()
	z := math.Sqrt(-2*math.Log(u1)) * math.Cos(2*math.Pi*u2)
	return max(0, int64(math.Floor(mean+math.Sqrt(mean)*z+0.5)))
}
