package rehearse

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestRecordIsRun: recording changes nothing, and what it holds adds up to the
// result.
func TestRecordIsRun(t *testing.T) {
	for _, trace := range []string{"flash", "cron"} {
		t.Run(trace, func(t *testing.T) {
			rates, app := loadTrace(t, trace), loadApp(t, "web")
			s := NewScaler(app, router.DefaultPolicy())
			want := Run(rates, app, s, s.Timing())
			s = NewScaler(app, router.DefaultPolicy())
			got := Record(rates, app, s, s.Timing())
			if g, w := plain(t, got.Result), plain(t, want); g != w {
				t.Errorf("recorded\n%s\nrun\n%s", g, w)
			}
			var requests, seconds int64
			var running, frozen, over float64
			for i, b := range got.Bins {
				n := float64(min(got.Width, len(rates)-i*got.Width))
				requests += b.Requests
				running += b.Running * n
				frozen += b.Frozen * n
				over += b.Over250 * float64(b.Requests)
				seconds += int64(n)
				if b.Peak < b.Rate-1e-9 {
					t.Errorf("bin %d: %f requests/s in the busiest second and %f in the mean", i, b.Peak, b.Rate)
				}
			}
			// A run is also billed for what instances still do when they go.
			if requests != want.Requests || seconds != int64(len(rates)) || frozen-want.FrozenSeconds > 0.01 || want.FrozenSeconds-frozen > 0.01 || running > want.InstanceSeconds+0.01 {
				t.Errorf("the bins add up to %d requests, %f and %f instance-seconds in %d s", requests, running, frozen, seconds)
			}
			if share := over / float64(want.Requests); share-want.Over250 > 1e-6 || want.Over250-share > 1e-6 {
				t.Errorf("a share of %f waits in the bins, %f in all", share, want.Over250)
			}
			wakes := got.Wakes.Absent + got.Wakes.Stopped + got.Wakes.Frozen
			if wakes == 0 || wakes > want.Starts {
				t.Errorf("%d wakes, %d starts", wakes, want.Starts)
			}
			last := int64(-1)
			row, rows := Row{}, want.Timeline
			for _, tick := range got.Ticks {
				for len(rows) > 0 && rows[0].MS <= tick.MS {
					row, rows = rows[0], rows[1:]
				}
				if tick.MS <= last || tick.Desired != row.Desired || tick.Target != row.Frozen || tick.Ready+tick.Starting != tick.Desired {
					t.Fatalf("tick %+v after %d ms; the timeline has %+v", tick, last, row)
				}
				last = tick.MS
			}
			if len(got.Ticks) < len(rates)-1 {
				t.Errorf("%d ticks in %d s", len(got.Ticks), len(rates))
			}
		})
	}
}

// TestRecordP99 is small enough to be counted by hand: of the first two seconds'
// two requests one waits for the start.
func TestRecordP99(t *testing.T) {
	app := App{Name: "a", ServiceMS: 100, Concurrency: 1, AbsentMS: 250, StoppedMS: 120, FrozenMS: 30, MaxInstances: 10}
	d := &Replay{Rows: []Row{{3000, 0, 1}}}
	got := Record(Trace{1000, 1000, 0, 0, 1000, 0}, app, d, d.Timing())
	if b := got.Bins; b[0].P99 != 250 || b[0].Over250 != 0 || b[1].P99 != 0 || b[4].P99 != 30 || b[5].Requests != 0 {
		t.Errorf("%+v", b)
	}
	if got.Wakes != (Starts{Absent: 1, Frozen: 1}) {
		t.Errorf("wakes %+v", got.Wakes)
	}
}

// TestStop: a run ends early where nobody waits for it any more.
func TestStop(t *testing.T) {
	stop := make(chan struct{})
	steps := 0
	timing := Fixed(1).Timing()
	timing.Stop = stop
	timing.Probe = func(Step) {
		if steps++; steps == 25 {
			close(stop)
		}
	}
	Run(make(Trace, 3600), loadApp(t, "web"), Fixed(1), timing)
	if steps != 30 {
		t.Errorf("it ended after %d steps", steps)
	}
}

// timed is a driver that says when it is called.
type timed interface {
	Driver
	Timing() Timing
}

func TestPicture(t *testing.T) {
	// Drivers that do not depend on how decisions are made today.
	side := func(name, trace, app string, d timed) Side {
		return Side{name, Record(loadTrace(t, trace), loadApp(t, app), d, d.Timing())}
	}
	f, err := os.Open(filepath.Join("testdata", "flash-jvm.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := ReadTimeline(f)
	if err != nil {
		t.Fatal(err)
	}
	long := loadTrace(t, "diurnal")
	for len(long) < 24*3600 {
		long = append(long, long[:min(len(long), 24*3600-len(long))]...)
	}
	tests := map[string]Picture{
		"two policies":  {Title: "jvm: 1h of traffic of flash", Sides: []Side{side("current", "flash", "jvm", &Replay{Rows: rows}), side("fixed:60", "flash", "jvm", Fixed(60))}},
		"one at a time": {Title: "a <b> & c", Start: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Sides: []Side{side("fixed:1", "sparse", "web", Fixed(1))}},
		"a day":         {Title: "24 h", Sides: []Side{{"fixed:20", Record(long, loadApp(t, "web"), Fixed(20), Fixed(20).Timing())}}},
		"nothing came":  {Title: "silence", Sides: []Side{{"fixed:0", Record(make(Trace, 20), loadApp(t, "web"), Fixed(0), Fixed(0).Timing())}}},
	}
	for name, p := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := p.WriteSVG(&b); err != nil {
				t.Fatal(err)
			}
			for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("not well-formed: %v", err)
				}
			}
			if b.Len() > 100_000 || bytes.Contains(b.Bytes(), []byte("NaN")) || bytes.Contains(b.Bytes(), []byte("Inf")) {
				t.Errorf("%d bytes, or numbers that are none", b.Len())
			}
			path := filepath.Join("testdata", strings.ReplaceAll("picture-"+name, " ", "-")+".svg")
			if *update {
				if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v; run with -update", err)
			}
			if !bytes.Equal(want, b.Bytes()) {
				t.Errorf("%s is drawn otherwise; see it with -update", path)
			}
		})
	}
}

func TestScale(t *testing.T) {
	for most, want := range map[float64]float64{0: 1, 1: 1, 3: 3, 7: 8, 10: 10, 11: 15, 99: 100, 3100: 4000, 10_250: 15_000, 0.3: 0.3, 2_300_000: 2_500_000} {
		end, marks := scale(most)
		if end < want*0.999 || end > want*1.001 || len(marks) < 3 || len(marks) > 7 || marks[0] != "0" {
			t.Errorf("up to %g the axis ends at %g (want %g) with the marks %v", most, end, want, marks)
		}
	}
}
