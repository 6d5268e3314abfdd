package podman

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
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
	knockLate  = 2 * time.Second        // for the knocks to be begun at all
	knockAgain = 150 * time.Millisecond // between two knocks: one packet may be lost
	knocks     = 3
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

// knockers limits how many machines are knocked at at once: very many at once
// would be more files than a process may open, and all of them would be late.
// Machines that are lost do not hold up those that may be.
type knockers struct{ doubtful, lost chan struct{} }

func newKnockers(most int) knockers {
	return knockers{doubtful: make(chan struct{}, most), lost: make(chan struct{}, most)}
}

// turn is taken for a knock by sending to it, and given back by receiving.
func (k knockers) turn(n *Node) chan struct{} {
	if n.lost.Load() {
		return k.lost
	}
	return k.doubtful
}

// watchReach tells when the machine is lost and when it is back, until ctx
// ends. A local engine's machine is this one.
func (n *Node) watchReach(ctx context.Context, k knockers, fn func(router.ContainerEvent)) {
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
		last, wait, err = n.look(ctx, k.turn(n), host, last)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errLate): // that tells nothing
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
// look again. last is what the look before found. It waits for its turn to knock.
func (n *Node) look(ctx context.Context, turn chan struct{}, host string, last time.Time) (_ time.Time, again time.Duration, err error) {
	last, again = n.listen(last)
	if again > 0 {
		return last, again, nil
	}
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return last, 0, ctx.Err()
	}
	defer func() { <-turn }()
	if last, again = n.listen(last); again > 0 { // it was heard meanwhile
		return last, again, nil
	}
	began := time.Now()
	if err := knock(ctx, host); err != nil {
		return last, max(0, knockEvery-time.Since(began)), err
	}
	// What it does while nobody looks is not held against it.
	again = n.beat(knockEvery)
	return time.Now().Add(again - knockEvery), again, nil
}

// listen is when the machine answered last, as the connection to it tells, and
// after how long to look again; 0 where it has been silent for too long, or
// there is no connection.
func (n *Node) listen(last time.Time) (_ time.Time, again time.Duration) {
	w := &n.wire
	if n.tunnel != nil {
		w = &n.tunnel.wire
	}
	ago, ok := w.heard()
	if !ok {
		return last, 0
	}
	if at := time.Now().Add(-ago); at.After(last) {
		last = at
	}
	return last, max(0, aliveEvery+aliveLate-ago)
}

// errLate is the error of a round of knocks in which this process got no
// processor in time to knock often enough.
var errLate = errors.New("this process got no processor in time to see whether it answers")

// ours reports whether an error in connecting tells of this machine and nothing
// of the other: out of files, ports or memory.
func ours(err error) bool {
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

// errSilent is the error of a round of knocks that nothing answered.
var errSilent = fmt.Errorf("nothing answered within %s", knockCall)

// tries are the connections of a round of knocks. Whether one was answered, the
// kernel knows: this process may have had no processor to see it.
type tries struct {
	mu   sync.Mutex
	all  []try
	seen bool // one was answered, and is closed maybe
}

type try struct {
	at  time.Time
	raw syscall.RawConn
}

// dial knocks once.
func (t *tries) dial(ctx context.Context, host string) error {
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all = append(t.all, try{time.Now(), raw})
		return nil
	}}
	c, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = true
	_ = c.Close()
	return nil
}

// answered reports whether any try was, and how many had time enough for it.
func (t *tries) answered() (answered bool, ripe int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	answered = t.seen
	for _, try := range t.all {
		if _, open := silence(try.raw); open {
			answered = true
		}
		if time.Since(try.at) >= knockAgain {
			ripe++
		}
	}
	return answered, ripe
}

// knock opens a connection to a machine and closes it at once. It tries several
// times, not waiting for the earlier tries, before it gives up.
func knock(ctx context.Context, host string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var t tries
	began, begun := time.Now(), 0
	errs := make(chan error, knocks)
	try := func() { // ends with ctx
		begun++
		go func() { errs <- t.dial(ctx, host) }()
	}
	again, late := time.NewTicker(knockAgain), time.NewTimer(knockCall)
	defer again.Stop()
	defer late.Stop()
	try()
	for failed := 0; ; {
		select {
		case err := <-errs:
			if failed++; err == nil || failed == knocks {
				return err
			}
		case <-again.C:
			if begun < knocks {
				try()
			}
		case <-late.C:
			switch answered, ripe := t.answered(); {
			case answered:
				return nil
			case ripe >= 2: // one packet may be lost
				return errSilent
			case time.Since(began) > knockLate:
				return errLate
			}
			late.Reset(knockAgain) // for what was begun late
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
