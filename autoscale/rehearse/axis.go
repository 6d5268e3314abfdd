package rehearse

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// scale is the end of an axis that holds values up to most, and its marks: round
// numbers, by where they are from 0 to 1.
func scale(most float64) (end float64, marks map[float64]string) {
	if most <= 0 {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, by := range []float64{1, 2, 5, 10} {
		if most/(step*by) <= 5 {
			step *= by
			break
		}
	}
	end = step * math.Ceil(most/step)
	marks = map[float64]string{}
	for i := range int(math.Round(end/step)) + 1 {
		marks[float64(i)*step/end] = number(float64(i) * step)
	}
	return end, marks
}

func sorted(marks map[float64]string) []float64 { return slices.Sorted(maps.Keys(marks)) }

// number is a mark's text: 0.5, 20, 1,500, 2.5 M.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + " M"
	case v >= 10 || v == math.Trunc(v):
		return group(int64(math.Round(v)))
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// group is a number with a comma before every three digits.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// percent is a share in percent, with what digits it has and no more than four.
func percent(share float64) string {
	s := strconv.FormatFloat(100*share, 'f', 4, 64)
	if s = strings.TrimRight(strings.TrimRight(s, "0"), "."); s == "" {
		return "0"
	}
	return s
}

// wait is a time in ms as people read it.
func wait(ms float64) string {
	switch {
	case ms < 1000:
		return strconv.FormatFloat(ms, 'g', -1, 64) + " ms"
	case ms < 100_000:
		return strconv.FormatFloat(ms/1000, 'g', 3, 64) + " s"
	}
	return group(int64(math.Round(ms/1000))) + " s"
}

// span is a length of time in words.
func span(seconds int) string {
	switch {
	case seconds == 1:
		return "a second"
	case seconds < 60:
		return fmt.Sprintf("%d s", seconds)
	case seconds == 60:
		return "a minute"
	case seconds < 3600:
		return fmt.Sprintf("%d min", seconds/60)
	case seconds == 3600:
		return "an hour"
	}
	return fmt.Sprintf("%d h", seconds/3600)
}

// tenth rounds to a tenth of a pixel.
func tenth(v float64) float64 { return math.Round(v*10) / 10 }
