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
	turns := make(chan struct{}, eachAtOnce)
	following := map[*Node]context.CancelFunc{}
	var wg sync.WaitGroup
	defer wg.Wait()
	p.spareFiles() // of having connected; the streams need as many
	wg.Go(func() { p.spareFilesNowAndThen(ctx) })
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
			wg.Go(func() { n.watchReach(nctx, tell) })
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

// spareFiles closes connections that nobody uses sooner than idleConn where there
// are very many nodes: one to each of them is as many files as some processes may
// open.
func (p *Pool) spareFiles() {
	nodes := p.nodes()
	if len(nodes) <= manyNodes {
		return
	}
	for _, n := range nodes {
		n.client.CloseIdleConnections()
	}
}

// spareFilesNowAndThen does so until ctx ends.
func (p *Pool) spareFilesNowAndThen(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.spareFiles()
		}
	}
}
