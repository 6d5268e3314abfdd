package decide

import (
	"math"
	"time"
)

// levels remembers, of each instance of an app, when it was last needed, and how
// long instances like it went unneeded before. The first instance is needed
// whenever there is a request, the tenth only at the peaks: each has gaps of its
// own, and so is worth keeping warm for a time of its own. Instances of about the
// same rank share what was learned.
type levels struct {
	Needed []int64 `json:"needed,omitempty"` // by rank from 0: the last second in which it was needed
	Gaps   []gaps  `json:"gaps,omitempty"`   // by group
}

// long is the age of what was never needed.
const long = 100 * 365 * 24 * time.Hour

// group is which ranks learn together: 1, 2, 3, 4, 5-6, 7-8, 9-11, 12-16, …
func group(rank int) int {
	if rank < 4 {
		return rank
	}
	return 4 + int(2*math.Log2(float64(rank)/4))
}

// groupWeight is what one instance's gap counts for in its group: a jump over all
// its ranks is one gap.
func groupWeight(rank int) float32 {
	if rank < 4 {
		return 1
	}
	return float32(min(1, 1/(0.35*float64(rank))))
}

// see notes that n instances were needed in a second.
func (l *levels) see(n int, second int64) {
	for rank := range n {
		if rank == len(l.Needed) {
			l.Needed = append(l.Needed, second)
			continue
		}
		if gap := second - l.Needed[rank]; gap > 1 {
			g := group(rank)
			for len(l.Gaps) <= g {
				l.Gaps = append(l.Gaps, gaps{})
			}
			l.Gaps[g].add(float64(gap), groupWeight(rank))
		}
		l.Needed[rank] = second
	}
}

// age is how long the instance of a rank has not been needed.
func (l *levels) age(rank int, second int64) time.Duration {
	if rank >= len(l.Needed) {
		return long
	}
	return time.Duration(max(0, second-l.Needed[rank])) * time.Second
}

// keep reports whether it pays to keep the instance of a rank as it is at a price
// a second, rather than let it go and pay the penalty when it is needed again.
func (l *levels) keep(rank int, age time.Duration, price, penalty float64) bool {
	if rank >= len(l.Needed) {
		return false
	}
	var g gaps
	if i := group(rank); i < len(l.Gaps) {
		g = l.Gaps[i]
	}
	return g.keep(age.Seconds(), price, penalty)
}
