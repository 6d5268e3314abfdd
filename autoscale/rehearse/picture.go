package rehearse

import (
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// Picture is a drawing of one run or of two beside each other: the traffic, the
// instances and the waits over time.
type Picture struct {
	Title string
	Start time.Time // of the trace; zero: the axis counts from 0:00
	Sides []Side    // one or two, of the same trace
}

// Side is one run of a Picture.
type Side struct {
	Name string
	Recording
}

// Measures of the picture, in pixels.
const (
	pictureWidth  = 960
	plotLeft      = 66.0
	plotRight     = 944.0
	plotHeight    = 140.0
	plotGap       = 42.0
	firstPlot     = 104.0
	pictureHeight = firstPlot + 3*plotHeight + 2*plotGap + 46
	floorMS       = 10.0 // waits up to this are drawn as none
)

// sideColours are the colours of the runs: told apart by the colour-blind too.
var sideColours = []string{"#2563eb", "#ea580c"}

// WriteSVG draws it. The same picture is the same text.
func (p Picture) WriteSVG(w io.Writer) error {
	d := &drawing{bins: len(p.Sides[0].Bins), width: p.Sides[0].Width, seconds: p.Sides[0].Duration}
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %g" font-family="system-ui, sans-serif" font-size="12" fill="#1f2937">`, pictureWidth, pictureHeight)
	d.printf(`<rect width="100%%" height="100%%" fill="#ffffff"/>`)
	d.printf(`<text x="16" y="26" font-size="16" font-weight="600">%s</text>`, html.EscapeString(p.Title))
	for i, s := range p.Sides {
		y := 46 + 18*float64(i)
		d.printf(`<rect x="16" y="%g" width="22" height="4" fill="%s"/>`, y-6, sideColours[i])
		d.printf(`<text x="46" y="%g"><tspan font-weight="600">%s</tspan>: %s</text>`, y, html.EscapeString(s.Name), summary(s.Result))
	}
	top := firstPlot
	d.traffic(top, p.Sides[0].Bins)
	top += plotHeight + plotGap
	d.instances(top, p.Sides)
	top += plotHeight + plotGap
	d.waits(top, p.Sides)
	d.timeAxis(top+plotHeight, p.Start)
	d.printf(`</svg>`)
	_, err := io.WriteString(w, d.b.String())
	return err
}

// summary is a run in a line.
func summary(r Result) string {
	cost := group(int64(math.Round(r.Cost()))) + " instance-seconds"
	if r.IdealSeconds > 0 {
		cost += fmt.Sprintf(" (%.2f of the ideal)", r.Cost()/r.IdealSeconds)
	}
	return fmt.Sprintf("%s; %s %% of requests waited more than 250 ms; wait p99 %s; %s starts", cost, percent(r.Over250), wait(float64(r.P99)), group(int64(r.Starts)))
}

// drawing is a picture while it is drawn.
type drawing struct {
	b           strings.Builder
	bins, width int // of the time axis; width in seconds
	seconds     int
}

func (d *drawing) printf(format string, args ...any) {
	fmt.Fprintf(&d.b, format, args...)
	d.b.WriteByte('\n')
}

// x is where a second of the trace is.
func (d *drawing) x(second float64) float64 {
	return plotLeft + (plotRight-plotLeft)*second/float64(d.seconds)
}

// frame draws a panel's title and its lines across, each at a height from 0 to 1.
func (d *drawing) frame(top float64, title string, marks map[float64]string) {
	d.printf(`<text x="%g" y="%g" font-weight="600">%s</text>`, plotLeft, top-10, title)
	for _, at := range sorted(marks) {
		y := tenth(top + plotHeight*(1-at))
		d.printf(`<path d="M%g %gH%g" stroke="#e5e7eb"/><text x="%g" y="%g" text-anchor="end" fill="#4b5563">%s</text>`, plotLeft, y, plotRight, plotLeft-8, y+4, marks[at])
	}
}

// legend explains a panel's colours, at its right.
func (d *drawing) legend(top float64, entries ...[2]string) {
	x := plotRight
	for i := len(entries) - 1; i >= 0; i-- {
		x -= 7.4 * float64(len(entries[i][1]))
		d.printf(`<text x="%g" y="%g" fill="#4b5563">%s</text><path d="M%g %gh18" %s/>`, x+10, top-10, entries[i][1], x-14, top-14, entries[i][0])
		x -= 34
	}
}

// steps is the line through the bins' values, each from 0 to 1.
func (d *drawing) steps(top float64, value func(i int) float64) string {
	var b strings.Builder
	last := math.NaN()
	for i := range d.bins {
		y := tenth(top + plotHeight*(1-min(1, value(i))))
		if y == last {
			continue
		}
		x := strconv.FormatFloat(tenth(d.x(float64(i*d.width))), 'f', -1, 64)
		if i == 0 {
			b.WriteString("M" + x + " ")
		} else {
			b.WriteString("H" + x + "V")
		}
		b.WriteString(strconv.FormatFloat(y, 'f', -1, 64))
		last = y
	}
	fmt.Fprintf(&b, "H%g", plotRight)
	return b.String()
}

// area is what lies below such a line.
func (d *drawing) area(top float64, value func(i int) float64) string {
	return d.steps(top, value) + fmt.Sprintf("V%gH%gZ", top+plotHeight, plotLeft)
}

func (d *drawing) traffic(top float64, bins []Bin) {
	most := 0.0
	for _, b := range bins {
		most = max(most, b.Peak)
	}
	most, marks := scale(most)
	d.frame(top, "traffic, requests/s", marks)
	if d.width > 1 {
		d.legend(top, [2]string{`stroke="#64748b" stroke-width="8"`, "mean"}, [2]string{`stroke="#cbd5e1" stroke-width="8"`, "busiest second"})
		d.printf(`<path d="%s" fill="#cbd5e1"/>`, d.area(top, func(i int) float64 { return bins[i].Peak / most }))
	}
	d.printf(`<path d="%s" fill="#64748b"/>`, d.area(top, func(i int) float64 { return bins[i].Rate / most }))
}

func (d *drawing) instances(top float64, sides []Side) {
	most, frozen := 0.0, false
	for _, s := range sides {
		for _, b := range s.Bins {
			most = max(most, b.Running, b.Frozen)
			frozen = frozen || b.Frozen > 0
		}
	}
	most, marks := scale(most)
	d.frame(top, "instances, mean", marks)
	entries := [][2]string{{`stroke="#4b5563" stroke-width="2"`, "ready and starting"}}
	if frozen {
		entries = append(entries, [2]string{`stroke="#4b5563" stroke-width="1.5" stroke-dasharray="3 3"`, "frozen"})
	}
	d.legend(top, entries...)
	for i, s := range sides {
		if s.FrozenSeconds > 0 {
			d.printf(`<path d="%s" fill="none" stroke="%s" stroke-width="1.2" stroke-dasharray="3 3" opacity="0.8"/>`, d.steps(top, func(i int) float64 { return s.Bins[i].Frozen / most }), sideColours[i])
		}
		thick := 1.4
		if i == 0 && len(sides) > 1 { // so that it shows below the other
			thick = 3
		}
		d.printf(`<path d="%s" fill="none" stroke="%s" stroke-width="%g"/>`, d.steps(top, func(i int) float64 { return s.Bins[i].Running / most }), sideColours[i], thick)
	}
}

// waits has a logarithmic axis: what matters lies between 10 ms and minutes.
func (d *drawing) waits(top float64, sides []Side) {
	most := 1000.0
	for _, s := range sides {
		for _, b := range s.Bins {
			for most < float64(b.P99) {
				most *= 10
			}
		}
	}
	height := func(ms float64) float64 {
		if ms <= floorMS {
			return 0
		}
		return math.Log(ms/floorMS) / math.Log(most/floorMS)
	}
	marks := map[float64]string{}
	for ms := floorMS; ms <= most; ms *= 10 {
		marks[height(ms)] = wait(ms)
	}
	d.frame(top, "wait, p99 of the requests that came in "+span(d.width), marks)
	if len(sides) > 1 {
		d.legend(top, [2]string{fmt.Sprintf(`stroke="%s" stroke-width="8" opacity="0.6"`, sideColours[0]), html.EscapeString(sides[0].Name)}, [2]string{fmt.Sprintf(`stroke="%s" stroke-width="8" opacity="0.6"`, sideColours[1]), html.EscapeString(sides[1].Name)})
	}
	for i, s := range sides {
		value := func(i int) float64 { return height(float64(s.Bins[i].P99)) }
		d.printf(`<path d="%s" fill="%s" fill-opacity="0.3" stroke="%s" stroke-width="1"/>`, d.area(top, value), sideColours[i], sideColours[i])
	}
}

// timeAxis draws the axis below the last panel.
func (d *drawing) timeAxis(bottom float64, start time.Time) {
	every := 1
	for _, s := range []int{1, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800, 432000} {
		if every = s; d.seconds/s <= 12 {
			break
		}
	}
	first, unit := 0, "time since the start, h:min"
	label := func(s int) string { return fmt.Sprintf("%d:%02d", s/3600, s/60%60) }
	if every < 60 {
		unit = "time since the start, min:s"
		label = func(s int) string { return fmt.Sprintf("%d:%02d", s/60, s%60) }
	}
	if !start.IsZero() {
		start = start.UTC()
		first = int(time.Duration(every)*time.Second-start.Sub(start.Truncate(time.Duration(every)*time.Second))) / int(time.Second) % every
		layout := "15:04"
		if every < 60 {
			layout = "15:04:05"
		}
		unit = "time, UTC, from " + start.Format("2006-01-02 15:04")
		label = func(s int) string { return start.Add(time.Duration(s) * time.Second).Format(layout) }
	}
	d.printf(`<path d="M%g %gH%g" stroke="#9ca3af"/>`, plotLeft, bottom, plotRight)
	for s := first; s <= d.seconds; s += every {
		x := tenth(d.x(float64(s)))
		d.printf(`<path d="M%g %gv5" stroke="#9ca3af"/><text x="%g" y="%g" text-anchor="middle" fill="#4b5563">%s</text>`, x, bottom, x, bottom+19, label(s))
	}
	d.printf(`<text x="%g" y="%g" text-anchor="middle" fill="#4b5563">%s</text>`, (plotLeft+plotRight)/2, bottom+38, unit)
}
