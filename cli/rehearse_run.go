package cli

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/fluxgate/fluxgate/autoscale/rehearse"
)

// runSides runs all sides at once. The command's end ends it.
func runSides(c *cli.Context, trace rehearse.Trace, sides []*side) error {
	show := newMeter(c, "rehearsing", int64(len(trace)*len(sides)))
	var all sync.WaitGroup
	for _, s := range sides {
		s.timing.Stop = c.Done()
		s.timing.Probe = func(step rehearse.Step) {
			if step.MS%1000 == 0 {
				show.add(1)
			}
		}
		all.Go(func() { s.result = rehearse.Record(trace, s.app, s.driver, s.timing) })
	}
	all.Wait()
	show.end()
	return c.Err()
}

// meter shows on a terminal how far a calculation is, if it takes long.
type meter struct {
	bars  *mpb.Progress // nil where nobody looks
	bar   *mpb.Bar
	total int64
	done  atomic.Int64
}

func newMeter(c *cli.Context, what string, total int64) *meter {
	m := &meter{total: total}
	if c.Bool("json") || !isTerminal(c.App.ErrWriter) {
		return m
	}
	m.bars = mpb.New(mpb.WithOutput(c.App.ErrWriter), mpb.WithWidth(30), mpb.WithRefreshRate(100*time.Millisecond))
	m.bar = m.bars.AddBar(total, mpb.PrependDecorators(decor.Name(what+" ")), mpb.AppendDecorators(decor.Percentage(), decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	return m
}

// add counts n of the total as done. It may be called from several goroutines.
func (m *meter) add(n int64) {
	const parts = 200 // more cannot be told apart
	done := m.done.Add(n)
	if m.bar != nil && done*parts/m.total != (done-n)*parts/m.total {
		m.bar.SetCurrent(min(done, m.total-1)) // it completes by end
	}
}

// end takes the bar away.
func (m *meter) end() {
	if m.bars == nil {
		return
	}
	m.bar.Abort(true)
	m.bars.Wait()
}
