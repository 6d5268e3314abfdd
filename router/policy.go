package router

import (
	"fmt"
	"strconv"
	"time"
)

// Policy is how an app scales and sleeps. Idle times count from the app's last
// request.
type Policy struct {
	Min               int      // instances kept ready even when idle
	Max               int      // most instances at once
	TargetRPS         float64  // requests a second that one instance should get
	TargetConcurrency float64  // requests at once that one instance should have
	MaxConcurrency    int      // requests at once that one instance ever gets
	FastWindow        Duration // average that scales up
	SlowWindow        Duration // average that scales down
	FreezeAfter       Duration
	StopAfter         Duration
	RemoveAfter       Duration
	WakeDeadline      Duration // longest a request waits for a sleeping app
	QueueDepth        int      // most requests that wait at once
	QueueDeadline     Duration // longest a request waits for a place on a ready instance
	Prefetch          int      // nodes, beyond those that run it, that get a new release's image ahead of need
}

// PolicyField describes one field of a Policy: its key in the manifest and on
// the command line, its limits, and how text becomes its value.
type PolicyField struct {
	Key   string
	Doc   string
	Limit string // the rule in words
	get   func(*Policy) string
	set   func(*Policy, string) bool // false: not of the type, or outside the limit
}

// Get is the field's value in p as text.
func (f PolicyField) Get(p Policy) string { return f.get(&p) }

// DefaultPolicy is what an app that says nothing gets.
func DefaultPolicy() Policy {
	return Policy{
		Min: 0, Max: 10,
		TargetRPS: 200, TargetConcurrency: 50, MaxConcurrency: 100,
		FastWindow: Duration(6 * time.Second), SlowWindow: Duration(60 * time.Second),
		FreezeAfter: Duration(30 * time.Second), StopAfter: Duration(10 * time.Minute), RemoveAfter: Duration(24 * time.Hour),
		WakeDeadline: Duration(30 * time.Second),
		QueueDepth:   5000, QueueDeadline: Duration(30 * time.Second),
		Prefetch: 1,
	}
}

// PolicyFields are all fields, in the order in which they are shown.
var PolicyFields = []PolicyField{
	intField("min", "instances kept ready even when idle", 0, 1000, func(p *Policy) *int { return &p.Min }),
	intField("max", "most instances at once", 1, 1000, func(p *Policy) *int { return &p.Max }),
	floatField("target_rps", "requests a second that one instance should get", 0.01, 1e6, func(p *Policy) *float64 { return &p.TargetRPS }),
	floatField("target_concurrency", "requests at once that one instance should have", 0.01, 1e5, func(p *Policy) *float64 { return &p.TargetConcurrency }),
	intField("max_concurrency", "requests at once that one instance ever gets; further ones queue", 1, 100000, func(p *Policy) *int { return &p.MaxConcurrency }),
	durationField("fast_window", "average that scales up", 2*time.Second, time.Minute, false, func(p *Policy) *Duration { return &p.FastWindow }),
	durationField("slow_window", "average that scales down", 4*time.Second, time.Hour, false, func(p *Policy) *Duration { return &p.SlowWindow }),
	durationField("freeze_after", "idle time after which an instance is frozen", time.Second, 365*24*time.Hour, true, func(p *Policy) *Duration { return &p.FreezeAfter }),
	durationField("stop_after", "idle time after which a frozen instance is stopped", time.Second, 365*24*time.Hour, true, func(p *Policy) *Duration { return &p.StopAfter }),
	durationField("remove_after", "idle time after which a stopped instance is removed", time.Second, 365*24*time.Hour, true, func(p *Policy) *Duration { return &p.RemoveAfter }),
	durationField("wake_deadline", "longest a request waits for a sleeping app", 100*time.Millisecond, 10*time.Minute, false, func(p *Policy) *Duration { return &p.WakeDeadline }),
	intField("queue_depth", "most requests that wait at once; further ones get 503", 0, 1000000, func(p *Policy) *int { return &p.QueueDepth }),
	intField("prefetch", "nodes, beyond those that run it, that get a new release's image ahead of need", 0, 1000, func(p *Policy) *int { return &p.Prefetch }),
	durationField("queue_deadline", "longest a request waits for a place on a ready instance", 10*time.Millisecond, 10*time.Minute, false, func(p *Policy) *Duration { return &p.QueueDeadline }),
}

