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
