package gateway

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/fluxgate/fluxgate/router"
)

const (
	readBuffer     = 16 << 10 // also the longest request header
	writeBuffer    = 4 << 10
	prefetched     = 8 << 10 // fasthttp reads that much of a body before it calls us
	maxConnections = 1 << 20
)

// exchange is one request and its answer. It is taken from a pool when the
// request's header has been read, and put back when the answer has been
// written, the stream has ended or the tunnel has closed.
type exchange struct {
	edge *Edge
	ctx  *fasthttp.RequestCtx
	conn *conn
	id   [32]byte // X-Request-Id

	// The request.
	name      [253]byte // room for the normalised hostname
	host      []byte    // as the client wrote it
	uri       []byte    // in origin form
	fields    []field
	nominated [][]byte
	upgrade   []byte // protocol of an upgrade, or nil
	length    int    // of the body; -1: chunked, -2: there is none
	hasLength bool   // Content-Length goes upstream

	// Where it goes.
	target  *target
	up      *upstream
	holding bool // a place on up is ours
	keeps   bool // the place outlives the handler
	waited  time.Duration
	again   time.Duration // after a refusal: when another try is likely to succeed
	call    *wakeCall     // the wake that it waited for
	began   time.Time

	// The conversation with the instance.
	small    []byte       // the whole body, where it is short
	sender   sender       // sends a longer one
	asked    time.Time    // when the instance got the request
	progress atomic.Int64 // Unix nanoseconds when a byte of the body last moved
	phase    phase
	body     bodyStream
}

// phase is what is being waited for from the instance.
type phase uint8

const (
	phaseHead phase = iota // the answer's header, for as long as the release's timeout
	phaseBody              // more of the answer, for as long as the client does
)

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// newServer is the HTTP side towards clients.
func (e *Edge) newServer() *fasthttp.Server {
	return &fasthttp.Server{
		Handler:                      e.handle,
		ErrorHandler:                 e.unreadable,
		ConnState:                    stateChanged,
		Logger:                       quietLogger{e.log},
		Concurrency:                  maxConnections,
		ReadBufferSize:               readBuffer,
		WriteBufferSize:              writeBuffer,
		ReadTimeout:                  headerTime,
		IdleTimeout:                  headerTime,
		MaxRequestBodySize:           1<<63 - 1, // bodies are streamed, whatever their size
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
	}
}

// handle is called for every request.
func (e *Edge) handle(ctx *fasthttp.RequestCtx) {
	x := exchanges.Get().(*exchange)
	x.edge, x.ctx, x.conn, x.began = e, ctx, clientConn(ctx.Conn()), ctx.Time()
	x.newID()
	defer x.handled()
	if e.draining.Load() {
		ctx.SetConnectionClose()
	}
	if why := x.readHead(&ctx.Request.Header); why != "" {
		x.refuse(badRequest(why))
		return
	}
	x.readTarget()
	name, ok := router.NormalizeHost(x.name[:0], x.host)
	if !ok {
		x.refuse(badRequest("The Host field is not a hostname."))
		return
	}
	if x.conn.tls == nil && e.answerPlain(x, name) {
		return
	}
	if x.target, ok = e.table.Load().Lookup(name); !ok {
		x.refuse(notFound)
		return
	}
	if err := x.target.admission.do(x, (*exchange).forward); err != nil {
		x.refuseFor(err)
	}
}

// handled ends the handler's part of an exchange.
func (x *exchange) handled() {
	if r := recover(); r != nil {
		// A bug. The process, and with it every other request, goes on; this
		// exchange does not go back to the pool.
		e, ctx, id := x.edge, x.ctx, x.id
		e.log.Error("panic while serving a request", "id", string(id[:]), "panic", r, "stack", string(debug.Stack()))
		x.leave()
		ctx.Response.Reset()
		ctx.SetConnectionClose()
		broken.write(ctx, id[:])
		return
	}
	if !x.keeps {
		x.recycle()
	}
}

// recycle puts the exchange back into the pool.
func (x *exchange) recycle() {
	x.leave()
	x.edge, x.ctx, x.conn, x.target, x.up, x.call = nil, nil, nil, nil, nil, nil
	x.host, x.uri, x.upgrade, x.length = nil, nil, nil, 0
	x.keeps, x.waited, x.again, x.phase = false, 0, 0, phaseHead
	x.sender.reset()
	x.progress.Store(0)
	clear(x.fields)
	exchanges.Put(x)
}

// newID draws the request's id. Ids need to be unique, and not guessed by
// other clients, so 128 bits of the runtime's per-thread ChaCha8 generator.
func (x *exchange) newID() {
	var b [16]byte
	for i, v := range [2]uint64{rand.Uint64(), rand.Uint64()} {
		for k := range 8 {
			b[8*i+k] = byte(v >> (8 * k))
		}
	}
	hex.Encode(x.id[:], b[:])
}

// readTarget finds the host and the path that the request is for. An absolute
// request target's host wins over the Host field (RFC 9112 section 3.2.2).
func (x *exchange) readTarget() {
	h := &x.ctx.Request.Header
	x.host, x.uri = h.Host(), h.RequestURI()
	if len(x.uri) == 0 || x.uri[0] == '/' || x.uri[0] == '*' {
		return
	}
	_, rest, ok := bytes.Cut(x.uri, []byte("://"))
	if !ok {
		return
	}
	end := bytes.IndexAny(rest, "/?#")
	switch {
	case end < 0:
		x.host, x.uri = rest, []byte("/")
	case rest[end] == '/':
		x.host, x.uri = rest[:end], rest[end:]
	default:
		x.host, x.uri = rest[:end], append([]byte("/"), rest[end:]...)
	}
}

// hungUp reports whether the client has gone.
func (x *exchange) hungUp() bool { return hasHungUp(x.raw()) }

// raw is the client's socket, or nil.
func (x *exchange) raw() syscall.RawConn {
	if x.conn == nil {
		return nil
	}
	return rawConn(x.conn.Conn)
}

// client is whom the request came from, as far as the queue distinguishes.
func (x *exchange) client() client {
	if x.conn == nil {
		return client{}
	}
	return clientOf(x.conn.RemoteAddr())
}

// bodyLeft reports whether part of the request's body may still be unread.
func (x *exchange) bodyLeft() bool {
	return (x.length == -1 || x.length > prefetched) && !x.sender.finished()
}

// quietLogger takes what fasthttp would log: trouble with single connections.
type quietLogger struct{ log *slog.Logger }

// Printf implements fasthttp.Logger.
func (l quietLogger) Printf(format string, args ...any) {
	l.log.Debug("client connection", "what", fmt.Sprintf(format, args...))
}
