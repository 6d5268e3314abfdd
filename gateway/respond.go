package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/fluxgate/fluxgate/router"
)

var headerRequestID = []byte("X-Request-Id")

// hopByHop are the fields of an answer that are between the instance and us
// (RFC 9110 section 7.6.1), and Trailer: trailers are dropped, so they are not
// announced.
var hopByHop = []string{"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "upgrade", "trailer"}

// find looks for fields of an answer that are not the client's to see. Looking
// once costs less than removing what is hardly ever there.
func find(h *fasthttp.ResponseHeader) (hop, busy bool) {
	for name := range h.All() {
		switch len(name) {
		case 2, 7, 10, 16, 18:
			for _, f := range hopByHop {
				hop = hop || same(name, f)
			}
		case len(router.BusyHeader):
			busy = busy || same(name, "fluxgate-busy")
		}
	}
	return hop, busy
}

// respond passes the answer on whose header was just read from c. It owns c.
func (x *exchange) respond(c *upconn) {
	h := &x.ctx.Response.Header
	if h.StatusCode() == fasthttp.StatusSwitchingProtocols {
		x.switchProtocols(c)
		return
	}
	status, length := h.StatusCode(), h.ContentLength()
	keep := !h.ConnectionClose() // before finishHead takes it off
	keep = !x.finishHead(h) && keep
	noBody := x.ctx.IsHead() || status == fasthttp.StatusNoContent || status == fasthttp.StatusNotModified

	// The request's body may not be through yet. What is left of it is not read
	// after the answer, so the client's connection cannot be used again.
	unsent := x.bodyLeft()
	if unsent {
		x.ctx.SetConnectionClose()
		x.conn.linger.Store(true)
	}
	switch {
	case noBody:
		h.Del(fasthttp.HeaderTransferEncoding)
		if status == fasthttp.StatusNoContent {
			h.Del(fasthttp.HeaderContentLength)
		}
	case length >= 0 && length <= c.br.Buffered():
		b, _ := c.br.Peek(length) // it is there
		x.ctx.Response.SetBody(b)
		_, _ = c.br.Discard(length)
	default:
		x.stream(c, length, keep)
		return
	}
	x.sender.stop(x)
	now := time.Now()
	x.answered(now)
	c.finish(keep && !x.bodyLeft() && c.br.Buffered() == 0, now)
}

// finish puts the connection back, idle since now, or closes it.
func (c *upconn) finish(keep bool, now time.Time) {
	if !keep {
		c.discard()
		return
	}
	c.x = nil
	c.up.put(c, now)
}

// finishHead makes the instance's header ours, and reports whether the instance
// will close the connection.
func (x *exchange) finishHead(h *fasthttp.ResponseHeader) (closes bool) {
	if v := h.Peek(fasthttp.HeaderConnection); len(v) > 0 {
		x.nominated = x.nominated[:0]
		closes = namesClose(v)
		x.nominate(v)
		for _, name := range x.nominated {
			if !same(name, "content-length") && !same(name, "content-type") {
				h.DelBytes(name)
			}
		}
	}
	if !h.IsHTTP11() {
		h.SetProtocol(protocol11)
	}
	h.ResetConnectionClose()
	hop, busy := find(h)
	if hop {
		for _, name := range hopByHop {
			h.Del(name)
		}
	}
	if busy {
		x.takeBusy(h)
	}
	if x.edge.draining.Load() {
		h.SetConnectionClose()
	}
	h.SetBytesKV(headerRequestID, x.id[:])
	if x.call != nil {
		x.reportWake(h)
	}
	if x.target.sticky {
		x.stick(h)
	}
	return closes
}

var (
	protocol11  = []byte("HTTP/1.1")
	eventStream = []byte("text/event-stream")
)

// namesClose reports whether a Connection field has the token close.
func namesClose(v []byte) bool {
	for len(v) > 0 {
		var token []byte
		if i := indexComma(v); i >= 0 {
			token, v = v[:i], v[i+1:]
		} else {
			token, v = v, nil
		}
		if same(trim(token), "close") {
			return true
		}
	}
	return false
}

func indexComma(b []byte) int {
	for i, c := range b {
		if c == ',' {
			return i
		}
	}
	return -1
}

// reportWake tells where the time of a woken answer went. The phases add up to
// what the client waited.
func (x *exchange) reportWake(h *fasthttp.ResponseHeader) {
	wake, ok := x.call.waitedFor()
	upstream := time.Since(x.began) - x.waited
	queued := x.waited
	var b []byte
	if ok {
		for _, p := range wake.Phases {
			queued -= p.Took
		}
	}
	b = appendTiming(b, "queue", max(queued, 0))
	if ok {
		for _, p := range wake.Phases {
			b = appendTiming(b, p.Name, p.Took)
		}
	}
	b = appendTiming(b, "upstream", upstream)
	h.AddBytesV("Server-Timing", b)
}

func appendTiming(b []byte, name string, d time.Duration) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(b, name...)
	b = append(b, ";dur="...)
	return strconv.AppendFloat(b, float64(d)/float64(time.Millisecond), 'f', 2, 64)
}

