package rehearse

import (
	"maps"
	"slices"
)

// mostBins is how many spans of time a picture shows at the most.
const mostBins = 400

// binSeconds are the lengths that such spans may have.
var binSeconds = []int{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600}

// Recording is a run with what happened in it over time.
type Recording struct {
	Result
	Wakes Starts // requests that came to an app without any instance, by the rung that it was woken from
	Ticks []Tick
	Bins  []Bin
	Width int // seconds of a bin
}

// Tick is what there was when a decision had been carried out, at the end of
// that step of the plant.
type Tick struct {
	MS                               int64
	Desired, Target                  int // instances, and how many more to keep frozen
	Ready, Starting, Frozen, Stopped int
}

// Bin is what happened in one span of time.
type Bin struct {
	Rate, Peak      float64 // requests/s: mean, and of the busiest second
	Running, Frozen float64 // instances, mean; running: ready or starting
	Requests        int64
	P99             int64   // wait in ms of the requests that came in it
	Over250         float64 // share of them that waited more than 250 ms
}

// Record drives a trace through the plant, as Run does, and keeps what happened.
func Record(trace Trace, app App, d Driver, timing Timing) Recording {
	r := &recorder{Driver: d, width: binWidth(len(trace))}
	r.bins = make([]binCount, (len(trace)+r.width-1)/r.width)
	probe, waited := timing.Probe, timing.Waited
	timing.Probe = func(s Step) {
		r.step(s)
		if probe != nil {
			probe(s)
		}
	}
	timing.Waited = func(came, wait, n int64) {
		r.bin(came).waited(wait, n)
		if waited != nil {
			waited(came, wait, n)
		}
	}
	rec := Recording{Result: Run(trace, app, r, timing), Wakes: r.wakes, Ticks: r.ticks, Width: r.width}
	rec.Bins = make([]Bin, len(r.bins))
	for i := range r.bins {
		rec.Bins[i] = r.bins[i].sum(min(r.width, len(trace)-i*r.width))
	}
	return rec
}

func binWidth(seconds int) int {
	for _, w := range binSeconds {
		if seconds <= w*mostBins {
			return w
		}
	}
	return binSeconds[len(binSeconds)-1]
}

// recorder stands between the plant and a driver.
type recorder struct {
	Driver
	width int
	bins  []binCount
	ticks []Tick
	wakes Starts

	decided, woken bool // in this step
	starts         Starts
}

// Tick implements Driver.
func (r *recorder) Tick(o Observation) []Order {
	orders := r.Driver.Tick(o)
	r.decided = len(orders) > 0
	return orders
}

// Activate implements Driver.
func (r *recorder) Activate(o Observation) Order {
	r.decided, r.woken = true, true
	return r.Driver.Activate(o)
}

func (r *recorder) step(s Step) {
	if r.decided {
		r.ticks = append(r.ticks, Tick{s.MS, s.Desired, s.Target, s.Ready, s.Starting, s.Frozen, s.Stopped})
	}
	if r.woken { // the first that starts is the warmest there was
		switch {
		case s.Starts.Frozen > r.starts.Frozen:
			r.wakes.Frozen++
		case s.Starts.Stopped > r.starts.Stopped:
			r.wakes.Stopped++
		default:
			r.wakes.Absent++
		}
	}
	r.decided, r.woken, r.starts = false, false, s.Starts
	r.bin(s.MS).step(s)
}

func (r *recorder) bin(ms int64) *binCount { return &r.bins[ms/1000/int64(r.width)] }

// binCount is a Bin while it is counted.
type binCount struct {
	running, frozen int64 // summed over the steps
	requests        int64
	second, peak    int64           // requests of the running second, of the busiest
	waits           map[int64]int64 // requests by wait; those of no wait are left out
}

func (b *binCount) step(s Step) {
	b.running += int64(s.Ready + s.Starting)
	b.frozen += int64(s.Frozen)
	b.requests += s.Arrived
	if s.MS%1000 == 0 {
		b.second = 0
	}
	b.second += s.Arrived
	b.peak = max(b.peak, b.second)
}

func (b *binCount) waited(wait, n int64) {
	if wait == 0 {
		return
	}
	if b.waits == nil {
		b.waits = map[int64]int64{}
	}
	b.waits[wait] += n
}

func (b *binCount) sum(seconds int) Bin {
	steps := float64(seconds * stepsASecond)
	bin := Bin{
		Rate: float64(b.requests) / float64(seconds), Peak: float64(b.peak), Requests: b.requests,
		Running: float64(b.running) / steps, Frozen: float64(b.frozen) / steps,
	}
	above, over := int64(0), int64(0)
	for _, w := range slices.Backward(slices.Sorted(maps.Keys(b.waits))) {
		if above <= b.requests/100 && above+b.waits[w] > b.requests/100 {
			bin.P99 = w // nearest rank: less than a hundredth waited longer
		}
		above += b.waits[w]
		if w > 250 {
			over += b.waits[w]
		}
	}
	if b.requests > 0 {
		bin.Over250 = float64(over) / float64(b.requests)
	}
	return bin
}
