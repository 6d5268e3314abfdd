package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/autoscale/rehearse"
	"github.com/fluxgate/fluxgate/router"
)

// recommended is what recommend prints with --json.
type recommended struct {
	App      string               `json:"app"`
	Trace    string               `json:"trace" doc:"Name of the trace's file; recorded: the app's own traffic"`
	Notes    []string             `json:"notes,omitempty" doc:"What was assumed"`
	Goal     []string             `json:"goal" doc:"What the policy should hold"`
	Held     bool                 `json:"held" doc:"Whether the proposed policy holds it; else it comes closest of those that were tried"`
	Tried    int                  `json:"tried" doc:"Policies that were tried"`
	Changes  []router.FieldChange `json:"changes" doc:"What to change of the current policy; empty: nothing that was tried is better"`
	Command  string               `json:"command,omitempty" doc:"The command that changes it"`
	Current  runSummary           `json:"current"`
	Proposed runSummary           `json:"proposed"`
}

func recommendCommand() *cli.Command {
	return &cli.Command{
		Name: "recommend", Usage: "find the cheapest policy that holds a goal on recorded traffic", ArgsUsage: "[APP] --wait-p99 TIME",
		Description: "It tries policies as rehearse does, setting by setting, and changes nothing. Requests come at random within what was\n" +
			"recorded, as they did: with even ones, instances could be run hotter than holds in life. Without APP, as for rehearse.\n" +
			"Exit code 1 where nothing that was tried holds the goal.",
		Flags: append(trafficFlags(),
			&cli.StringFlag{Name: "wait-p99", Usage: "99 of 100 requests wait no longer than this `TIME`"},
			&cli.StringFlag{Name: "wait-p95", Usage: "95 of 100 requests wait no longer than this `TIME`"},
			&cli.StringFlag{Name: "share-250ms", Usage: "no more than this `SHARE` of the requests waits longer than 250 ms: 1%, or 0.01"},
			&cli.Uint64Flag{Name: "poisson", Usage: "the `SEED` of the random arrivals", Value: 1},
			&cli.StringFlag{Name: "removed", Usage: "what becomes of instances that are scaled down and not frozen: stopped or absent", Value: "absent"},
			jsonFlag(),
		),
		Action: recommendPolicy,
	}
}

// readGoal reads the goal's flags; texts are the goal in words.
func readGoal(c *cli.Context, bad *findings) (bars []rehearse.Bar, texts []string) {
	for _, w := range []struct {
		flag  string
		share float64
	}{{"wait-p99", 0.01}, {"wait-p95", 0.05}} {
		text := c.String(w.flag)
		if text == "" {
			continue
		}
		d, err := router.ParseDuration(text)
		if err != nil || d < 0 || d.D() > time.Hour {
			*bad = append(*bad, router.Violation{Field: "--" + w.flag, Value: text, Limit: "a duration from 0s to 1h", Remedy: "for example 100ms"})
			continue
		}
		bars = append(bars, rehearse.Bar{MS: d.D().Milliseconds(), Share: w.share})
		texts = append(texts, fmt.Sprintf("%s at most %s", strings.Replace(w.flag, "-", " ", 1), d))
	}
	if text := c.String("share-250ms"); text != "" {
		number, isPercent := strings.CutSuffix(text, "%")
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if isPercent {
			v /= 100
		}
		if err != nil || !(v >= 0 && v < 1) {
			*bad = append(*bad, router.Violation{Field: "--share-250ms", Value: text, Limit: "a share from 0% to less than 100%", Remedy: "for example 1%"})
		} else {
			bars = append(bars, rehearse.Bar{MS: 250, Share: v})
			texts = append(texts, fmt.Sprintf("at most %g %% wait more than 250 ms", 100*v))
		}
	}
	return bars, texts
}

