package gateway

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/valyala/fasthttp"
)

// Reasons for a conversation with an instance to end without an answer.
var (
	errClientGone = errors.New("the client has gone")
	errFirstByte  = errors.New("the app did not answer in time")
)

const (
	maxMoves    = 2 // further instances that are tried
	bodyStep    = 5 * time.Second
	headStep    = time.Second
	maxInterims = 16 // 1xx answers before the final one
)

// attempt is how one try to get an answer from an instance ended.
type attempt struct {
	err      error
	dialed   bool // there was a connection
	reused   bool // it had been used before
	written  bool // at least one byte of the request may have reached the instance
	answered bool // the instance has said something
}

// forward sends the request to the instance that x has a place on, and passes
// the answer on. It tries again only as contract 3 allows: when not one byte
// was written, or when the method is safe (RFC 9110 section 9.2.1), there is
// no body and nothing was answered.
func (x *exchange) forward() {
	x.takeBody()
	fresh, moves, died := false, 0, false
	var refused refusal
	for {
		c, a := x.ask(fresh)
		if a.err == nil {
			x.respond(c)
			return
		}
		if errors.Is(a.err, errClientGone) || errors.Is(a.err, errFirstByte) {
			x.refuseFor(a.err)
			return
		}
		repeatable := !a.written || (x.safe() && !a.answered)
		switch {
		case !repeatable || x.sender.started:
			x.refuseFor(errNoAnswer)
			return
		case a.reused:
			// A kept connection that the instance has closed meanwhile. Another one
			// may be as old: dial.
			fresh = true
		case a.dialed && died:
			// A request that two instances died of is not given to a third.
			x.refuseFor(errNoAnswer)
			return
		case !a.dialed:
			if err := x.retreat(&refused); err != nil {
				x.refuseFor(err)
				return
			}
			fresh = false
		default:
			died = true
			if moves++; moves > maxMoves || !x.target.admission.move(x) {
				x.refuseFor(errNoAnswer)
				return
			}
			fresh = false
		}
	}
}

// safe reports whether the request may be given to the app twice.
func (x *exchange) safe() bool {
	if x.length > 0 || x.length == -1 || x.upgrade != nil {
		return false
	}
	switch string(x.ctx.Request.Header.Method()) {
	case fasthttp.MethodGet, fasthttp.MethodHead, fasthttp.MethodOptions, fasthttp.MethodTrace:
		return true
	}
	return false
}

// takeBody reads a short body whole: fasthttp has it in memory already, and it
// can then go out together with the header.
func (x *exchange) takeBody() {
	x.small = x.small[:0]
	if x.length <= 0 || x.length > prefetched {
		return
	}
	if cap(x.small) < x.length {
		x.small = make([]byte, 0, prefetched)
	}
	x.small = x.small[:x.length]
	if _, err := io.ReadFull(x.ctx.RequestBodyStream(), x.small); err != nil {
		x.small = x.small[:0] // cannot happen: it is in memory
	}
}

// ask sends the request to x.up and reads the header of the answer into the
// client's response.
func (x *exchange) ask(fresh bool) (*upconn, attempt) {
	var a attempt
	c := x.connection(fresh)
	if a.reused = c != nil; !a.reused {
		var err error
		if c, err = x.up.dial(x.edge.life); err != nil {
			a.err = err
			return nil, a
		}
	}
	a.dialed = true
	c.x, x.phase = x, phaseHead
	x.asked = time.Now()
	x.progress.Store(x.asked.UnixNano())
	c.buf = x.appendHead(c.buf[:0])
	c.buf = append(c.buf, x.small...)
	n, err := c.Write(c.buf)
	a.written = n > 0
	if err == nil && x.bodyLeft() {
		x.sender.start(x, c)
	}
	// Even when writing failed there may be an answer: the instance may have
	// refused the request and closed before it had read all of it.
	if a.written {
		var answered bool
		answered, err = x.readAnswer(c)
		if err == nil {
			return c, a
		}
		if answered && !errors.Is(err, errFirstByte) && !errors.Is(err, errClientGone) {
			err, a.answered = errHalfAnswer, true
		}
	}
	a.err = err
	if x.sender.started {
		x.sender.stop(x)
		if x.sender.clientFailed() {
			a.err = errClientGone
		}
	}
	c.discard()
	return nil, a
}

var errHalfAnswer = errors.New("the app broke off its answer")

// connection is an idle connection to x.up, or nil if one must be dialed. One
// that has something to read while nothing was asked is of no use: the instance
// has closed it, or has sent what would be taken for the next answer. To look
// costs a system call, so one that was used a moment ago is not looked at,
// unless the request cannot be repeated. Such a request also gets none that the
// instance may be about to close.
func (x *exchange) connection(fresh bool) *upconn {
	if fresh {
		return nil
	}
	maxIdle := idleConnKept
	risky := !x.safe()
	if risky {
		maxIdle = staleAfter
	}
	for {
		now := time.Now()
		c := x.up.take(maxIdle, now)
		if c == nil || (!risky && now.Sub(c.idleSince) < trustIdle) || !hasInput(c.raw) {
			return c
		}
		c.discard()
	}
}

// readAnswer reads the header of the final answer. answered tells whether the
// instance has said anything.
func (x *exchange) readAnswer(c *upconn) (answered bool, err error) {
	h := &x.ctx.Response.Header
	for range maxInterims {
		if _, err := c.br.Peek(1); err != nil {
			return answered, err
		}
		answered = true
		if err := h.Read(c.br); err != nil {
			if errors.Is(err, errFirstByte) || errors.Is(err, errClientGone) {
				return true, err
			}
			if errors.Is(err, fasthttp.ErrTimeout) || errors.Is(err, os.ErrDeadlineExceeded) {
				return true, errFirstByte
			}
			return true, err
		}
		if s := h.StatusCode(); s >= 200 || s == fasthttp.StatusSwitchingProtocols {
			return true, nil
		}
		// Interim answers (100 Continue, 103 Early Hints) are for us alone: we
		// have answered Expect ourselves.
	}
	return true, errHalfAnswer
}

// patience is how long to wait for the instance before looking around again; an
// error means no longer at all.
func (x *exchange) patience(now time.Time) (time.Duration, error) {
	if x == nil {
		return 0, context.Canceled
	}
	if x.phase == phaseBody {
		return bodyStep, nil
	}
	left := x.target.timeout - now.Sub(time.Unix(0, x.progress.Load()))
	if left <= 0 {
		return 0, errFirstByte
	}
	return min(left, headStep), nil
}
