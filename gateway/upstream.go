package gateway

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// closedBit marks an upstream that takes no more requests. It is above every
// count, so the one comparison that refuses a full upstream refuses a closed
// one too.
const closedBit = int64(1) << 62

// unlimited is the concurrency cap of an upstream that has none.
const unlimited = int64(math.MaxInt32)

// upstream is one instance as this gateway sees it: how many requests are in
// it and its connections. It lives across Table swaps, for as long as the
// instance does. All methods may be called concurrently.
type upstream struct {
	instance string // empty for the control API
	token    string // stands for it in the cookie of sticky apps
	network  string // tcp or unix
	connect  Dialer // optional: opens connections instead of the network
	state    atomic.Int64
	busy     atomic.Int64    // Unix nanoseconds before which it asked not to be stopped
	onIdle   func(*upstream) // called when a closed upstream has no request left

	mu    sync.Mutex // guards what follows; held for a few instructions
	addr  string
	conns map[*upconn]struct{} // all that are open
	idle  []*upconn            // of these, the ones that nobody uses; the most recently used last
	epoch uint64               // rises with every reopening; older connections are not taken back
}

func newUpstream(instance, network, addr string, onIdle func(*upstream)) *upstream {
	return &upstream{instance: instance, token: stickyToken(instance), network: network, addr: addr, onIdle: onIdle, conns: map[*upconn]struct{}{}}
}

// acquire takes a place for one request. It reports false when limit requests
// are in, or when the upstream is closed. Compare-and-swap rather than add and
// take back: an add that is taken back would make others fail meanwhile, and
// one of those could be the last to look at a free place.
func (u *upstream) acquire(limit int64) bool {
	for {
		n := u.state.Load()
		if n >= limit {
			return false
		}
		if u.state.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives the place back.
func (u *upstream) release() {
	if u.state.Add(-1) == closedBit {
		u.onIdle(u)
	}
}

// close lets no further request in. Those that are in finish.
func (u *upstream) close() {
	if u.state.Or(closedBit) == 0 {
		u.onIdle(u)
	}
}

// reopen lets requests in again, at an address that may be another one now.
func (u *upstream) reopen(addr string) {
	u.mu.Lock()
	var stale []*upconn
	if u.addr != addr {
		u.addr = addr
		u.epoch++
		stale, u.idle = u.idle, nil
	}
	u.mu.Unlock()
	closeAll(stale)
	u.state.And(^closedBit)
}

// load is how many requests are in.
func (u *upstream) load() int64 { return u.state.Load() &^ closedBit }

// drained reports whether the upstream is closed and empty.
func (u *upstream) drained() bool { return u.state.Load() == closedBit }

// take is the most recently used idle connection, or nil. One that has been
// idle for longer than maxIdle is left to the sweeper.
func (u *upstream) take(maxIdle time.Duration, now time.Time) *upconn {
	u.mu.Lock()
	n := len(u.idle) - 1
	if n < 0 || now.Sub(u.idle[n].idleSince) > maxIdle {
		u.mu.Unlock()
		return nil
	}
	c := u.idle[n]
	u.idle[n] = nil
	u.idle = u.idle[:n]
	u.mu.Unlock()
	return c
}

// put keeps a connection for the next request, unless the upstream is closed
// or has moved.
func (u *upstream) put(c *upconn, now time.Time) {
	c.idleSince = now
	u.mu.Lock()
	if c.epoch != u.epoch || u.drained() || len(u.idle) >= maxIdleConns {
		u.mu.Unlock()
		c.discard()
		return
	}
	u.idle = append(u.idle, c)
	u.mu.Unlock()
}

// sweep closes the connections that have been idle since before limit.
func (u *upstream) sweep(limit time.Time) {
	u.mu.Lock()
	n := 0
	for n < len(u.idle) && u.idle[n].idleSince.Before(limit) {
		n++
	}
	var old []*upconn
	if n > 0 {
		old = append(old, u.idle[:n]...)
		u.idle = append(u.idle[:0:0], u.idle[n:]...)
	}
	u.mu.Unlock()
	closeAll(old)
}

// dropIdle closes all idle connections.
func (u *upstream) dropIdle() {
	u.mu.Lock()
	all := u.idle
	u.idle = nil
	u.mu.Unlock()
	closeAll(all)
}

// where is the address to dial, and the epoch that it belongs to.
func (u *upstream) where() (addr string, epoch uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.addr, u.epoch
}

// connected reports whether any connection is open, be it one that holds no
// place.
func (u *upstream) connected() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.conns) > 0
}

// cut closes all connections, whatever goes on in them.
func (u *upstream) cut() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.conns {
		_ = c.Conn.Close() // whoever uses it sees it end and discards it
	}
}

func closeAll(conns []*upconn) {
	for _, c := range conns {
		c.discard()
	}
}