// FindPolicyField finds a field by key.
func FindPolicyField(key string) (PolicyField, bool) {
	for _, f := range PolicyFields {
		if f.Key == key {
			return f, true
		}
	}
	return PolicyField{}, false
}

// With is p with the settings applied, each key a PolicyField's. Every wrong
// key, value and combination is reported, with prefix before each key; p is
// returned unchanged where there is one.
func (p Policy) With(settings map[string]string, prefix string) (Policy, []Violation) {
	next := p
	var bad []Violation
	for _, key := range sortedKeys(settings) {
		f, ok := FindPolicyField(key)
		if !ok {
			bad = append(bad, unknownKey(prefix+key, policyKeys(), prefix))
			continue
		}
		if !f.set(&next, settings[key]) {
			bad = append(bad, Violation{prefix + key, settings[key], f.Limit, fmt.Sprintf("the default is %s", f.Get(DefaultPolicy()))})
		}
	}
	bad = append(bad, next.check(prefix)...)
	if len(bad) > 0 {
		return p, bad
	}
	return next, nil
}

// check finds combinations of fields that make no sense.
func (p Policy) check(prefix string) []Violation {
	var bad []Violation
	order := func(low, high string, lowV, highV string, wrong bool) {
		if wrong {
			bad = append(bad, Violation{
				prefix + low, lowV, fmt.Sprintf("at most %s%s (%s)", prefix, high, highV),
				fmt.Sprintf("lower %s or raise %s", low, high),
			})
		}
	}
	order("min", "max", strconv.Itoa(p.Min), strconv.Itoa(p.Max), p.Min > p.Max)
	order("fast_window", "slow_window", p.FastWindow.String(), p.SlowWindow.String(), p.FastWindow > p.SlowWindow)
	order("freeze_after", "stop_after", p.FreezeAfter.String(), p.StopAfter.String(), p.FreezeAfter > p.StopAfter)
	order("stop_after", "remove_after", p.StopAfter.String(), p.RemoveAfter.String(), p.StopAfter > p.RemoveAfter)
	order("target_concurrency", "max_concurrency", formatFloat(p.TargetConcurrency), strconv.Itoa(p.MaxConcurrency), p.TargetConcurrency > float64(p.MaxConcurrency))
	return bad
}

// Settings is every field as text, by key.
func (p Policy) Settings() map[string]string {
	m := make(map[string]string, len(PolicyFields))
	for _, f := range PolicyFields {
		m[f.Key] = f.Get(p)
	}
	return m
}

func policyKeys() []string {
	keys := make([]string, len(PolicyFields))
	for i, f := range PolicyFields {
		keys[i] = f.Key
	}
	return keys
}

func formatFloat(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func intField(key, doc string, lo, hi int, at func(*Policy) *int) PolicyField {
	return PolicyField{
		key, doc, fmt.Sprintf("a whole number from %d to %d", lo, hi),
		func(p *Policy) string { return strconv.Itoa(*at(p)) },
		func(p *Policy, s string) bool {
			v, err := strconv.Atoi(s)
			if err != nil || v < lo || v > hi {
				return false
			}
			*at(p) = v
			return true
		},
	}
}

func floatField(key, doc string, lo, hi float64, at func(*Policy) *float64) PolicyField {
	return PolicyField{
		key, doc, fmt.Sprintf("a number from %s to %s", formatFloat(lo), formatFloat(hi)),
		func(p *Policy) string { return formatFloat(*at(p)) },
		func(p *Policy, s string) bool {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil || !(v >= lo && v <= hi) {
				return false
			}
			*at(p) = v
			return true
		},
	}
}

func durationField(key, doc string, lo, hi time.Duration, never bool, at func(*Policy) *Duration) PolicyField {
	limit := fmt.Sprintf("a duration from %s to %s", Duration(lo), Duration(hi))
	if never {
		limit += `, or "never"`
	}
	return PolicyField{
		key, doc, limit,
		func(p *Policy) string { return at(p).String() },
		func(p *Policy, s string) bool {
			v, err := ParseDuration(s)
			if err != nil || (v == Never && !never) || (v != Never && (v.D() < lo || v.D() > hi)) {
				return false
			}
			*at(p) = v
			return true
		},
	}
}
