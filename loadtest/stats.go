package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// times are measured durations, in any order.
type times []time.Duration

// at is the p-th percentile by the nearest-rank method: the smallest measured
// value that at least p percent do not exceed. Nothing measured is 0.
func (t times) at(p float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func (t times) p50() time.Duration { return t.at(50) }
func (t times) p99() time.Duration { return t.at(99) }
func (t times) max() time.Duration { return t.at(100) }

// median of numbers; 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(v))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// ms is a duration for a table.
func ms(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
