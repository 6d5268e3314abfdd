package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The traces and apps that decisions are rehearsed on, beside the results of
// Knative's algorithm for them.
var (
	traceNames  = []string{"diurnal", "flash", "onoff", "sparse", "cron", "noisy", "ramp", "pareto"}
	traceApps   = []string{"fast", "web", "jvm"}
	baselines   = []string{"kpa", "kpa-rps"}
	randomSeeds = []uint64{1, 2, 3}
)

const tracesDir = "loadtest/traces"

// What is promised over all pairs; flaps: no more than kpa's.
const (
	mostCost  = 2.5
	mostShare = 0.02
)

// frozenWeight is what a frozen instance costs of a running one.
const frozenWeight = 0.1

// scaled is what one policy came to for a trace and an app.
type scaled struct {
	Trace, App, Policy string
	Seed               uint64  // 0: even arrivals
	Running            float64 `json:"instance_seconds"`
	Frozen             float64 `json:"frozen_instance_seconds"`
	Ideal              float64 `json:"ideal_instance_seconds"`
	Over250            float64 `json:"share_wait_gt_250ms"`
	Flaps              float64 `json:"flaps_per_hour"`
}

func (s scaled) cost() float64 { return s.Running + frozenWeight*s.Frozen }

// pair is a trace and an app, with the result of each policy.
type pair struct {
	trace, app string
	ours       scaled
	theirs     []scaled // by baselines
}

// held reports whether ours costs no more than the dearer of theirs, and lets no
// larger share wait than the better of them.
func (p pair) held() bool {
	dear, least := 0.0, 1.0
	for _, t := range p.theirs {
		dear, least = max(dear, t.cost()), min(least, t.Over250)
	}
	return p.ours.cost() <= dear && p.ours.Over250 <= least
}

// totals are the means over all pairs.
type totals struct{ cost, share, flaps float64 } // cost: geometric, of cost / ideal

func sumUp(of []scaled) totals {
	var t totals
	for _, s := range of {
		t.cost += math.Log(s.cost() / s.Ideal)
		t.share += s.Over250
		t.flaps += s.Flaps
	}
	n := float64(max(1, len(of)))
	return totals{math.Exp(t.cost / n), t.share / n, t.flaps / n}
}

// runAutoscale rehearses the default policy and prints the tables.
func runAutoscale(ctx context.Context, o options) error {
	home, err := os.MkdirTemp("", "fgbench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(home) }()
	gw := &gateway{bin: o.bin, data: home} // not started: rehearsing needs none
	r := report{versus: "Knative's algorithm"}
	even, err := rehearsePairs(ctx, gw, 0)
	if err != nil {
		return err
	}
	reportTotals(&r, even)
	r.table(pairTable(even))
	random := table{
		title: "Random arrivals", note: "The same with Poisson arrivals around each trace's rates, by seed, for all policies alike. What misses a bar of the first table is bold.",
		head: []string{"seed", "policy", "cost / ideal, geometric mean", "wait > 250 ms, mean", "flaps/h, mean", "pairs held"},
	}
	for _, seed := range randomSeeds {
		pairs, err := rehearsePairs(ctx, gw, seed)
		if err != nil {
			return err
		}
		random.rows = append(random.rows, seedRows(seed, pairs)...)
	}
	r.table(random)
	version, err := exec.CommandContext(ctx, o.bin, "version").Output()
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(version), "\n")
	text := r.markdown([][]string{{"fluxgate", line}, {"date", time.Now().UTC().Format(time.DateOnly)}})
	fmt.Println(text)
	if o.write == "" {
		return nil
	}
	return writeGenerated(o.write, "autoscale", text)
}

// rehearsePairs runs all pairs, as many at a time as there are cores.
func rehearsePairs(ctx context.Context, gw *gateway, seed uint64) ([]pair, error) {
	theirs, err := readBaselines(seed)
	if err != nil {
		return nil, err
	}
	pairs, err := makePairs(theirs, seed)
	if err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	errs := make([]error, len(pairs))
	for i := range pairs {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			pairs[i].ours, errs[i] = rehearseOne(ctx, gw, pairs[i].trace, pairs[i].app, seed)
		})
	}
	all.Wait()
	return pairs, errors.Join(errs...)
}

// makePairs finds the baselines' results of every pair.
func makePairs(theirs []scaled, seed uint64) ([]pair, error) {
	var pairs []pair
	for _, trace := range traceNames {
		for _, app := range traceApps {
			p := pair{trace: trace, app: app}
			for _, policy := range baselines {
				i := slices.IndexFunc(theirs, func(s scaled) bool {
					return s.Trace == trace && s.App == app && s.Policy == policy && s.Seed == seed
				})
				if i < 0 {
					return nil, fmt.Errorf("%s has no result of %s for %s and %s, seed %d", tracesDir, policy, trace, app, seed)
				}
				p.theirs = append(p.theirs, theirs[i])
			}
			pairs = append(pairs, p)
		}
	}
	return pairs, nil
}

