package autoscale

import (
	"context"
	"time"
)

const (
	queueLook = 100 * time.Millisecond // how often a queue is looked at
	queueMost = 10 * time.Minute       // after which it is left to the ticks
)

// Kick says that requests wait at an app here. It never blocks; kicks beyond
// what can be held are dropped, for the tick sees the same queue a little later.
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

// watchQueue decides for an app ten times a second while requests wait here, and
// starts what it lacks. Taking away is left to the ticks.
func (c *Controller) watchQueue(ctx context.Context, app string) {
	ticker := time.NewTicker(queueLook)
	defer ticker.Stop()
	for range queueMost / queueLook {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		st, ok := c.Catalog.Get(app)
		if !ok || st.App.Current == 0 {
			return
		}
		_, queued := c.Gauge.Load(app)
		if queued == 0 {
			return
		}
		now := c.Now()
		if d := c.decide(st, now, queued, 0, leaving(st, c.Runtime.Node)); d.Desired > 0 {
			c.raiseTo(st, d.Desired, now)
		}
	}
}
