package router

import "time"

// Rung is how idle an instance was before a wake.
type Rung string

// The rungs, from warm to cold.
const (
	RungReady   Rung = "ready"
	RungFrozen  Rung = "frozen"
	RungStopped Rung = "stopped"
	RungAbsent  Rung = "absent"
)

// Phase is one measured part of a wake: claim, thaw, create, turn
// (waiting for the node's other starts), start, probe.
type Phase struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"`
}

// Wake is what one wake did.
type Wake struct {
	App      string
	Instance string
	From     Rung
	Phases   []Phase
	At       time.Time
	Took     time.Duration
}

// Event is one entry of an app's history as `fluxgate why` shows it: a scaling
// decision, a wake, a death, a deploy.
type Event struct {
	At     time.Time         `json:"at"`
	Kind   string            `json:"kind" doc:"decision, wake, rung, crash, resources or deploy"`
	Text   string            `json:"text" doc:"What happened and why, in a sentence"`
	Fields map[string]string `json:"fields,omitempty" doc:"Signals and results, by name"`
	Phases []Phase           `json:"phases,omitempty" doc:"Where the time went, for wakes"`

	Decision *Decision `json:"decision,omitempty" doc:"What was weighed, for decisions"`
}

// Decision is a scaling decision as an app's history keeps it.
type Decision struct {
	Had     int      `json:"had" doc:"Instances that were ready or starting"`
	Desired int      `json:"desired" doc:"Instances that should be"`
	Frozen  int      `json:"frozen,omitempty" doc:"Further instances that should stay frozen"`
	Rule    string   `json:"rule" doc:"The rule that won"`
	Votes   []Vote   `json:"votes,omitempty" doc:"What each rule asked for, the winner first: what would have been done otherwise"`
	Signals []Signal `json:"signals,omitempty" doc:"What was measured"`
}

// Vote is what one rule of a decision asks for.
type Vote struct {
	Rule   string `json:"rule"`
	Count  int    `json:"count" doc:"Instances"`
	Reason string `json:"reason,omitempty"`
}

// Signal is one measurement behind a decision.
type Signal struct {
	Name   string   `json:"name" doc:"Such as rate, load or service"`
	Value  float64  `json:"value"`
	Unit   string   `json:"unit,omitempty"`
	Window Duration `json:"window,omitempty" doc:"Over which time it was measured"`
}

// Sample is one gateway's count for one app in one second, or the sum of all
// gateways' counts.
type Sample struct {
	Requests int64 // arrived in that second
	Done     int64 // whose answer ended in that second, whole; upgraded connections do not count
	Service  int64 // microseconds that those took, summed: from when an instance got the request to the end of its answer
	InFlight int64 // being served at its end, open streams and WebSockets included
	Queued   int64 // waiting at its end although an instance is ready
}

// Plus is the sum of two gateways' counts of the same second.
func (s Sample) Plus(o Sample) Sample {
	return Sample{s.Requests + o.Requests, s.Done + o.Done, s.Service + o.Service, s.InFlight + o.InFlight, s.Queued + o.Queued}
}

// Learned is what is kept of an app's traffic, for the next one that decides.
type Learned struct {
	Memory []byte    // as package decide writes it
	Next   time.Time // when the app has to be looked at although nobody asks for it; zero: never
}
