package autoscale

import (
	"context"
	"sync"
)

// rounds has something done one time after the other, and once more where it
// was asked for meanwhile: many who ask at once are served by two rounds.
type rounds struct {
	mu      sync.Mutex
	running bool
	asked   bool // since the last round began
}

// ask has fn called soon, in a goroutine of the Controller's.
func (r *rounds) ask(c *Controller, fn func(context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = true
	if r.running || c.ctx.Err() != nil {
		return
	}
	r.running = true
	c.group.Go(func() {
		for r.next(c.ctx) {
			fn(c.ctx)
		}
	})
}

// next reports whether there is a round to go.
func (r *rounds) next(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = r.asked && ctx.Err() == nil
	r.asked = false
	return r.running
}

// pending are names of which something is to be done.
type pending struct {
	mu    sync.Mutex
	names map[string]bool
}

func (p *pending) add(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.names == nil {
		p.names = map[string]bool{}
	}
	p.names[name] = true
}

// take is all of them; none are left.
func (p *pending) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]string, 0, len(p.names))
	for name := range p.names {
		list = append(list, name)
	}
	p.names = nil
	return list
}
