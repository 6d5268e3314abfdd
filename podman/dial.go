package podman

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// When a machine counts as lost: when nothing has answered for that long.
const (
	reachEvery = 300 * time.Millisecond
	reachCall  = 500 * time.Millisecond
	reachLost  = 1200 * time.Millisecond
)

// Dial connects to an address where one of the node's containers answers, as
// Start returned it. The connection honours deadlines.
func (n *Node) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if !n.tunnelled || n.tunnel == nil {
		d := net.Dialer{KeepAlive: 15 * time.Second}
		return d.DialContext(ctx, "tcp", addr)
	}
	far, err := n.tunnel.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	near, err := bridge(far)
	if err != nil {
		_ = far.Close()
	}
	return near, err
}

// bridge is a connection of the kernel's that leads to far: a channel of an SSH
// connection knows no deadlines. Closing it, or the end of far, ends both.
func bridge(far net.Conn) (net.Conn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "bridge")
		c, cerr := net.FileConn(f)
		_ = f.Close()
		if cerr != nil && err == nil {
			err = cerr
		}
		ends[i] = c
	}
	if err != nil {
		for _, c := range ends {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil, err
	}
	inner := ends[1]
	go func() { // ends with the near end: it is closed, or has sent all
		_, err := io.Copy(far, inner)
		if w, ok := far.(interface{ CloseWrite() error }); ok && err == nil {
			_ = w.CloseWrite()
			return
		}
		_ = far.Close()
	}()
	go func() { // ends with the far end
		_, _ = io.Copy(inner, far)
		_ = inner.Close()
		_ = far.Close()
	}()
	return ends[0], nil
}

// reach reports whether the machine answers at all. It asks the kernel there,
// by opening a connection, and no program: an engine that hangs is no lost
// machine, and what runs there goes on. A local engine's machine is this one.
func (n *Node) reach(ctx context.Context) error {
	u, err := url.Parse(n.url)
	if err != nil || u.Scheme == "unix" {
		return nil
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "22")
	}
	d := net.Dialer{Timeout: reachCall}
	c, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	return c.Close()
}

// watchReach tells when the machine is lost and when it is back, until ctx
// ends.
func (n *Node) watchReach(ctx context.Context, fn func(router.ContainerEvent)) {
	if strings.HasPrefix(n.url, "unix://") {
		return
	}
	ticker := time.NewTicker(reachEvery)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		began := time.Now()
		err := n.reach(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			last = time.Now()
			if n.lost.CompareAndSwap(true, false) {
				n.log.Warn("the node is back")
				// What was taken over by others meanwhile may run there still.
				fn(router.ContainerEvent{Node: n.name, Kind: router.NodeConnected, At: last})
			}
		case began.Sub(last) >= reachLost-reachEvery && n.lost.CompareAndSwap(false, true):
			n.log.Error("the node is lost: it cannot be reached any more", "error", err)
			fn(router.ContainerEvent{Node: n.name, Kind: router.NodeLost, At: time.Now()})
		}
	}
}
