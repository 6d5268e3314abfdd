package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/fluxgate/fluxgate/gateway/api"
)

// progress shows how a deploy goes: bars and spinners on a terminal, plain
// lines elsewhere, nothing with --json. It writes to standard error. Its
// methods are called from one goroutine, but sent may come from another.
type progress struct {
	lines io.Writer     // of plain lines; on a terminal, above the bars
	bars  *mpb.Progress // nil where there is no terminal
	bar   *mpb.Bar      // of the running step
	total int64         // of bar
}

func newProgress(c *cli.Context) *progress {
	switch {
	case c.Bool("json"):
		return &progress{lines: io.Discard}
	case !isTerminal(c.App.ErrWriter):
		return &progress{lines: c.App.ErrWriter}
	}
	bars := mpb.New(mpb.WithOutput(c.App.ErrWriter), mpb.WithWidth(30), mpb.WithRefreshRate(100*time.Millisecond))
	return &progress{lines: bars, bars: bars}
}

// step begins a step of the given size; 0 means unknown.
func (p *progress) step(name, text string, size int64) {
	if p.bars == nil {
		fmt.Fprintf(p.lines, "%-7s %s\n", name, clean(text))
		return
	}
	p.finish(true)
	label := decor.Name(fmt.Sprintf("%-7s ", name))
	what := decor.OnAbort(decor.OnComplete(decor.Name(" "+clean(text)), " "+clean(text)), " "+clean(text)+" (failed)")
	took := decor.OnAbort(decor.OnComplete(decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace), ""), "")
	if size > 0 {
		p.total = size
		p.bar = p.bars.AddBar(size, mpb.PrependDecorators(label), mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), what, took))
		return
	}
	p.total = 1
	p.bar = p.bars.New(1, mpb.SpinnerStyle().PositionLeft(), mpb.BarWidth(2), mpb.BarFillerOnComplete("✓"), mpb.PrependDecorators(label), mpb.AppendDecorators(what, took))
}

// upload begins the upload of so many bytes.
func (p *progress) upload(size int64) {
	text := "sending " + amount(size)
	if p.bars != nil { // the bar counts
		text = "sending the folder"
	}
	p.step("upload", text, size)
}

// sent counts bytes of the upload.
func (p *progress) sent(n int) {
	if p.bars != nil && p.bar != nil {
		p.bar.IncrBy(n)
	}
}

// event shows what the server tells.
func (p *progress) event(e api.DeployEvent) {
	switch e.Event {
	case api.EventStep:
		p.step(e.Step, e.Text, 0)
	case api.EventLog:
		fmt.Fprintf(p.lines, "        %s\n", clean(e.Text))
	}
}

func (p *progress) finish(good bool) {
	if p.bar == nil {
		return
	}
	if good {
		p.bar.SetCurrent(p.total)
		p.bar.SetTotal(p.total, true)
	} else {
		p.bar.Abort(false)
	}
	p.bar = nil
}

// end ends the last step; nothing is written after it.
func (p *progress) end(good bool) {
	if p.bars != nil {
		p.finish(good)
		p.bars.Wait()
	}
}
