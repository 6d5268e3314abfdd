package state

import (
	"context"
	"sync"
)

// gates let one writer of this process at a time at each app. The
// compare-and-set is what makes writes correct; the gates only keep writers of
// one process from making each other repeat their work.
type gates struct {
	mu   sync.Mutex
	open map[string]*gate
}

type gate struct {
	pass chan struct{} // holds one value while somebody is inside
	refs int           // how many are inside or wait
}

// enter waits for the app's gate; leave must be called exactly once after a
// nil error.
func (g *gates) enter(ctx context.Context, app string) (leave func(), err error) {
	g.mu.Lock()
	one := g.open[app]
	if one == nil {
		one = &gate{pass: make(chan struct{}, 1)}
		g.open[app] = one
	}
	one.refs++
	g.mu.Unlock()

	unref := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if one.refs--; one.refs == 0 {
			delete(g.open, app)
		}
	}
	select {
	case one.pass <- struct{}{}:
		return func() { <-one.pass; unref() }, nil
	case <-ctx.Done():
		unref()
		return nil, ctx.Err()
	}
}

// seen remembers the newest version of every app that this process has read or
// written. A Redis that lost its last writes (it died before they were on its
// disk, or a replica took over) hands out older ones: that is how they are
// recognised, and new versions are made higher than any that was seen, because
// a Catalog rightly ignores a record older than its own.
type seen struct {
	mu      sync.Mutex
	apps    map[string]uint64
	highest uint64
}

func (s *seen) note(app string, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[app] = max(s.apps[app], version)
	s.highest = max(s.highest, version)
}

func (s *seen) app(app string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apps[app]
}

func (s *seen) floor() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.highest
}
