package gateway

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	maxIdleConns   = 1024                  // idle connections kept to one instance
	idleConnKept   = 30 * time.Second      // how long they are kept
	trustIdle      = 10 * time.Millisecond // one that was used so recently is taken without looking at it
	staleAfter     = 2 * time.Second       // a request that cannot be repeated takes none that has been idle for longer
	dialTimeout    = 3 * time.Second
	writeStall     = 60 * time.Second // longest that a peer may take to accept what is written to it
	upstreamBuffer = 16 << 10         // also the longest header that an app may answer with
)

// upconn is one connection to an instance. While it carries an exchange, only
// that exchange uses it: one goroutine reads, one writes.
type upconn struct {
	net.Conn
	raw       syscall.RawConn // nil if there is none
	up        *upstream
	epoch     uint64
	br        *bufio.Reader // reads through Read below
	buf       []byte        // request head being built
	x         *exchange     // whom it serves now
	idleSince time.Time
	readBy    time.Time // read deadline that is set
	writeBy   time.Time // write deadline that is set
}

// dial opens a connection to the upstream.
func (u *upstream) dial(ctx context.Context) (*upconn, error) {
	addr, epoch := u.where()
	nc, err := u.open(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &upconn{Conn: nc, raw: rawConn(nc), up: u, epoch: epoch, buf: make([]byte, 0, 1024)}
	c.br = bufio.NewReaderSize(c, upstreamBuffer)
	u.mu.Lock()
	u.conns[c] = struct{}{}
	u.mu.Unlock()
	return c, nil
}

func (u *upstream) open(ctx context.Context, addr string) (net.Conn, error) {
	if u.connect != nil {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return u.connect(ctx, addr)
	}
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	return d.DialContext(ctx, u.network, addr)
}

// Read waits for as long as the exchange thinks the answer worth waiting for:
// it wakes up now and then to see whether the client has gone or the time for
// the first byte is over.
func (c *upconn) Read(p []byte) (int, error) {
	for {
		now := time.Now()
		step, err := c.x.patience(now)
		if err != nil {
			return 0, err
		}
		// Setting a deadline costs more than looking whether the one that is set
		// will do.
		if by := now.Add(step); c.readBy.After(by) || by.Sub(c.readBy) > step/2 {
			if err := c.SetReadDeadline(by); err != nil {
				return 0, err
			}
			c.readBy = by
		}
		n, err := c.Conn.Read(p)
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if c.x.hungUp() {
			return 0, errClientGone
		}
	}
}

// Write gives the instance writeStall to take what is written.
func (c *upconn) Write(p []byte) (int, error) {
	now := time.Now()
	if c.writeBy.Sub(now) < writeStall {
		c.writeBy = now.Add(writeStall + writeStall/2)
		if err := c.SetWriteDeadline(c.writeBy); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// discard closes the connection.
func (c *upconn) discard() {
	c.x = nil
	c.up.mu.Lock()
	delete(c.up.conns, c)
	c.up.mu.Unlock()
	_ = c.Close() // nothing is lost on it that matters
}

// closeWrite tells the instance that no more comes from the client.
func (c *upconn) closeWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return c.Close()
}
