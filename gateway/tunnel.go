package gateway

import (
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"
)

// afterHalfClose is how long one direction of a tunnel may go on once the other
// has ended.
const afterHalfClose = 2 * time.Minute

// hijack takes the client's connection from fasthttp: serve writes the answer
// itself, after the handler has returned. The connection is closed afterwards,
// and cleanup is called, even if serve never was.
func (x *exchange) hijack(serve func(client io.ReadWriter), cleanup func()) {
	x.keeps = true
	x.ctx.HijackSetNoResponse(true)
	served := &x.edge.conns.served
	served.Add(1) // the count of fasthttp's goroutine ends when it lets go
	done := func() {
		defer served.Done()
		cleanup()
	}
	x.conn.orphan = done
	x.ctx.Hijack(func(client net.Conn) {
		defer done()
		serve(client)
	})
}

// switchProtocols passes an upgrade on and joins the two connections until both
// sides have ended. The place on the instance is held for as long, unless open
// connections are not to keep it from being frozen.
func (x *exchange) switchProtocols(c *upconn) {
	if x.upgrade == nil {
		// Nobody asked.
		x.sender.stop(x)
		c.discard()
		x.refuseFor(errNoAnswer)
		return
	}
	h := &x.ctx.Response.Header
	protocol := append([]byte(nil), h.Peek(fasthttp.HeaderUpgrade)...)
	x.finishHead(h)
	h.ResetConnectionClose()
	h.Set(fasthttp.HeaderConnection, "Upgrade")
	h.SetBytesV(fasthttp.HeaderUpgrade, protocol)
	head := append([]byte(nil), h.Header()...)
	// A deadline of the conversation so far must not end the tunnel.
	_ = c.SetReadDeadline(time.Time{})
	if x.target.policy.FreezeSockets {
		x.leave()
	}
	x.hijack(func(client io.ReadWriter) {
		if _, err := client.Write(head); err == nil {
			x.join(client, c)
		}
	}, func() {
		c.discard()
		x.recycle()
	})
}

// join copies both ways. When one side ends its sending, the other is told so
// and may go on; when one breaks, both are over.
func (x *exchange) join(client io.ReadWriter, c *upconn) {
	up := make(chan struct{})
	go func() {
		defer close(up)
		if err := pipe(c, client); err != nil {
			_ = c.Close()
			return
		}
		_ = c.closeWrite()
		_ = c.SetReadDeadline(time.Now().Add(afterHalfClose))
	}()
	if err := pipe(client, tunnelReader{c}); err != nil {
		x.conn.interrupt()
	} else {
		x.conn.closeWrite()
		_ = x.conn.SetDeadline(time.Now().Add(afterHalfClose))
	}
	<-up
}

// tunnelReader reads what the instance sends, what is in the buffer first,
// without the patience of an exchange.
type tunnelReader struct{ c *upconn }

// Read implements io.Reader.
func (t tunnelReader) Read(p []byte) (int, error) {
	if n := t.c.br.Buffered(); n > 0 {
		return t.c.br.Read(p[:min(n, len(p))])
	}
	return t.c.Conn.Read(p)
}

// pipe copies until src ends.
func pipe(dst io.Writer, src io.Reader) error {
	p := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(p)
	for {
		n, err := src.Read(*p)
		if n > 0 {
			if _, werr := dst.Write((*p)[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
