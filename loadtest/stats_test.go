package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	hundred := make(times, 100)
	for i := range hundred {
		hundred[99-i] = time.Duration(i + 1)
	}
	tests := map[string]struct {
		of            times
		p50, p99, max time.Duration
	}{
		"none":    {nil, 0, 0, 0},
		"one":     {times{7}, 7, 7, 7},
		"two":     {times{9, 3}, 3, 9, 9},
		"hundred": {hundred, 50, 99, 100},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.of.p50() != tt.p50 || tt.of.p99() != tt.p99 || tt.of.max() != tt.max {
				t.Errorf("p50 %d p99 %d max %d, want %d %d %d", tt.of.p50(), tt.of.p99(), tt.of.max(), tt.p50, tt.p99, tt.max)
			}
		})
	}
}

func TestMedian(t *testing.T) {
	tests := map[string]struct {
		of   []float64
		want float64
	}{
		"none": {nil, 0},
		"odd":  {[]float64{3, 1, 2}, 2},
		"even": {[]float64{4, 1, 3, 2}, 2.5},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := median(tt.of); got != tt.want {
				t.Errorf("median %g, want %g", got, tt.want)
			}
		})
	}
}

func TestWriteGeneratedKeepsWhatPeopleWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	page := "above\n" + beginMark("") + "\nold\n" + endMark + "\nbelow\n"
	if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time must find its place again
		if err := writeGenerated(path, "", "new"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "above\n" + beginMark("") + "\n\nnew\n" + endMark + "\nbelow\n"
	if string(got) != want {
		t.Errorf("page is %q, want %q", got, want)
	}
	if err := os.WriteFile(path, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeGenerated(path, "", "new"); err == nil {
		t.Error("a page without marks was overwritten")
	}
}

func TestMarkdownNamesWhatIsMissed(t *testing.T) {
	var r report
	r.verdict(verdict{"a", "1", "2", "3", true})
	r.verdict(verdict{"b", "4", "5", "6", false})
	text := r.markdown([][]string{{"cores", "2"}})
	for _, want := range []string{"| cores | 2 |", "| a | 1 | 2 | 3 | yes |", "| b | 4 | 5 | 6 | **no** |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestPairs(t *testing.T) {
	of := func(cost, over, flaps float64) scaled {
		return scaled{Running: cost - 10, Frozen: 100, Ideal: 100, Over250: over, Flaps: flaps}
	}
	theirs := []scaled{of(200, 0.02, 3), of(300, 0.01, 5)}
	for name, tt := range map[string]struct {
		ours scaled
		held bool
	}{
		"as dear and as slow as may be": {of(300, 0.01, 0), true},
		"dearer than both":              {of(301, 0, 0), false},
		"slower than the better":        {of(100, 0.011, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (pair{ours: tt.ours, theirs: theirs}).held(); got != tt.held {
				t.Errorf("held: %v", got)
			}
		})
	}
	ours, sums := columns([]pair{{ours: of(200, 0.02, 1), theirs: theirs}, {ours: of(50, 0.04, 3), theirs: theirs}})
	if ours.cost < 0.999 || ours.cost > 1.001 || ours.share < 0.0299 || ours.share > 0.0301 || ours.flaps != 2 || sums[0].flaps != 3 || sums[1].cost < 2.999 || sums[1].cost > 3.001 {
		t.Errorf("%+v %+v", ours, sums)
	}
	if sumUp(nil).cost != 1 {
		t.Error("nothing measured is no number")
	}
}

// TestBaselinesAreWhole: there is a result of each baseline for every pair and
// seed, and the files that it was made of.
func TestBaselinesAreWhole(t *testing.T) {
	t.Chdir("..")
	for _, seed := range append([]uint64{0}, randomSeeds...) {
		theirs, err := readBaselines(seed)
		if err != nil {
			t.Fatal(err)
		}
		pairs, err := makePairs(theirs, seed)
		if err != nil || len(pairs) != len(traceNames)*len(traceApps) {
			t.Errorf("seed %d: %d pairs, %v", seed, len(pairs), err)
		}
	}
	if _, err := makePairs(nil, 1); err == nil {
		t.Error("a missing result is no error")
	}
	for _, name := range append(append([]string(nil), traceNames...), traceApps...) {
		if files, err := filepath.Glob(filepath.Join(tracesDir, name+".*")); err != nil || len(files) != 1 {
			t.Errorf("%s: %v, %v", name, files, err)
		}
	}
}
