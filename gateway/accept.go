package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"time"
)

// accept serves the connections of one listener until that is closed.
func (e *Edge) accept(ln net.Listener, secure bool) {
	pause := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		if err != nil {
			if e.draining.Load() || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: it passes.
			e.log.Warn("cannot accept connections", "listener", ln.Addr().String(), "error", err)
			select {
			case <-time.After(pause):
			case <-e.life.Done():
				return
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		c := &conn{Conn: nc, conns: &e.conns}
		c.rest()
		c.head = appendForwarded(nil, nc.RemoteAddr(), secure)
		if !e.conns.add(c) {
			_ = nc.Close()
			return
		}
		go e.serveConn(c, secure)
	}
}

// serveConn owns its goroutine; the connections it is counted among wait for it.
func (e *Edge) serveConn(c *conn, secure bool) {
	defer e.conns.served.Done()
	var nc net.Conn = c
	if secure {
		c.tls = tls.Server(c, e.tls.config)
		nc = tlsConn{c.tls, c}
		if !e.handshake(c) {
			_ = c.Close()
			return
		}
	}
	if err := e.server.ServeConn(nc); err != nil {
		e.log.Debug("client connection ended", "client", c.RemoteAddr().String(), "error", err)
	}
}

func (e *Edge) handshake(c *conn) bool {
	ctx, cancel := context.WithTimeout(e.life, handshakeTime)
	defer cancel()
	_ = c.SetReadDeadline(time.Now().Add(handshakeStep))
	if err := c.tls.HandshakeContext(ctx); err != nil {
		e.log.Debug("TLS handshake failed", "client", c.RemoteAddr().String(), "error", err)
		return false
	}
	c.rest()
	// An ACME server's TLS-ALPN-01 validation wants the certificate and no more.
	return c.tls.ConnectionState().NegotiatedProtocol != acmeProtocol
}

// closeListener closes a listener at a moment when no connection waits to be
// accepted: those would be reset, and with them the requests that they bring.
func closeListener(ln net.Listener) {
	raw := rawConn(ln)
	for range 100 {
		if !hasInput(raw) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	_ = ln.Close() // nobody is left to tell
}

// rawConn is the file descriptor of a socket, or nil.
func rawConn(socket any) syscall.RawConn {
	sc, ok := socket.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
