package rehearse

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// traces is where the reference traces, apps and results are.
const traces = "../../loadtest/traces"

var (
	traceNames = []string{"diurnal", "flash", "onoff", "sparse", "cron", "noisy", "ramp", "pareto"}
	appNames   = []string{"fast", "web", "jvm"}
)

func loadTrace(t testing.TB, name string) Trace {
	t.Helper()
	f, err := os.Open(filepath.Join(traces, name+".csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	trace, err := ReadTrace(f)
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

func loadApp(t testing.TB, name string) App {
	t.Helper()
	path := filepath.Join(traces, name+".json")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	app, err := ReadApp(f, path)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func loadJSON[T any](t testing.TB, path string) T {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// plain is a result without what the caller names.
func plain(t testing.TB, r Result) string {
	t.Helper()
	r.Policy, r.Timeline = "", nil
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestFixed holds the plant against the results of the reference implementation,
// to the digit, with arrivals that are even and with random ones.
func TestFixed(t *testing.T) {
	type row struct {
		Trace string
		Seed  *uint64
		N     int
		Result
	}
	for _, want := range loadJSON[[]row](t, "testdata/fixed.json") {
		name := fmt.Sprintf("%s %s fixed:%d", want.Trace, want.App, want.N)
		if want.Seed != nil {
			name += " random"
		}
		t.Run(name, func(t *testing.T) {
			timing := Fixed(want.N).Timing()
			if want.Seed != nil {
				timing.Poisson, timing.Seed = true, *want.Seed
			}
			got := Run(loadTrace(t, want.Trace), loadApp(t, want.App), Fixed(want.N), timing)
			if g, w := plain(t, got), plain(t, want.Result); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}

// TestReplay holds it against the reference's results for a timeline with frozen
// pools, both with instances that are removed and with such that stay stopped.
func TestReplay(t *testing.T) {
	type row struct {
		Trace   string
		Stopped bool
		Result
	}
	for _, want := range loadJSON[[]row](t, "testdata/replay.json") {
		t.Run(fmt.Sprintf("%s %s stopped %v", want.Trace, want.App, want.Stopped), func(t *testing.T) {
			f, err := os.Open(filepath.Join("testdata", want.Trace+"-"+want.App+".csv"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			rows, err := ReadTimeline(f)
			if err != nil {
				t.Fatal(err)
			}
			d := &Replay{Rows: rows}
			timing := d.Timing()
			timing.Stopped = want.Stopped
			got := Run(loadTrace(t, want.Trace), loadApp(t, want.App), d, timing)
			if g, w := plain(t, got), plain(t, want.Result); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}

// TestReplayRepeats: what a run ordered, replayed, comes to the same. So it can
// be scored by another implementation of the plant.
func TestReplayRepeats(t *testing.T) {
	for _, trace := range []string{"flash", "onoff", "sparse", "cron", "pareto"} {
		for _, app := range appNames {
			t.Run(trace+" "+app, func(t *testing.T) {
				rates, a := loadTrace(t, trace), loadApp(t, app)
				s := NewScaler(a, router.DefaultPolicy())
				first := Run(rates, a, s, s.Timing())
				again := &Replay{Rows: first.Timeline}
				if g, w := plain(t, Run(rates, a, again, again.Timing())), plain(t, first); g != w {
					t.Errorf("replayed\n%s\nfirst\n%s", g, w)
				}
			})
		}
	}
}

// TestPlantByHand is cases small enough to be worked out on paper.
func TestPlantByHand(t *testing.T) {
	app := App{Name: "a", ServiceMS: 100, Concurrency: 1, AbsentMS: 250, StoppedMS: 120, FrozenMS: 30, MaxInstances: 10}
	tests := map[string]struct {
		trace  Trace
		rows   []Row
		timing func(*Timing)
		want   func(Result) bool
	}{
		"nothing comes": {Trace{0, 0}, nil, nil, func(r Result) bool {
			return r.Requests == 0 && r.InstanceSeconds == 0 && r.Overprovision == nil && r.P99 == 0
		}},
		// One request a second arrives in the last step, at 900 ms; the instance
		// is started at once and ready 250 ms later.
		"the gateway starts the first": {Trace{1000, 0}, nil, nil, func(r Result) bool {
			return r.Requests == 1 && r.Max == 250 && r.StartsFrom == Starts{Absent: 1} && r.Over50 == 1 && r.Over250 == 0
		}},
		"unless it may not": {Trace{1000, 0}, nil, func(t *Timing) { t.NoActivation = true }, func(r Result) bool {
			return r.Unserved == 1 && r.Max == 1100 && r.InstanceSeconds == 0
		}},
		"frozen ones first": {Trace{0, 0, 1000, 0}, []Row{{0, 1, 0}, {500, 0, 1}}, nil, func(r Result) bool {
			return r.StartsFrom == Starts{Absent: 1, Frozen: 1} && r.Max == 30 && r.FrozenSeconds == 2.4
		}},
		"then stopped ones": {Trace{0, 0, 1000, 0}, []Row{{0, 1, 0}, {500, 0, 0}}, func(t *Timing) { t.Stopped = true }, func(r Result) bool {
			return r.StartsFrom == Starts{Absent: 1, Stopped: 1} && r.Max == 120
		}},
		"what starts is cancelled first": {Trace{0, 0}, []Row{{0, 1, 0}, {400, 3, 0}, {500, 1, 1}}, nil, func(r Result) bool {
			return r.FrozenSeconds == 0 && r.InstanceSeconds == 2.2
		}},
		"no more than allowed": {Trace{0, 0}, []Row{{0, 99, 0}}, nil, func(r Result) bool { return r.Peak == 10 }},
		"a change back is a flap": {Trace{0, 0}, []Row{{0, 1, 0}, {400, 3, 0}, {500, 1, 0}, {600, 2, 0}}, nil, func(r Result) bool {
			return r.Flaps == 3600
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := &Replay{Rows: tt.rows}
			timing := d.Timing()
			if tt.timing != nil {
				tt.timing(&timing)
			}
			if r := Run(tt.trace, app, d, timing); !tt.want(r) {
				t.Errorf("%+v", r)
			}
		})
	}
}
