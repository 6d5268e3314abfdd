package cli

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/autoscale/rehearse"
	"github.com/fluxgate/fluxgate/router"
)

func rehearseCommand() *cli.Command {
	return &cli.Command{
		Name: "rehearse", Usage: "try a policy on recorded traffic before it counts", ArgsUsage: "[APP] [--with KEY=VALUE…]",
		Description: "It runs the very decisions that the gateway makes through a model of the app, once with the current policy and once with\n" +
			"the settings after --with, and changes nothing. The traffic is the app's own of the last time, or a file's. Without APP it\n" +
			"needs no gateway: the current policy is then the default one, with max and max_concurrency as the app file says.\n" +
			"A trace file has the lines `t_s,rps`, then one a second: 0,12.5. An app file is JSON or TOML with service_time_ms,\n" +
			"concurrency, start_ms (absent, stopped, frozen) and max_instances.",
		Flags: append(trafficFlags(),
			&cli.StringSliceFlag{Name: "with", Usage: "a `KEY=VALUE` of the proposed policy; more may follow"},
			&cli.StringFlag{Name: "picture", Usage: "draw traffic, instances and waits over time into this SVG `FILE`"},
			&cli.StringFlag{Name: "timeline", Usage: "write what was decided (of the proposed policy where there is one) into this `FILE`: t_s,desired,frozen"},
			&cli.Uint64Flag{Name: "poisson", Usage: "let requests come at random, by this `SEED`, instead of evenly within each second", DefaultText: "evenly"},
			&cli.StringFlag{Name: "removed", Usage: "what becomes of instances that are scaled down and not frozen: stopped or absent", Value: "absent"},
			&cli.StringFlag{Name: "driver", Usage: "what decides in place of the current policy: default, fixed:N or replay:FILE", Value: "default"},
			jsonFlag(),
		),
		Action: rehearsePolicy,
	}
}

// trafficFlags say what a policy is tried on.
func trafficFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "last", Usage: "the app's own traffic of the last `TIME`, from 10m to 24h", Value: "24h"},
		&cli.StringFlag{Name: "trace", Usage: "the traffic of this `FILE` instead"},
		&cli.StringFlag{Name: "app", Usage: "what to know of the app, from this `FILE` instead of what was measured"},
	}
}

// driverOf is what decides in place of the current policy, and how it is named.
func (r *rehearsal) driverOf(c *cli.Context, bad *findings) (rehearse.Driver, rehearse.Timing, string) {
	text := c.String("driver")
	kind, arg, _ := strings.Cut(text, ":")
	switch kind {
	case "default":
		if arg == "" {
			s := r.scaler(r.current)
			return s, s.Timing(), "fluxgate"
		}
	case "fixed":
		if n, err := strconv.Atoi(arg); err == nil && n >= 0 && n <= 100_000 {
			return rehearse.Fixed(n), rehearse.Fixed(n).Timing(), text
		}
	case "replay":
		rows, err := fromFile(arg, rehearse.ReadTimeline)
		bad.add("--driver "+text, err)
		d := &rehearse.Replay{Rows: rows}
		return d, d.Timing(), "replay"
	}
	*bad = append(*bad, router.Violation{Field: "--driver", Value: text, Limit: "default, fixed:N or replay:FILE", Remedy: "leave it out: the current policy decides"})
	return nil, rehearse.Timing{}, ""
}

func rehearsePolicy(c *cli.Context) error {
	var bad findings
	r, err := prepareRehearsal(c, c.StringSlice("with"), &bad)
	if err != nil {
		return err
	}
	stopped := removedFlag(c, &bad)
	driver, timing, name := r.driverOf(c, &bad)
	if err := bad.err("the rehearsal"); err != nil {
		return err
	}
	sides := []*side{{name: "current", policyName: name, app: r.facts, driver: driver, timing: timing}}
	if name == "fluxgate" {
		sides[0].app, sides[0].policy = r.under(r.current), r.current.Settings()
	}
	if len(r.settings) > 0 {
		s := r.scaler(r.proposed)
		sides = append(sides, &side{name: "proposed", policyName: "fluxgate", app: r.under(r.proposed), driver: s, timing: s.Timing(), policy: r.proposed.Settings()})
	}
	for _, s := range sides {
		s.timing.Stopped, s.timing.Poisson, s.timing.Seed = stopped, c.IsSet("poisson"), c.Uint64("poisson")
	}
	if err := runSides(c, r.trace, sides); err != nil {
		return err
	}
	if err := r.write(c, sides); err != nil {
		return err
	}
	out := rehearsed{App: r.name(), Trace: r.traceName, Notes: r.notes, Current: sides[0].json(r)}
	if len(sides) > 1 {
		p := sides[1].json(r)
		out.Proposed = &p
	}
	if c.Bool("json") { // without indentation: every tick is a row
		enc := json.NewEncoder(c.App.Writer)
		enc.SetEscapeHTML(false)
		return enc.Encode(out)
	}
	r.show(c.App.Writer, sides)
	return nil
}

// removedFlag reads --removed: whether instances that are scaled down stay,
// stopped.
func removedFlag(c *cli.Context, bad *findings) bool {
	text := c.String("removed")
	if text != "absent" && text != "stopped" {
		*bad = append(*bad, router.Violation{Field: "--removed", Value: text, Limit: "stopped or absent", Remedy: "the default is absent"})
	}
	return text == "stopped"
}

// write writes the files that were asked for.
func (r *rehearsal) write(c *cli.Context, sides []*side) error {
	if path := c.String("timeline"); path != "" {
		if err := toFile(path, func(w io.Writer) error { return rehearse.WriteTimeline(w, sides[len(sides)-1].result.Timeline) }); err != nil {
			return err
		}
	}
	path := c.String("picture")
	if path == "" {
		return nil
	}
	p := rehearse.Picture{Title: r.title(), Start: r.start}
	for _, s := range sides {
		p.Sides = append(p.Sides, rehearse.Side{Name: s.title(), Recording: s.result})
	}
	return toFile(path, p.WriteSVG)
}

func toFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return router.Errorf(router.CodeInvalid, "cannot write: %w", err)
	}
	return errors.Join(write(f), f.Close())
}
