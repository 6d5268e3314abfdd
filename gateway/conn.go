package gateway

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	headerTime  = 60 * time.Second // for a request's header to arrive, and for the next to come
	deadlineLag = 5 * time.Second  // by how much a deadline may be earlier than asked
	lingerTime  = 2 * time.Second  // for a client to read the answer to a body that nobody wanted
	lingerBytes = 1 << 20
	quietTime   = 300 * time.Millisecond // idle for longer: no request is on its way, most likely
)

// conn is a client's TCP connection. TLS, where there is any, is above it.
type conn struct {
	net.Conn
	conns *connections
	tls   *tls.Conn // nil for plain HTTP
	head  []byte    // the X-Forwarded-* header lines that are the same for all requests

	readBy  time.Time // deadlines that are set
	writeBy time.Time

	active  atomic.Bool  // some of a request has come, and its answer is not out yet
	quiet   atomic.Int64 // Unix nanoseconds when active ended
	linger  atomic.Bool  // there may be more of a request that nobody reads
	orphan  func()       // cleans up after a hijacking that did not come about
	closing sync.Once
}

// tlsConn is what fasthttp serves on an HTTPS listener: it finds Handshake and
// ConnectionState in it, and we find our conn.
type tlsConn struct {
	*tls.Conn
	conn *conn
}

// Close ends the TCP connection as conn.Close does, after the TLS goodbye.
func (c tlsConn) Close() error {
	if !c.conn.linger.Load() {
		_ = c.Conn.CloseWrite() // fails where the handshake did
	}
	return c.conn.Close()
}

// clientConn finds our conn in what fasthttp serves.
func clientConn(nc net.Conn) *conn {
	switch c := nc.(type) {
	case *conn:
		return c
	case tlsConn:
		return c.conn
	}
	return nil
}

// SetReadDeadline sets the deadline unless the one that is set will do: it is
// called twice for each request, and setting one costs more than comparing.
func (c *conn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && !c.readBy.IsZero() && !c.readBy.After(t) && t.Sub(c.readBy) < deadlineLag {
		return nil
	}
	c.readBy = t
	return c.Conn.SetReadDeadline(t)
}

// Read notes that a request is coming.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.active.Load() {
		c.active.Store(true)
	}
	return n, err
}

// rest notes that no request is there.
func (c *conn) rest() {
	c.quiet.Store(time.Now().UnixNano())
	c.active.Store(false)
}

// Write gives the client writeStall to take what is written.
func (c *conn) Write(p []byte) (int, error) {
	now := time.Now()
	if c.writeBy.Sub(now) < writeStall {
		c.writeBy = now.Add(writeStall + writeStall/2)
		if err := c.Conn.SetWriteDeadline(c.writeBy); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// SetWriteDeadline does nothing: Write has its own.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is what fasthttp calls to take all deadlines off a hijacked
// connection. One that is closed already is found out by who uses it next.
func (c *conn) SetDeadline(t time.Time) error {
	c.readBy = t
	_ = c.Conn.SetReadDeadline(t)
	return nil
}

// interrupt makes a Read that is under way fail, and every later one.
func (c *conn) interrupt() { _ = c.Conn.SetReadDeadline(time.Unix(1, 0)) }

// closeWrite tells the client that no more comes.
func (c *conn) closeWrite() {
	if c.tls != nil {
		_ = c.tls.CloseWrite()
	}
	if tc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = tc.CloseWrite()
	}
}

// Close closes the connection. If the client may still be sending, it first
// gets the time to read the answer: closing with unread bytes in the receive
// buffer sends a reset, and a reset makes the client forget an answer that it
// has not read yet.
func (c *conn) Close() error {
	var err error
	c.closing.Do(func() {
		if c.linger.Load() {
			c.lingerOn()
		}
		c.conns.remove(c)
		err = c.Conn.Close()
	})
	return err
}

func (c *conn) lingerOn() {
	c.closeWrite()
	if c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for left := lingerBytes; left > 0; {
		n, err := c.Conn.Read(*buf)
		if err != nil {
			return
		}
		left -= n
	}
}

// stateChanged is fasthttp's hook.
func stateChanged(nc net.Conn, state fasthttp.ConnState) {
	c := clientConn(nc)
	if c == nil {
		return
	}
	switch state {
	case fasthttp.StateIdle:
		c.rest()
	case fasthttp.StateHijacked:
		c.orphan = nil
	case fasthttp.StateClosed:
		if c.orphan != nil {
			c.orphan()
		}
	}
}
