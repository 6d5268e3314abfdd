package gateway

import (
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// copyBuffers are what streams are copied with.
var copyBuffers = sync.Pool{New: func() any {
	b := make([]byte, 32<<10)
	return &b
}}

// sender sends a request's body while the answer is already being waited for,
// and perhaps streamed: an app may answer before it has read everything.
type sender struct {
	started bool
	to      *upconn
	done    chan struct{}
	halt    atomic.Bool // stop is under way
	all     atomic.Bool // the whole body was read and sent
	client  atomic.Bool // the client failed, not the instance
}

func (s *sender) reset() {
	s.started, s.to, s.done = false, nil, nil
	s.halt.Store(false)
	s.all.Store(false)
	s.client.Store(false)
}

func (s *sender) finished() bool     { return s.started && s.all.Load() }
func (s *sender) clientFailed() bool { return s.client.Load() }

// start begins to send. Until stop has returned, the goroutine is the only one
// that may use the client's body stream.
func (s *sender) start(x *exchange, c *upconn) {
	s.started, s.to, s.done = true, c, make(chan struct{})
	body, chunked := x.ctx.RequestBodyStream(), x.length == -1
	go func() {
		defer close(s.done)
		if s.send(x, c, body, chunked) {
			s.all.Store(true)
			return
		}
		if s.client.Load() {
			// The instance waits for what will not come.
			_ = c.Close()
		}
	}()
}

// stop ends the sending and waits for that. If the body is not through, neither
// connection can be used again: the client's is not read any further, the
// instance's is closed.
func (s *sender) stop(x *exchange) {
	if !s.started {
		return
	}
	select {
	case <-s.done:
		return
	default:
	}
	s.halt.Store(true)
	x.conn.interrupt()
	_ = s.to.Close()
	<-s.done
}

func (s *sender) send(x *exchange, c *upconn, body io.Reader, chunked bool) bool {
	p := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(p)
	const room = 18 // of a chunk's length in hexadecimal and its line end
	buf := *p
	left := x.length
	for {
		_ = x.conn.SetReadDeadline(time.Now().Add(headerTime)) // that long without a byte
		if s.halt.Load() {
			return false
		}
		n, err := body.Read(buf[room : len(buf)-2])
		if n > 0 {
			x.progress.Store(time.Now().UnixNano())
			out := buf[room : room+n]
			if chunked {
				out = frame(buf, room, n)
			}
			if _, werr := c.Write(out); werr != nil {
				// The instance does not want more. It may have answered.
				return false
			}
			x.progress.Store(time.Now().UnixNano())
			left -= n
		}
		switch {
		case err == io.EOF && (chunked || left == 0):
			if chunked {
				_, werr := c.Write([]byte("0\r\n\r\n"))
				return werr == nil
			}
			return true
		case err != nil:
			s.client.Store(!s.halt.Load())
			return false
		case !chunked && left == 0:
			return true
		}
	}
}

// frame makes a chunk of the n bytes at buf[at:]: its length before, its end
// behind them.
func frame(buf []byte, at, n int) []byte {
	var size [16]byte
	hex := strconv.AppendInt(size[:0], int64(n), 16)
	start := at - len(hex) - 2
	copy(buf[start:], hex)
	copy(buf[start+len(hex):], "\r\n")
	copy(buf[at+n:], "\r\n")
	return buf[start : at+n+2]
}