// readBaselines reads the results of the baselines: of even arrivals where seed
// is 0.
func readBaselines(seed uint64) ([]scaled, error) {
	name := "baseline.json"
	if seed > 0 {
		name = "baseline-poisson.json"
	}
	raw, err := os.ReadFile(filepath.Join(tracesDir, name))
	if err != nil {
		return nil, fmt.Errorf("run this from the repository: %w", err)
	}
	var rows []scaled
	return rows, json.Unmarshal(raw, &rows)
}

// rehearseOne is what the default policy comes to, as the command line says it.
func rehearseOne(ctx context.Context, gw *gateway, trace, app string, seed uint64) (scaled, error) {
	args := []string{"policy", "rehearse", "--json", "--trace", filepath.Join(tracesDir, trace+".csv"), "--app", filepath.Join(tracesDir, app+".json")}
	if seed > 0 {
		args = append(args, "--poisson", strconv.FormatUint(seed, 10))
	}
	text, err := gw.cli(ctx, args...)
	if err != nil {
		return scaled{}, err
	}
	var out struct{ Current scaled }
	err = json.Unmarshal(text, &out)
	return out.Current, err
}

func percentOf(share float64) string { return fmt.Sprintf("%.3f %%", 100*share) }

// reportTotals are the numbers that were promised.
func reportTotals(r *report, pairs []pair) {
	ours, sums := columns(pairs)
	held := 0
	for _, p := range pairs {
		if p.held() {
			held++
		}
	}
	reference := func(text func(totals) string) string {
		return fmt.Sprintf("%s (kpa), %s (kpa-rps)", text(sums[0]), text(sums[1]))
	}
	cost := func(t totals) string { return fmt.Sprintf("%.3f", t.cost) }
	share := func(t totals) string { return percentOf(t.share) }
	flaps := func(t totals) string { return fmt.Sprintf("%.1f", t.flaps) }
	r.verdict(verdict{"cost / ideal, geometric mean", cost(ours), reference(cost), fmt.Sprint(mostCost), ours.cost <= mostCost})
	r.verdict(verdict{"requests that waited > 250 ms, mean", share(ours), reference(share), percentOf(mostShare), ours.share <= mostShare})
	r.verdict(verdict{"flaps an hour, mean", flaps(ours), reference(flaps), flaps(sums[0]) + " (kpa's)", ours.flaps <= sums[0].flaps})
	r.verdict(verdict{
		"pairs that cost no more than the dearer baseline and wait no more than the better", fmt.Sprintf("%d of %d", held, len(pairs)),
		"-", fmt.Sprintf("all %d", len(pairs)), held == len(pairs),
	})
}

// columns are the totals of ours and of each baseline.
func columns(pairs []pair) (ours totals, theirs []totals) {
	var list []scaled
	for _, p := range pairs {
		list = append(list, p.ours)
	}
	for i := range baselines {
		var of []scaled
		for _, p := range pairs {
			of = append(of, p.theirs[i])
		}
		theirs = append(theirs, sumUp(of))
	}
	return sumUp(list), theirs
}

func pairTable(pairs []pair) table {
	t := table{
		title: "Each trace and app",
		note: "Cost is instance-seconds + 0.1 x frozen-seconds, here over the ideal: one who knows all traffic beforehand and keeps\n" +
			"instances 70 % busy. Held: it costs no more than the dearer baseline, and no larger share waits than with the better one.",
		head: []string{"trace", "app", "cost / ideal", "kpa", "kpa-rps", "wait > 250 ms", "kpa", "kpa-rps", "flaps/h", "kpa", "kpa-rps", "held"},
	}
	for _, p := range pairs {
		row := []string{p.trace, p.app}
		for _, text := range []func(scaled) string{
			func(s scaled) string { return fmt.Sprintf("%.3f", s.cost()/s.Ideal) },
			func(s scaled) string { return percentOf(s.Over250) },
			func(s scaled) string { return fmt.Sprintf("%.1f", s.Flaps) },
		} {
			row = append(row, text(p.ours))
			for _, s := range p.theirs {
				row = append(row, text(s))
			}
		}
		t.rows = append(t.rows, append(row, yesNo(p.held())))
	}
	return t
}

// seedRows are the totals of one seed.
func seedRows(seed uint64, pairs []pair) [][]string {
	ours, theirs := columns(pairs)
	held := 0
	for _, p := range pairs {
		if p.held() {
			held++
		}
	}
	line := func(policy string, t totals, held string) []string {
		return []string{strconv.FormatUint(seed, 10), policy, fmt.Sprintf("%.3f", t.cost), percentOf(t.share), fmt.Sprintf("%.1f", t.flaps), held}
	}
	row := line("fluxgate", ours, fmt.Sprintf("%d of %d", held, len(pairs)))
	for i, missed := range map[int]bool{2: ours.cost > mostCost, 3: ours.share > mostShare, 4: ours.flaps > theirs[0].flaps, 5: held < len(pairs)} {
		if missed {
			row[i] = "**" + row[i] + "**"
		}
	}
	rows := [][]string{row}
	for i, t := range theirs {
		rows = append(rows, line(baselines[i], t, "-"))
	}
	return rows
}
