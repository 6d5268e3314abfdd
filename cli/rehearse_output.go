package cli

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/rehearse"
	"github.com/fluxgate/fluxgate/router"
)

// rehearsed is what rehearse prints with --json.
type rehearsed struct {
	App      string        `json:"app"`
	Trace    string        `json:"trace" doc:"Name of the trace's file; recorded: the app's own traffic"`
	Notes    []string      `json:"notes,omitempty" doc:"What was assumed"`
	Current  rehearsedRun  `json:"current" doc:"With the current policy"`
	Proposed *rehearsedRun `json:"proposed,omitempty" doc:"With the settings after --with"`
}

// rehearsedRun is one run with all that happened in it.
type rehearsedRun struct {
	runSummary
	Timeline [][]float64 `json:"timeline" doc:"Each change of what was decided: t_s, desired, frozen"`
	Ticks    [][]int64   `json:"ticks" doc:"What there was when a decision had been carried out: time in ms, desired, frozen target, ready, starting, frozen, stopped"`
}

// runSummary is what a run came to. Its result has the names of the reference
// plant.
type runSummary struct {
	Trace    string            `json:"trace" doc:"As above"`
	Settings map[string]string `json:"settings,omitempty" doc:"The policy"`
	Facts    rehearsedApp      `json:"facts" doc:"What is known of the app, as an app file says it"`
	rehearse.Result
	Wakes        rehearse.Starts `json:"wakes" doc:"Requests that came when there was no instance, by the rung of the one that was woken"`
	Cost         float64         `json:"cost" doc:"instance_seconds + 0.1 x frozen_instance_seconds"`
	CostPerIdeal *float64        `json:"cost_per_ideal" doc:"cost / ideal_instance_seconds; null where nothing came"`
}

// rehearsedApp is an app file.
type rehearsedApp struct {
	Service     int64     `json:"service_time_ms"`
	Concurrency int64     `json:"concurrency"`
	Starts      startTime `json:"start_ms"`
	Max         int       `json:"max_instances"`
}

type startTime struct {
	Absent  int64 `json:"absent"`
	Stopped int64 `json:"stopped"`
	Frozen  int64 `json:"frozen"`
}

// side is one run of two.
type side struct {
	name       string
	policyName string
	app        rehearse.App
	policy     map[string]string
	driver     rehearse.Driver
	timing     rehearse.Timing
	result     rehearse.Recording
}

// title is how pictures and tables name it.
func (s *side) title() string {
	if s.policyName == "fluxgate" {
		return s.name
	}
	return s.policyName
}

func (s *side) summary(r *rehearsal) runSummary {
	a := s.app
	out := runSummary{
		Trace: r.traceName, Settings: s.policy, Result: s.result.Result, Wakes: s.result.Wakes,
		Facts: rehearsedApp{a.ServiceMS, a.Concurrency, startTime{a.AbsentMS, a.StoppedMS, a.FrozenMS}, a.MaxInstances},
		Cost:  s.result.Cost(),
	}
	out.Policy = s.policyName
	if ideal := s.result.IdealSeconds; ideal > 0 {
		ratio := s.result.Cost() / ideal
		out.CostPerIdeal = &ratio
	}
	return out
}

func (s *side) json(r *rehearsal) rehearsedRun {
	out := rehearsedRun{runSummary: s.summary(r)}
	for _, row := range s.result.Timeline {
		out.Timeline = append(out.Timeline, []float64{float64(row.MS) / 1000, float64(row.Desired), float64(row.Frozen)})
	}
	for _, t := range s.result.Ticks {
		out.Ticks = append(out.Ticks, []int64{t.MS, int64(t.Desired), int64(t.Target), int64(t.Ready), int64(t.Starting), int64(t.Frozen), int64(t.Stopped)})
	}
	return out
}

// name is the app's, or its file's.
func (r *rehearsal) name() string {
	if r.app != "" {
		return r.app
	}
	return r.facts.Name
}

// title says what the policies were tried on.
func (r *rehearsal) title() string {
	what := "traffic of " + r.traceName
	if r.traceName == "recorded" {
		what = "recorded traffic"
	}
	return fmt.Sprintf("%s: %s of %s", r.name(), router.Duration(time.Duration(len(r.trace))*time.Second), what)
}

