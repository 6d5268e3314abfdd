package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/autoscale/rehearse"
	"github.com/fluxgate/fluxgate/router"
)

// rehearsal is what policies are tried on, and the policies.
type rehearsal struct {
	app       string // its name; empty: none was given
	trace     rehearse.Trace
	traceName string
	start     time.Time // of the trace; zero: unknown
	facts     rehearse.App
	current   router.Policy
	settings  map[string]string // of the proposed policy
	proposed  router.Policy
	notes     []string // what whoever reads the result should know
}

// prepareRehearsal reads everything, and adds all that is wrong to bad. The
// arguments are [APP] and more settings.
func prepareRehearsal(c *cli.Context, with []string, bad *findings) (*rehearsal, error) {
	r := &rehearsal{settings: map[string]string{}}
	for _, arg := range c.Args().Slice() {
		switch {
		case strings.Contains(arg, "="):
			with = append(with, arg)
		case r.app != "":
			return nil, usagef("%q is an argument too many", arg)
		default:
			var err error
			r.app, err = appName(arg)
			bad.add("", err)
		}
	}
	if len(with) > 0 {
		var err error
		if r.settings, err = keyValues(with); err != nil {
			return nil, err
		}
	}
	trace, app := c.String("trace"), c.String("app")
	if r.app == "" && (trace == "" || app == "") {
		return nil, usagef("name an app, or say --trace FILE and --app FILE")
	}
	last, err := router.ParseDuration(c.String("last"))
	if err != nil || last.D() < 10*time.Minute || last.D() > 24*time.Hour {
		*bad = append(*bad, router.Violation{Field: "--last", Value: c.String("last"), Limit: "a duration from 10m to 24h", Remedy: "the default is 24h"})
	}
	if trace != "" {
		r.trace, err = fromFile(trace, rehearse.ReadTrace)
		r.traceName = baseName(trace)
		bad.add("--trace ", err)
	}
	if app != "" {
		r.facts, err = fromFile(app, func(f io.Reader) (rehearse.App, error) { return rehearse.ReadApp(f, app) })
		bad.add("--app ", err)
	}
	r.current = router.DefaultPolicy()
	r.current.Max, r.current.MaxConcurrency = r.facts.MaxInstances, int(r.facts.Concurrency)
	if r.app != "" && len(*bad) == 0 { // else the gateway is not asked
		if err := r.ask(c, trace == "", app == "", last.D()); err != nil {
			return nil, err
		}
	}
	r.propose(bad)
	return r, nil
}

// ask takes from the gateway what no file says.
func (r *rehearsal) ask(c *cli.Context, traffic, facts bool, last time.Duration) error {
	client, err := connect(c)
	if err != nil {
		return err
	}
	defer client.Close()
	settings, err := client.Policy(c.Context, r.app)
	if err != nil {
		return err
	}
	texts := make(map[string]string, len(settings))
	for _, s := range settings {
		texts[s.Key] = s.Value
	}
	current, wrong := router.DefaultPolicy().With(texts, "")
	if len(wrong) > 0 { // a gateway of another version
		return router.Invalid("the app's current policy", wrong)
	}
	r.current = current
	if !traffic && !facts {
		return nil
	}
	recorded, err := client.Traffic(c.Context, r.app, last)
	if err != nil {
		return err
	}
	if facts {
		if err := r.measured(recorded); err != nil {
			return err
		}
	}
	if traffic {
		return r.recorded(recorded, last)
	}
	return nil
}

// propose makes the proposed policy.
func (r *rehearsal) propose(bad *findings) {
	checked := r.current
	if r.app == "" && r.facts.Concurrency == 0 { // its file could not be read
		checked = router.DefaultPolicy()
	}
	next, wrong := checked.With(r.settings, "--with ")
	*bad = append(*bad, wrong...)
	if _, set := r.settings["max_concurrency"]; set && len(wrong) == 0 && r.facts.Concurrency > 0 && int64(next.MaxConcurrency) > r.facts.Concurrency {
		*bad = append(*bad, router.Violation{
			Field: "--with max_concurrency", Value: strconv.Itoa(next.MaxConcurrency), Limit: fmt.Sprintf("at most %d, as more was never tried", r.facts.Concurrency),
			Remedy: "say with --app FILE how long a request is served when an instance has so many",
		})
	}
	r.proposed = next
}

// app is what the plant makes of the app under a policy.
func (r *rehearsal) under(p router.Policy) rehearse.App {
	app := r.facts
	app.Concurrency = min(app.Concurrency, int64(p.MaxConcurrency))
	return app
}

// scaler decides as the gateway does under a policy.
func (r *rehearsal) scaler(p router.Policy) *rehearse.Scaler {
	s := rehearse.NewScaler(r.under(p), p)
	s.Policy = p
	if !r.start.IsZero() {
		s.Start = r.start
	}
	return s
}

// findings are all that is wrong with what was given.
type findings []router.Violation

// add takes an error in, with prefix before each of its fields.
func (f *findings) add(prefix string, err error) {
	var e *router.Error
	switch {
	case err == nil:
	case errors.As(err, &e) && len(e.Violations) > 0:
		for _, v := range e.Violations {
			v.Field = prefix + v.Field
			*f = append(*f, v)
		}
	default:
		*f = append(*f, router.Violation{Field: strings.TrimSpace(prefix), Limit: err.Error()})
	}
}

func (f findings) err(what string) error { return router.Invalid(what, f) }

// fromFile reads a file.
func fromFile[T any](path string, read func(io.Reader) (T, error)) (T, error) {
	f, err := os.Open(path)
	if err != nil {
		var none T
		return none, fmt.Errorf("cannot be read: %w", err)
	}
	defer f.Close()
	return read(f)
}

// baseName is a file's name without folder and ending.
func baseName(path string) string {
	path = path[strings.LastIndexAny(path, `/\`)+1:]
	name, _, _ := strings.Cut(path, ".")
	return name
}
