package cli

import (
	"context"
	"sync/atomic"
	"time"
)

// patience is a deadline for work that may take long, as long as it gets on.
type patience struct {
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelFunc
	over   atomic.Bool
}

// withPatience is a context that ends when the work has not got on for limit, or
// when end is called, which must be.
func withPatience(ctx context.Context, limit time.Duration) (context.Context, *patience) {
	ctx, cancel := context.WithCancel(ctx)
	return ctx, &patience{limit: limit, timer: time.AfterFunc(limit, cancel), cancel: cancel}
}

// gotOn tells that the work gets on; false where it has ended. It may be called
// concurrently.
func (p *patience) gotOn() bool {
	if p.over.Load() {
		return false
	}
	p.timer.Reset(p.limit)
	return true
}

// end ends the context.
func (p *patience) end() {
	p.over.Store(true)
	p.timer.Stop()
	p.cancel()
}