func recommendPolicy(c *cli.Context) error {
	if c.String("wait-p99")+c.String("wait-p95")+c.String("share-250ms") == "" {
		return usagef("name a goal: --wait-p99 TIME, --wait-p95 TIME or --share-250ms SHARE")
	}
	if slices.ContainsFunc(c.Args().Slice(), func(arg string) bool { return strings.Contains(arg, "=") }) {
		return usagef("recommend takes no settings: it looks for them")
	}
	var bad findings
	r, err := prepareRehearsal(c, nil, &bad)
	if err != nil {
		return err
	}
	goal, texts := readGoal(c, &bad)
	stopped := removedFlag(c, &bad)
	if err := bad.err("the question"); err != nil {
		return err
	}
	run := func(p router.Policy) *side {
		s := r.scaler(p)
		timing := s.Timing()
		timing.Stopped, timing.Poisson, timing.Seed, timing.Stop = stopped, true, c.Uint64("poisson"), c.Done()
		return &side{name: "proposed", policyName: "fluxgate", app: r.under(p), policy: p.Settings(), driver: s, timing: timing}
	}
	show := newMeter(c, "trying policies", int64(rehearse.SpaceSize()))
	search := rehearse.Search{
		Goal: goal, Tried: func() { show.add(1) }, Stopped: func() bool { return c.Err() != nil },
		Run: func(p router.Policy, waited func(came, wait, n int64)) rehearse.Result {
			s := run(p)
			s.timing.Waited = waited
			return rehearse.Run(r.trace, s.app, s.driver, s.timing)
		},
	}
	best, now := search.Best(r.current)
	show.end()
	if err := c.Err(); err != nil {
		return err
	}
	current, proposed := run(r.current), run(best.Policy)
	current.name, proposed.name = "current", "recommended"
	sides := []*side{current, proposed}
	for _, s := range sides {
		s.result = rehearse.Record(r.trace, s.app, s.driver, s.timing)
	}
	if err := c.Err(); err != nil {
		return err
	}
	out := recommended{
		App: r.name(), Trace: r.traceName, Notes: r.notes, Goal: texts, Held: best.Miss == 0, Tried: int(show.done.Load()),
		Changes: r.current.Changes(best.Policy), Current: current.summary(r), Proposed: proposed.summary(r),
	}
	if len(out.Changes) > 0 {
		words := []string{"fluxgate", "policy", "APP", "set"}
		if r.app != "" {
			words[2] = r.app
		}
		for _, f := range out.Changes {
			words = append(words, f.Key+"="+f.To)
		}
		out.Command = strings.Join(words, " ")
	}
	err = emit(c, out, func(w io.Writer) {
		r.head(w, current.result.Requests)
		fmt.Fprintf(w, "goal: %s\n", strings.Join(texts, ", "))
		switch {
		case !out.Held && len(out.Changes) == 0:
			fmt.Fprintf(w, "nothing of %d policies that were tried holds it or comes closer than the current one: %s\n", out.Tried, closest(goal, now))
		case !out.Held:
			fmt.Fprintf(w, "nothing of %d policies that were tried holds it; closest comes: %s\n", out.Tried, diffs(out.Changes))
			fmt.Fprintf(w, "with it %s\n", closest(goal, best))
		case len(out.Changes) == 0:
			fmt.Fprintf(w, "the current policy holds it, and nothing of %d policies that were tried is cheaper\n", out.Tried)
		default:
			fmt.Fprintf(w, "recommended, as the cheapest of %d policies that were tried: %s\n", out.Tried, diffs(out.Changes))
		}
		fmt.Fprintln(w)
		if len(out.Changes) == 0 {
			sides = sides[:1]
		}
		compare(w, sides)
		if out.Command != "" {
			fmt.Fprintf(w, "\n%s\n", out.Command)
		}
	})
	if err == nil && !out.Held {
		return errFailed
	}
	return err
}

// closest says by how much a policy misses a goal.
func closest(goal []rehearse.Bar, t rehearse.Trial) string {
	var texts []string
	for i, bar := range goal {
		text := fmt.Sprintf("%s %% wait more than %d ms (%g %% may)", strconv.FormatFloat(100*t.Shares[i], 'f', 3, 64), bar.MS, 100*bar.Share)
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, ", ")
}
