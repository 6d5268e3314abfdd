package podman

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fluxgate/fluxgate/router"
)

// When a machine counts as lost. It is asked by its kernel, and no program: an
// engine that hangs is no lost machine, and what runs there goes on. Two kernels
// ask each other by keepalive on a connection that is there anyway, which costs
// this process next to nothing however many nodes there are; only where that is
// silent, or there is no such connection, is the machine knocked at.
const (
	aliveEvery = time.Second            // between two keepalives on a quiet connection
	aliveLate  = 150 * time.Millisecond // for the answer to one, before the machine is knocked at
	aliveMost  = 5                      // keepalives without an answer that end the connection

	knockCall  = 500 * time.Millisecond // for an answer to any of the knocks
	knockAgain = 150 * time.Millisecond // between two knocks: one packet may be lost
	knocks     = 3
	knockLate  = 250 * time.Millisecond // beyond knockCall: this process gets no turn, and missed an answer maybe
	knockEvery = 300 * time.Millisecond // between two rounds, where there is no connection to look at; of very many nodes longer while they answer
	reachLost  = 900 * time.Millisecond // nothing has answered for that long when a round begins that fails
)

// wire is a TCP connection to a node's machine that its kernel keeps alive. The
// zero wire has none.
type wire struct {
	raw atomic.Pointer[syscall.RawConn]
}

// hold makes c the connection to look at, and has it kept alive. What is not
// TCP is not held.
func (w *wire) hold(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: aliveEvery, Interval: aliveEvery, Count: aliveMost}) != nil {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		w.raw.Store(&raw)
	}
}

// drop ends looking at the connection that is held.
func (w *wire) drop() { w.raw.Store(nil) }

// heard is how long ago the other kernel answered last. It reports false where
// there is no connection that could tell.
func (w *wire) heard() (time.Duration, bool) {
	raw := w.raw.Load()
	if raw == nil {
		return 0, false
	}
	return silence(*raw)
}

// silence is how long ago the other end's kernel acknowledged something last. It
// reports false for a connection that is closed, or broken.
func silence(raw syscall.RawConn) (time.Duration, bool) {
	var info *unix.TCPInfo
	err := raw.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil || info == nil || info.State != unix.BPF_TCP_ESTABLISHED {
		return 0, false
	}
	return time.Duration(info.Last_ack_recv) * time.Millisecond, true
}

// watchReach tells when the machine is lost and when it is back, until ctx
// ends. A local engine's machine is this one.
func (n *Node) watchReach(ctx context.Context, fn func(router.ContainerEvent)) {
	u, err := url.Parse(n.url)
	if err != nil || u.Scheme == "unix" {
		return
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "22")
	}
	wait := n.stagger()
	last := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		last, wait, err = n.look(ctx, host, last)
		switch {
		case ctx.Err() != nil:
			return
		case ours(err):
			last = began
		case err == nil:
			if n.setLost(false) {
				n.log.Warn("the node is back")
				// What was taken over by others meanwhile may run there still.
				fn(router.ContainerEvent{Node: n.name, Kind: router.NodeConnected, At: began})
			}
		case began.Sub(last) >= reachLost && n.setLost(true):
			n.log.Error("the node is lost: it cannot be reached any more", "error", err)
			fn(router.ContainerEvent{Node: n.name, Kind: router.NodeLost, At: time.Now()})
		}
		timer.Reset(wait)
	}
}

// look finds out whether the machine answers, when it did so last, and when to
// look again. last is what the look before found.
func (n *Node) look(ctx context.Context, host string, last time.Time) (_ time.Time, again time.Duration, err error) {
	began := time.Now()
	w := &n.wire
	if n.tunnel != nil {
		w = &n.tunnel.wire
	}
	if ago, ok := w.heard(); ok {
		if at := began.Add(-ago); at.After(last) {
			last = at
		}
		if left := aliveEvery + aliveLate - ago; left > 0 {
			return last, left, nil
		}
	}
	if err := knock(ctx, host); err != nil {
		return last, max(0, knockEvery-time.Since(began)), err
	}
	// What it does while nobody looks is not held against it.
	again = n.beat(knockEvery)
	return time.Now().Add(again - knockEvery), again, nil
}

// errLate is the error of a round of knocks that ended so much later than it
// should have that its failure tells nothing: whoever waits for a processor that
// long may have missed the answer.
var errLate = errors.New("this process got no processor in time to see an answer")

// inTime is the error of a round of knocks that took so long, as far as it tells
// of the machine.
func inTime(err error, took time.Duration) error {
	if err != nil && took > knockCall+knockLate {
		return fmt.Errorf("%w: %w", errLate, err)
	}
	return err
}

// ours reports whether an error in connecting tells of this machine and nothing
// of the other: out of files, ports, memory or processor.
func ours(err error) bool {
	if errors.Is(err, errLate) {
		return true
	}
	var no syscall.Errno
	if !errors.As(err, &no) {
		return false
	}
	switch no {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN:
		return true
	}
	return false
}

// knock opens a connection to a machine and closes it at once. It tries several
// times, not waiting for the earlier tries, before it gives up.
func knock(ctx context.Context, host string) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, knockCall)
	defer cancel()
	answers := make(chan error, knocks)
	try := func() {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", host)
		if err == nil {
			err = c.Close()
		}
		answers <- err
	}
	ticker := time.NewTicker(knockAgain)
	defer ticker.Stop()
	go try() // ends with ctx; so do the others
	begun, answered := 1, 0
	for {
		select {
		case err := <-answers:
			if answered++; err == nil || answered == knocks {
				return inTime(err, time.Since(began))
			}
		case <-ticker.C:
			if begun < knocks {
				begun++
				go try()
			}
		}
	}
}