// bodyStream is an answer's body on its way from the instance to the client.
// fasthttp reads it after the handler has returned and closes it exactly once,
// whatever happens, so the place on the instance is given back in Close.
type bodyStream struct {
	x      *exchange
	c      *upconn
	r      io.Reader
	left   int64 // -1: until the end of r
	keep   bool  // the connection can be used again after a complete body
	ended  bool  // the body is complete
	closed bool
}

// stream hands the rest of the answer to fasthttp.
func (x *exchange) stream(c *upconn, length int, keep bool) {
	x.keeps, x.phase = true, phaseBody
	b := &x.body
	*b = bodyStream{x: x, c: c, r: c.br, left: int64(length), keep: keep}
	switch length {
	case -1:
		b.r = httputil.NewChunkedReader(c.br)
	case -2:
		b.left, b.keep = -1, false
	}
	resp := &x.ctx.Response
	if x.target.policy.FreezeSockets && bytes.HasPrefix(resp.Header.ContentType(), eventStream) {
		x.leave() // like an upgraded connection
	}
	if b.left < 0 && !x.ctx.Request.Header.IsHTTP11() {
		x.streamUntilClose(b)
		return
	}
	resp.SetBodyStream(b, int(b.left))
	// The header goes out at once; the body may take its time.
	resp.ImmediateHeaderFlush = c.br.Buffered() == 0
}

// streamUntilClose serves a client that knows no chunks: the body ends where
// the connection does (RFC 9112 section 6.3).
func (x *exchange) streamUntilClose(b *bodyStream) {
	h := &x.ctx.Response.Header
	h.Del(fasthttp.HeaderTransferEncoding)
	h.SetConnectionClose()
	head := append([]byte(nil), h.Header()...)
	x.hijack(func(client io.ReadWriter) {
		if _, err := client.Write(head); err == nil {
			_, _ = b.WriteTo(client) // where it breaks off, so does the answer
		}
	}, func() { _ = b.Close() })
}

// SupportsBodyWriteTo makes fasthttp use WriteTo, for chunked bodies too.
func (b *bodyStream) SupportsBodyWriteTo() bool { return true }

// WriteTo copies the body, passing on what there is as soon as it is there.
func (b *bodyStream) WriteTo(w io.Writer) (int64, error) {
	p := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(p)
	flush, _ := w.(*bufio.Writer) // chunks are flushed by fasthttp
	var total int64
	for {
		n, err := b.Read(*p)
		if n > 0 {
			m, werr := w.Write((*p)[:n])
			total += int64(m)
			if werr == nil && flush != nil && !b.ended {
				werr = flush.Flush()
			}
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF { //nolint:errorlint // Read returns it bare
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Read implements io.Reader.
func (b *bodyStream) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	if b.left >= 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	if b.left >= 0 {
		if b.left -= int64(n); b.left == 0 {
			b.ended = true
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	if err == io.EOF {
		b.ended = true
		if b.keep {
			b.keep = skipTrailer(b.c.br)
		}
	}
	return n, err
}

// Close ends the exchange: the connection to the instance is kept if both
// bodies went through, else closed, and the place is given back.
func (b *bodyStream) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	x, c := b.x, b.c
	x.sender.stop(x)
	now := time.Now()
	if b.ended {
		x.answered(now)
	}
	c.finish(b.ended && b.keep && !x.bodyLeft() && c.br.Buffered() == 0, now)
	x.recycle()
	return nil
}

// skipTrailer reads what follows the last chunk, and reports whether it is
// well-formed and not too long. All of it is dropped (RFC 9110 section 6.5.1).
func skipTrailer(br *bufio.Reader) bool {
	for range 64 {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return false
		}
		if len(line) == 1 || (len(line) == 2 && line[0] == '\r') {
			return true
		}
	}
	return false
}
