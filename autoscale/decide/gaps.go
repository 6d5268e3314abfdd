package decide

import "math"

// gapBins is how many bins gaps are counted in; each is wider than the one before
// by the square root of 2, and they reach to a week.
const gapBins = 40

// gaps is a histogram of gaps in seconds. Old ones fade.
type gaps [gapBins]float32

// What is believed of gaps before any was seen: one gap, of a heavy-tailed
// distribution as most services have, P(gap > t) = (1+t)^-1/2.
const (
	priorWeight = 1.0
	priorShape  = 0.5
)

// So many gaps count in full; with each further one, those before count a little
// less.
const (
	fullWeight = 20
	fading     = 0.97
)

var (
	gapEdge       [gapBins + 1]float64 // where a bin begins
	priorSurvival [gapBins + 1]float64 // the share of gaps that reach it
)

func init() {
	for i := range gapEdge {
		if i > 0 {
			gapEdge[i] = math.Pow(2, float64(i)/2)
		}
		priorSurvival[i] = math.Pow(1+gapEdge[i], -priorShape)
	}
}

func gapBin(gap float64) int {
	if gap < math.Sqrt2 {
		return 0
	}
	return min(gapBins-1, int(2*math.Log2(gap)))
}

func (g *gaps) add(gap float64, weight float32) {
	sum := float32(0)
	for _, n := range g {
		sum += n
	}
	if sum > fullWeight {
		for i := range g {
			g[i] *= fading
		}
	}
	g[gapBin(gap)] += weight
}

// keep reports whether there is a moment up to which holding on, from age
// seconds on, costs less than it saves: price times the expected time until then
// or until the gap ends, against the penalty times the chance that it ends
// before. Like the keep-alive windows of Shahrad et al., Serverless in the Wild
// (USENIX ATC 2020), this goes by the histogram of idle times, but weighs it
// against what both sides cost.
func (g *gaps) keep(age, price, penalty float64) bool {
	first := gapBin(age)
	count := func(bin int) float64 {
		return float64(g[bin]) + priorWeight*(priorSurvival[bin]-priorSurvival[bin+1])
	}
	alive := priorWeight * priorSurvival[first]
	for _, n := range g[first:] {
		alive += float64(n)
	}
	// Of the bin that age is in, only what lies beyond age counts.
	beyond := max(0, gapEdge[first+1]-age)
	share := beyond / (gapEdge[first+1] - gapEdge[first])
	alive -= count(first) * (1 - share)
	all := alive
	ended, held := 0.0, 0.0
	for bin := first; bin < gapBins && alive > 0; bin++ {
		n, width := count(bin), gapEdge[bin+1]-gapEdge[bin]
		if bin == first {
			n, width = n*share, beyond
		}
		held += (alive - n/2) * width
		alive -= n
		ended += n
		if penalty*ended > price*held {
			return true
		}
		if price*held > penalty*all { // nothing that is to come makes it good
			return false
		}
	}
	return false
}
