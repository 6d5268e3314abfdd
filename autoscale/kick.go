package autoscale

import (
	"context"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// How a queue is looked at before more instances are started for it.
const (
	queueLooks   = 5
	queueLook    = 60 * time.Millisecond
	queueLonger  = 20                     // looks after which a queue is left to the ticks
	assumedStart = 500 * time.Millisecond // until a new instance is ready
)

// Kick says that a queue formed at an app although an instance is ready. It
// never blocks; kicks beyond what can be held are dropped, for the tick sees
// the same queue a little later.
func (c *Controller) Kick(app string) {
	select {
	case c.kicks <- app:
	default:
	}
}

func (c *Controller) answerKicks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case app := <-c.kicks:
			if c.Gauge != nil {
				c.goFor("queue "+app, func(ctx context.Context) { c.watchQueue(ctx, app) })
			}
		}
	}
}

// watchQueue looks at a queue a few times, to see whether it empties by itself
// sooner than a new instance would help, and starts instances if it does not.
func (c *Controller) watchQueue(ctx context.Context, app string) {
	var readings []QueueReading
	ticker := time.NewTicker(queueLook)
	defer ticker.Stop()
	started := c.Now()
	for len(readings) < queueLooks+queueLonger {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		inFlight, queued := c.Gauge.Load(app)
		if queued == 0 {
			return
		}
		readings = append(readings, QueueReading{At: c.Now().Sub(started), InFlight: inFlight, Queued: queued})
		if len(readings) < queueLooks {
			continue
		}
		st, ok := c.Catalog.Get(app)
		if !ok {
			return
		}
		d := DecideQueue(st.App.Policy, readings[len(readings)-queueLooks:], assumedStart)
		if have := st.Count(st.App.Current, router.Ready, router.Starting); d.Desired > have {
			c.noteDecision(app, d, have)
			c.raiseTo(st, d.Desired, c.Now())
			return
		}
	}
}