// show prints the runs side by side.
func (r *rehearsal) show(w io.Writer, sides []*side) {
	r.head(w, sides[0].result.Requests)
	if len(sides) > 1 {
		change := diffs(r.current.Changes(r.proposed))
		if change == "" {
			change = "as the current policy"
		}
		fmt.Fprintf(w, "proposed: %s\n", change)
	}
	fmt.Fprintln(w)
	compare(w, sides)
}

// head says what policies are tried on.
func (r *rehearsal) head(w io.Writer, requests int64) {
	fmt.Fprintf(w, "%s, %s requests\n", r.title(), thousands(requests))
	f := r.facts
	fmt.Fprintf(w, "served for %d ms, %d at once; ready after %d ms (absent), %d ms (stopped), %d ms (frozen)\n", f.ServiceMS, f.Concurrency, f.AbsentMS, f.StoppedMS, f.FrozenMS)
	for _, note := range r.notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
}

// compare prints results in columns, and how the second differs from the first.
func compare(w io.Writer, sides []*side) {
	head := []string{""}
	for _, s := range sides {
		head = append(head, strings.ToUpper(s.title()))
	}
	if len(sides) == 2 {
		head = append(head, "CHANGE")
	}
	rows := [][]string{head}
	add := func(name string, value func(rehearse.Recording) float64, text func(float64) string) {
		row := []string{name}
		for _, s := range sides {
			row = append(row, text(value(s.result)))
		}
		if len(sides) == 2 {
			row = append(row, difference(value(sides[0].result), value(sides[1].result)))
		}
		rows = append(rows, row)
	}
	type rec = rehearse.Recording
	percent := func(v float64) string { return strconv.FormatFloat(100*v, 'f', 4, 64) + " %" }
	count := func(v float64) string { return thousands(int64(math.Round(v))) }
	ms := func(v float64) string { return thousands(int64(v)) + " ms" }
	add("waited > 50 ms", func(r rec) float64 { return r.Over50 }, percent)
	add("waited > 250 ms", func(r rec) float64 { return r.Over250 }, percent)
	add("waited > 1 s", func(r rec) float64 { return r.Over1000 }, percent)
	add("wait p50", func(r rec) float64 { return float64(r.P50) }, ms)
	add("wait p95", func(r rec) float64 { return float64(r.P95) }, ms)
	add("wait p99", func(r rec) float64 { return float64(r.P99) }, ms)
	add("longest wait", func(r rec) float64 { return float64(r.Max) }, ms)
	if slices.ContainsFunc(sides, func(s *side) bool { return s.result.Unserved > 0 }) {
		add("never served", func(r rec) float64 { return float64(r.Unserved) }, count)
	}
	add("starts", func(r rec) float64 { return float64(r.Starts) }, count)
	add("  absent", func(r rec) float64 { return float64(r.StartsFrom.Absent) }, count)
	add("  stopped", func(r rec) float64 { return float64(r.StartsFrom.Stopped) }, count)
	add("  frozen", func(r rec) float64 { return float64(r.StartsFrom.Frozen) }, count)
	add("wakes, absent", func(r rec) float64 { return float64(r.Wakes.Absent) }, count)
	add("wakes, stopped", func(r rec) float64 { return float64(r.Wakes.Stopped) }, count)
	add("wakes, frozen", func(r rec) float64 { return float64(r.Wakes.Frozen) }, count)
	add("most instances", func(r rec) float64 { return float64(r.Peak) }, count)
	add("instance-seconds", func(r rec) float64 { return r.InstanceSeconds }, count)
	add("frozen-seconds", func(r rec) float64 { return r.FrozenSeconds }, count)
	add("cost", func(r rec) float64 { return r.Cost() }, count)
	if sides[0].result.IdealSeconds > 0 {
		add("cost / ideal", func(r rec) float64 { return r.Cost() / r.IdealSeconds }, func(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) })
	}
	add("flaps an hour", func(r rec) float64 { return r.Flaps }, func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) })
	table(w, rows)
	fmt.Fprintln(w, "\ncost is instance-seconds + 0.1 x frozen-seconds; the ideal knows all traffic beforehand and keeps instances 70 % busy")
}

// difference is how much the second value is above or below the first.
func difference(before, after float64) string {
	switch {
	case before == after:
		return "="
	case before == 0:
		return "new"
	case after == 0:
		return "gone"
	case after/before >= 10:
		return fmt.Sprintf("x %.0f", after/before)
	case before/after >= 10:
		return fmt.Sprintf("/ %.0f", before/after)
	}
	return fmt.Sprintf("%+.1f %%", 100*(after/before-1))
}

// thousands is a number with a comma before every three digits.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
