package gateway

import (
	"context"
	"sync"
	"time"
)

// connections are all open client connections.
type connections struct {
	mu     sync.Mutex
	open   map[*conn]struct{}
	ended  bool
	served sync.WaitGroup
}

func (s *connections) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	if s.open == nil {
		s.open = map[*conn]struct{}{}
	}
	s.open[c] = struct{}{}
	s.served.Add(1)
	return true
}

func (s *connections) remove(c *conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
}

// drain returns when no connection is left. Idle ones are closed, but not while
// a request may be on its way: one that was active a moment ago is likely to
// bring the next, which is answered, with "Connection: close".
func (s *connections) drain(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.closeQuiet(time.Now()) == 0 {
			s.mu.Lock()
			s.ended = true
			s.mu.Unlock()
			s.served.Wait()
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// closeQuiet closes the idle connections and returns how many are left.
func (s *connections) closeQuiet(now time.Time) int {
	limit := now.Add(-quietTime).UnixNano()
	s.mu.Lock()
	var quiet []*conn
	for c := range s.open {
		if !c.active.Load() && c.quiet.Load() < limit && !hasInput(rawConn(c.Conn)) {
			quiet = append(quiet, c)
		}
	}
	left := len(s.open) - len(quiet)
	s.mu.Unlock()
	for _, c := range quiet {
		_ = c.Close()
	}
	return left
}

// cut closes all connections, whatever they do, and waits for their goroutines.
func (s *connections) cut() {
	s.mu.Lock()
	s.ended = true
	all := make([]*conn, 0, len(s.open))
	for c := range s.open {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.linger.Store(false)
		_ = c.Close()
	}
	s.served.Wait()
}
