package autoscale

import (
	"context"
	"time"
)

// Recorder keeps what the gateways counted for longer than deciding needs it.
type Recorder interface {
	// RecordTraffic records what is due at now, of the apps that are known. It
	// is safe to repeat and against two at once.
	RecordTraffic(ctx context.Context, now time.Time, known func(app string) bool) error
}

const (
	recordEvery    = 5 * time.Second // a minute is due once in twelve
	recordDeadline = 20 * time.Second
)

// recordTraffic records, beside the ticks and as long as this process leads,
// until ctx ends.
func (c *Controller) recordTraffic(ctx context.Context) {
	ticker := time.NewTicker(recordEvery)
	defer ticker.Stop()
	known := func(app string) bool {
		_, ok := c.Catalog.Get(app)
		return ok
	}
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !c.leads.Load() {
			continue
		}
		rctx, cancel := context.WithTimeout(ctx, recordDeadline)
		err := c.Recorder.RecordTraffic(rctx, c.Now(), known)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			c.Log.Warn("traffic is not recorded, will be tried again", "err", err)
		case err == nil && failing:
			c.Log.Info("traffic is recorded again")
		}
		failing = err != nil
	}
}
