package autoscale

import (
	"slices"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

func TestSpares(t *testing.T) {
	rel := &router.Release{Run: router.Run{Placement: router.Placement{Avoid: map[string]string{"spot": "yes"}}}}
	const big = 50 << 20
	tests := map[string]struct {
		nodes []Candidate
		count int
		want  []string
	}{
		"the next one":               {[]Candidate{spot("a", has("app", 1)), spot("b", lacks(big))}, 1, []string{"b"}},
		"one has it already":         {[]Candidate{spot("a", has("app", 1)), spot("b"), spot("c", lacks(big))}, 1, nil},
		"one has it, two are wanted": {[]Candidate{spot("a", has("app", 1)), spot("b"), spot("c", lacks(big))}, 2, []string{"c"}},
		"no more nodes":              {[]Candidate{spot("a", has("app", 1))}, 3, nil},
		"not where it may not run":   {[]Candidate{spot("a", has("app", 1)), spot("b", lacks(big), label("spot", "yes"))}, 1, nil},
		"none are wanted":            {[]Candidate{spot("a", has("app", 1)), spot("b", lacks(big))}, 0, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := spares("app", rel, tt.nodes, tt.count); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
