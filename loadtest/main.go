// Loadtest measures Fluxgate as its users meet it: over HTTP and through its
// command line, each number beside a reference measured in the same run. It
// prints tables; nothing here passes or fails a test.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	bin     string
	podman  string
	only    string
	write   string
	keep    bool
	apps    int
	wakes   int
	colds   int
	herd    int
	seconds time.Duration

	nodes, registered, active, gateways int // of scale
	sizes                               string
}

// benchOf is one measurement.
type benchOf struct {
	name string
	doc  string
	run  func(context.Context, *bench) error
}

// benches are the measurements, in the order in which they run: the one that
// leaves most behind comes last.
var benches = []benchOf{
	{"frozen", "requests to frozen apps, beside raw unpause calls", benchFrozen},
	{"cold", "requests to stopped and absent apps, beside the raw sequences", benchCold},
	{"herd", "many requests at once to one absent app", benchHerd},
	{"fifty", "fifty absent apps in the same second", benchFifty},
	{"step", "load on one app that rises fifty-fold at once", benchStep},
	{"push", "pushes of a static site, beside the raw build call", benchPush},
	{"proxy", "CPU time per proxied request, beside HAProxy", benchProxy},
	{"idle", "CPU and memory with many sleeping apps", benchIdle},
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/fluxgate", "the fluxgate `program` to measure")
	flag.StringVar(&o.podman, "podman", "", "Podman's `socket`, where it is not found by itself")
	flag.StringVar(&o.only, "only", "", "comma separated `names` of the measurements to run")
	flag.StringVar(&o.write, "write", "", "also write the tables into this `file`; --write alone: docs/benchmarks.md")
	flag.BoolVar(&o.keep, "keep", false, "keep the data folder and its log")
	flag.IntVar(&o.apps, "apps", 1000, "registered apps while idle")
	flag.IntVar(&o.wakes, "wakes", 100, "wakes from frozen")
	flag.IntVar(&o.colds, "colds", 30, "wakes from stopped, and from absent")
	flag.IntVar(&o.herd, "herd", 1000, "requests at once to one absent app")
	flag.DurationVar(&o.seconds, "load", 8*time.Second, "time of each load on a proxy")
	flag.IntVar(&o.nodes, "nodes", 1000, "scale: simulated nodes")
	flag.IntVar(&o.registered, "registered", 100_000, "scale: registered apps")
	flag.IntVar(&o.active, "active", 1000, "scale: apps that get a request each second")
	flag.IntVar(&o.gateways, "gateways", 5, "scale: gateways")
	flag.StringVar(&o.sizes, "sizes", "0.1,1", "scale: comma separated `factors` by which nodes and apps are multiplied")
	flag.Usage = usage
	args := bareWrite(os.Args[1:])
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		flags, names := []string{}, []string{} // the name, and its arguments, may come first
		for i, a := range args {
			if strings.HasPrefix(a, "-") {
				flags = args[i:]
				break
			}
			names = append(names, a)
		}
		args = append(slices.Clone(flags), names...)
	}
	flag.CommandLine.Parse(args) //nolint:errcheck // ExitOnError: it does not return one
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	switch flag.Arg(0) {
	case "":
		err = run(ctx, o)
	case "fleet":
		err = runFleet(ctx, o)
	case "scale":
		err = runScale(ctx, o)
	case "nodes": // one of the processes of scale
		err = runFakeNodes(ctx, flag.Args()[1:])
	case "autoscale":
		err = runAutoscale(ctx, o)
	default:
		err = fmt.Errorf("there is nothing to measure called %q: leave it out, or say fleet, scale or autoscale", flag.Arg(0))
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadtest:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(flag.CommandLine.Output(), "Measures fluxgate beside the reference of each number and prints tables.")
	for _, b := range benches {
		fmt.Fprintf(flag.CommandLine.Output(), "  %-8s %s\n", b.name, b.doc)
	}
	fmt.Fprintln(flag.CommandLine.Output(), "With the argument fleet: several machines and gateways instead (needs root).")
	fmt.Fprintln(flag.CommandLine.Output(), "With the argument scale: many simulated nodes and apps instead (needs root).")
	fmt.Fprintln(flag.CommandLine.Output(), "With the argument autoscale: the default policy on recorded traces, beside Knative's algorithm.")
	flag.PrintDefaults()
}

// bareWrite lets --write stand without a file.
func bareWrite(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		bare := i+1 == len(args) || strings.HasPrefix(args[i+1], "-")
		if (a == "-write" || a == "--write") && bare {
			args[i] = "--write=docs/benchmarks.md"
		}
	}
	return args
}

func run(ctx context.Context, o options) (err error) {
	wanted := strings.FieldsFunc(o.only, func(r rune) bool { return r == ',' })
	for _, name := range wanted {
		if !slices.ContainsFunc(benches, func(b benchOf) bool { return b.name == name }) {
			return fmt.Errorf("there is no measurement %q: see --help", name)
		}
	}
	b, err := setUp(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.tearDown()) }()
	for _, m := range benches {
		if len(wanted) > 0 && !slices.Contains(wanted, m.name) {
			continue
		}
		b.say("%s: %s", m.name, m.doc)
		start := time.Now()
		if err := m.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		b.say("%s took %s", m.name, time.Since(start).Round(time.Second))
	}
	text := b.report.markdown(machineFacts(ctx, b))
	fmt.Println(text)
	if o.write == "" {
		return nil
	}
	return writeGenerated(o.write, "", text)
}
