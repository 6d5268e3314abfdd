package podman

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

var errLost = errors.New("the machine is lost: it cannot be reached")

// Events is Node.Events of all nodes, those among them that come later; and it
// tells when a node is lost. fn is called by one goroutine at a time.
func (p *Pool) Events(ctx context.Context, fn func(router.ContainerEvent)) {
	var mu sync.Mutex
	tell := func(e router.ContainerEvent) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() == nil {
			fn(e)
		}
	}
	// Ten thousand streams that are opened at once are all opened too late.
	turns, knockers := make(chan struct{}, eachAtOnce), newKnockers(eachAtOnce/2)
	following := map[*Node]context.CancelFunc{}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { p.spareFiles(ctx) })
	for ctx.Err() == nil {
		now := p.members.Load()
		for n, stop := range following {
			if now.byName[n.name] != n {
				stop()
				delete(following, n)
			}
		}
		for _, n := range now.nodes {
			if following[n] != nil {
				continue
			}
			nctx, stop := context.WithCancel(ctx)
			following[n] = stop
			wg.Go(func() { n.watchReach(nctx, knockers, tell) })
			wg.Go(func() { p.watchImages(nctx, n) })
			wg.Go(func() { n.watchDisk(nctx) })
			wg.Go(func() {
				n.follow(nctx, turns, func(e router.ContainerEvent) {
					switch e.Kind {
					case router.NodeConnected:
						n.broken.Store(false)
					case router.NodeUnanswered:
						n.broken.Store(true)
					}
					tell(e)
				})
			})
		}
		select {
		case <-now.changed:
		case <-ctx.Done():
		}
	}
	for _, stop := range following {
		stop()
	}
}

// spareFiles closes the nodes' connections that nobody uses, again and again
// until ctx ends.
func (p *Pool) spareFiles(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		for _, n := range p.nodes() {
			n.spareFile()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
