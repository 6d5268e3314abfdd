package decide

import (
	"math"
	"slices"
)

// signalSeconds is how far back the rate is remembered.
const signalSeconds = 64

// mostNoise bounds what noise is taken for: beyond it, traffic comes in bursts,
// and no share kept free would do.
const mostNoise = 0.5

// signal is the arrival rate of the last seconds, and how far forecasts were
// off. Seconds index rings by their remainder.
type signal struct {
	Second  int64                  `json:"second"`  // the last one taken in
	Rates   [signalSeconds]float32 `json:"rates"`   // requests/s
	Guesses [signalSeconds]float32 `json:"guesses"` // forecasts of seconds to come
	Off     [signalSeconds]float32 `json:"off"`     // what forecasts were off by beyond chance, of the forecast
	Seen    int64                  `json:"seen"`    // seconds since the first
	Last    int64                  `json:"last"`    // the last one with a request

	sigma float64 // noise, where known
	known bool
}

func (s *signal) at(second int64) float64 {
	if second > s.Second || second <= s.Second-signalSeconds || s.Second-second >= s.Seen {
		return 0
	}
	return float64(s.Rates[second%signalSeconds])
}

// add takes a second in. Those that were left out had no request.
func (s *signal) add(second int64, rate float64) {
	if s.Second == 0 {
		s.Second = second - 1
	}
	for gone := min(second-s.Second-1, signalSeconds); gone > 0; gone-- {
		s.push(second-gone, 0)
	}
	s.push(second, rate)
}

func (s *signal) push(second int64, rate float64) {
	s.Second = second
	s.Seen++
	s.known = false
	if rate > 0 {
		s.Last = second
	}
	i := second % signalSeconds
	guess := float64(s.Guesses[i])
	s.Guesses[i], s.Rates[i], s.Off[i] = 0, float32(rate), 0
	switch {
	case guess > 0:
		off := rate - guess
		s.Off[i] = float32(math.Sqrt(max(0, off*off-guess)) / guess)
	case rate > 0:
		s.Off[i] = 1
	}
}

// guess notes what is forecast for a second to come.
func (s *signal) guess(second int64, rate float64) {
	if second > s.Second && second < s.Second+signalSeconds {
		s.Guesses[second%signalSeconds] = float32(rate)
	}
}

// noise is the standard error of forecasts beyond chance, of the rate. It goes by
// the third quartile, so that a jump is no noise.
func (s *signal) noise() float64 {
	if !s.known {
		off := s.Off
		slices.Sort(off[:])
		const quartile = 1.15 // three of four are within so many standard deviations
		s.known = true
		s.sigma = min(mostNoise, float64(off[signalSeconds*3/4])/quartile)
	}
	return s.sigma
}

// level is the rate now: the mean of the window, or the last second alone where
// it stands out from it beyond chance and noise.
func (s *signal) level(window int64) float64 {
	sum := 0.0
	for i := range window {
		sum += s.at(s.Second - i)
	}
	last := s.at(s.Second)
	return max(sum/float64(window), last-3*math.Sqrt(last+last*last*s.noise()*s.noise()))
}

// growth is by how much the rate grows each second, as far as it matters over a
// horizon in seconds: steeply over the last three seconds, or over twice the
// horizon.
func (s *signal) growth(horizon float64) float64 {
	long := s.slope(int64(max(5, min(horizon*2, 30))))
	if short := s.slope(3); math.Abs(short) > 2*math.Abs(long) {
		return short
	}
	return long
}

// slope is by how much the rate grows each second, from the last n seconds; 0
// where that may be chance, or was a step that is over.
func (s *signal) slope(n int64) float64 {
	b, off := s.regress(n)
	if math.Abs(b) < 3*off {
		return 0
	}
	if half := n / 2; half >= 3 {
		late, off := s.regress(half)
		if b > 0 {
			return max(0, min(b, late+off))
		}
		return min(0, max(b, late-off))
	}
	return b
}

// regress is the least-squares slope of the last n seconds, and its standard
// error.
func (s *signal) regress(n int64) (b, off float64) {
	n = min(n, s.Seen)
	if n < 3 {
		return 0, 0
	}
	var sxy, sxx, sum float64
	first := s.Second - n + 1
	for i := range n {
		sum += s.at(first + i)
	}
	mean, middle := sum/float64(n), float64(n-1)/2
	for i := range n {
		x := float64(i) - middle
		sxy += x * (s.at(first+i) - mean)
		sxx += x * x
	}
	b = sxy / sxx
	rest := 0.0
	for i := range n {
		e := s.at(first+i) - mean - b*(float64(i)-middle)
		rest += e * e
	}
	chance := max(mean, 1) * (1 + mean*s.noise()*s.noise()) // what the rate varies by itself
	return b, math.Sqrt(max(rest/float64(n-2), chance) / sxx)
}
