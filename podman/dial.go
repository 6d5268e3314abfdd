package podman

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"time"
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
