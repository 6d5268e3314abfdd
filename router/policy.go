package router

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Policy is how an app scales and sleeps. Idle times count from the app's last
// request.
type Policy struct {
	Min               int      // instances kept ready even when idle
	Max               int      // most instances at once
	TargetRPS         float64  // requests a second that one instance should get; 0: auto
	TargetConcurrency float64  // requests at once that one instance should have; 0: auto
	TargetUtilization float64  // how much of what an instance can serve it should get, where a target is auto
	MaxConcurrency    int      // requests at once that one instance ever gets
	FastWindow        Duration // average that scales up
	SlowWindow        Duration // longest that instances are held ready beyond need
	CoolDown          Duration // time after a scale-up in which nothing scales down
	MaxScaleUpRate    int      // instances that may be started in a second
	WakeCost          float64  // what a second of waiting for a wake is worth, in instance-seconds
	FreezeAfter       Duration // or Auto
	StopAfter         Duration // or Auto
	RemoveAfter       Duration
	WakeDeadline      Duration // longest a request waits for a sleeping app
	QueueDepth        int      // most requests that wait at once
	QueueDeadline     Duration // longest a request waits for a place on a ready instance
	Prefetch          int      // nodes, beyond those that run it, that get a new release's image ahead of need
	Schedule          Schedule // times with a min and max of their own
	Budget            float64  // instance-hours a day; 0: no limit
	BusyMax           Duration // longest that an app may ask not to be stopped
	FreezeSockets     bool     // freeze although clients hold connections open
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

// Tick is how often it is decided how an app scales, while no request waits. No
// window can be shorter.
const Tick = time.Second

// DefaultPolicy is what an app that says nothing gets.
func DefaultPolicy() Policy {
	return Policy{
		Min: 0, Max: 10,
		TargetUtilization: 0.7, MaxConcurrency: 100,
		FastWindow: Duration(5 * time.Second), SlowWindow: Duration(60 * time.Second),
		CoolDown: Duration(5 * time.Second), MaxScaleUpRate: 1000, WakeCost: 40,
		FreezeAfter: Auto, StopAfter: Auto, RemoveAfter: Duration(24 * time.Hour),
		WakeDeadline: Duration(30 * time.Second),
		QueueDepth:   5000, QueueDeadline: Duration(30 * time.Second),
		Prefetch: 1,
		BusyMax:  Duration(10 * time.Minute),
	}
}

// PolicyFields are all fields, in the order in which they are shown.
var PolicyFields = []PolicyField{
	intField("min", "instances kept ready even when idle", 0, 1000, func(p *Policy) *int { return &p.Min }),
	intField("max", "most instances at once", 1, 1000, func(p *Policy) *int { return &p.Max }),
	autoField("target_rps", "requests a second that one instance should get; auto: from the service time that is measured", 0.01, 1e6, "auto", func(p *Policy) *float64 { return &p.TargetRPS }),
	autoField("target_concurrency", "requests at once that one instance should have; auto: target_utilization of max_concurrency", 0.01, 1e5, "auto", func(p *Policy) *float64 { return &p.TargetConcurrency }),
	floatField("target_utilization", "how much of what an instance can serve it should get, where a target is auto", 0.1, 1, func(p *Policy) *float64 { return &p.TargetUtilization }),
	intField("max_concurrency", "requests at once that one instance ever gets; further ones queue", 1, 100000, func(p *Policy) *int { return &p.MaxConcurrency }),
	durationField("fast_window", "average that scales up", Tick, time.Minute, "", func(p *Policy) *Duration { return &p.FastWindow }),
	durationField("slow_window", "longest that instances are held ready beyond need", 2*Tick, time.Hour, "", func(p *Policy) *Duration { return &p.SlowWindow }),
	durationField("cool_down", "time after a scale-up in which nothing scales down", 0, 10*time.Minute, "", func(p *Policy) *Duration { return &p.CoolDown }),
	intField("max_scale_up_rate", "instances that may be started in a second", 1, 1000, func(p *Policy) *int { return &p.MaxScaleUpRate }),
	floatField("wake_cost", "what a second of waiting for a wake is worth, in seconds of a running instance; higher keeps instances warm longer", 0, 10000, func(p *Policy) *float64 { return &p.WakeCost }),
	durationField("freeze_after", "idle time after which an instance is frozen; auto: when keeping it ready costs more than thawing it", time.Second, 365*24*time.Hour, "auto never", func(p *Policy) *Duration { return &p.FreezeAfter }),
	durationField("stop_after", "idle time after which a frozen instance is stopped; auto: when keeping it frozen costs more than starting it", time.Second, 365*24*time.Hour, "auto never", func(p *Policy) *Duration { return &p.StopAfter }),
	durationField("remove_after", "idle time after which a stopped instance is removed", time.Second, 365*24*time.Hour, "never", func(p *Policy) *Duration { return &p.RemoveAfter }),
	durationField("wake_deadline", "longest a request waits for a sleeping app", 100*time.Millisecond, 10*time.Minute, "", func(p *Policy) *Duration { return &p.WakeDeadline }),
	intField("queue_depth", "most requests that wait at once; further ones get 503", 0, 1000000, func(p *Policy) *int { return &p.QueueDepth }),
	intField("prefetch", "nodes, beyond those that run it, that get a new release's image ahead of need", 0, 1000, func(p *Policy) *int { return &p.Prefetch }),
	durationField("queue_deadline", "longest a request waits for a place on a ready instance", 10*time.Millisecond, 10*time.Minute, "", func(p *Policy) *Duration { return &p.QueueDeadline }),
	scheduleField("schedule", "times with a min and max of their own", func(p *Policy) *Schedule { return &p.Schedule }),
	autoField("budget", "instance-hours a day; once they are spent, one instance serves until midnight UTC", 0.01, 1e6, "none", func(p *Policy) *float64 { return &p.Budget }),
	durationField("busy_max", "longest that an app may ask not to be stopped", 0, 24*time.Hour, "", func(p *Policy) *Duration { return &p.BusyMax }),
	boolField("freeze_sockets", "freeze an idle instance although clients hold connections open", func(p *Policy) *bool { return &p.FreezeSockets }),
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
	order("freeze_after", "stop_after", p.FreezeAfter.String(), p.StopAfter.String(), p.StopAfter != Auto && p.FreezeAfter > p.StopAfter)
	order("freeze_after", "remove_after", p.FreezeAfter.String(), p.RemoveAfter.String(), p.StopAfter == Auto && p.FreezeAfter > p.RemoveAfter)
	order("stop_after", "remove_after", p.StopAfter.String(), p.RemoveAfter.String(), p.StopAfter > p.RemoveAfter)
	order("target_concurrency", "max_concurrency", formatFloat(p.TargetConcurrency), strconv.Itoa(p.MaxConcurrency), p.TargetConcurrency > float64(p.MaxConcurrency))
	if p.FastWindow.D()%Tick != 0 {
		bad = append(bad, Violation{
			prefix + "fast_window", p.FastWindow.String(), "whole seconds, as decisions are made once a second",
			"write " + Duration(p.FastWindow.D().Truncate(Tick)).String(),
		})
	}
	if least := 24 * float64(p.Min); p.Budget > 0 && p.Budget < least {
		bad = append(bad, Violation{
			prefix + "budget", formatFloat(p.Budget), fmt.Sprintf("at least the %s instance-hours a day that %smin (%d) takes", formatFloat(least), prefix, p.Min),
			"raise budget or lower min",
		})
	}
	return append(bad, p.checkSchedule(prefix)...)
}

// checkSchedule finds entries that the app's own min or max would void.
func (p Policy) checkSchedule(prefix string) []Violation {
	entries, _ := scheduleEntries(string(p.Schedule)) // the field's own check comes first
	var bad []Violation
	for _, e := range entries {
		least, most := e.value(e.least, p.Min), e.value(e.most, p.Max)
		switch {
		case least <= most || e.least >= 0 && e.most >= 0: // parseEntry sees to an entry with both
		case e.least >= 0:
			bad = append(bad, Violation{prefix + "schedule", e.text, fmt.Sprintf("min at most %smax (%d)", prefix, p.Max), "lower it, raise max, or say a max in the entry too"})
		default:
			bad = append(bad, Violation{prefix + "schedule", e.text, fmt.Sprintf("max at least %smin (%d)", prefix, p.Min), "raise it, lower min, or say a min in the entry too"})
		}
	}
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

// autoField is a number that may also be a word, which stands for 0.
func autoField(key, doc string, lo, hi float64, word string, at func(*Policy) *float64) PolicyField {
	f := floatField(key, doc, lo, hi, at)
	return PolicyField{
		key, doc, f.Limit + ", or " + strconv.Quote(word),
		func(p *Policy) string {
			if *at(p) == 0 {
				return word
			}
			return f.get(p)
		},
		func(p *Policy, s string) bool {
			if s == word {
				*at(p) = 0
				return true
			}
			return f.set(p, s)
		},
	}
}

func boolField(key, doc string, at func(*Policy) *bool) PolicyField {
	return PolicyField{
		key, doc, "true or false",
		func(p *Policy) string { return strconv.FormatBool(*at(p)) },
		func(p *Policy, s string) bool {
			if s != "true" && s != "false" {
				return false
			}
			*at(p) = s == "true"
			return true
		},
	}
}

func scheduleField(key, doc string, at func(*Policy) *Schedule) PolicyField {
	return PolicyField{
		key, doc, scheduleForm,
		func(p *Policy) string { return string(*at(p)) },
		func(p *Policy, s string) bool {
			v, err := ParseSchedule(s)
			if err == nil {
				*at(p) = v
			}
			return err == nil
		},
	}
}

// durationField is a duration; words are which of "auto" and "never" it may be.
func durationField(key, doc string, lo, hi time.Duration, words string, at func(*Policy) *Duration) PolicyField {
	limit := fmt.Sprintf("a duration from %s to %s", Duration(lo), Duration(hi))
	for _, word := range strings.Fields(words) {
		limit += ", or " + strconv.Quote(word)
	}
	return PolicyField{
		key, doc, limit,
		func(p *Policy) string { return at(p).String() },
		func(p *Policy, s string) bool {
			v, err := ParseDuration(s)
			switch {
			case err != nil, v == Never && !strings.Contains(words, "never"), v == Auto && !strings.Contains(words, "auto"):
				return false
			case v != Never && v != Auto && (v.D() < lo || v.D() > hi):
				return false
			}
			*at(p) = v
			return true
		},
	}
}
