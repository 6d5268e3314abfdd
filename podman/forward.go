package podman

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

const forwardDial = 15 * time.Second

// Forwarder is a unix socket whose connections lead elsewhere.
type Forwarder struct {
	ln   net.Listener
	dial func(context.Context) (net.Conn, error)
	log  *slog.Logger
	life context.Context
	end  context.CancelFunc

	mu    sync.Mutex
	conns map[net.Conn]bool
	group sync.WaitGroup
}

// Forward listens at path, for this user alone, and copies every connection to
// what dial gives. A connection that dial has none for is closed. Close it.
func Forward(path string, dial func(ctx context.Context) (net.Conn, error), log *slog.Logger) (*Forwarder, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, router.Errorf(router.CodeInternal, "an old socket is in the way: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, router.Errorf(router.CodeInternal, "the socket for a node cannot be opened: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, router.Errorf(router.CodeInternal, "the socket for a node cannot be kept to this user: %w", err)
	}
	f := &Forwarder{ln: ln, dial: dial, log: log, conns: map[net.Conn]bool{}}
	f.life, f.end = context.WithCancel(context.Background())
	f.group.Go(f.accept)
	return f, nil
}

// Close ends the socket and all its connections, and waits for that.
func (f *Forwarder) Close() error {
	f.end()
	err := f.ln.Close()
	f.mu.Lock()
	for c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.group.Wait()
	return err
}

func (f *Forwarder) accept() {
	for {
		near, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.group.Go(func() { f.serve(near) })
	}
}

func (f *Forwarder) serve(near net.Conn) {
	defer near.Close()
	ctx, cancel := context.WithTimeout(f.life, forwardDial)
	far, err := f.dial(ctx)
	cancel()
	if err != nil {
		f.log.Warn("a connection to the node was refused", "error", err)
		return
	}
	defer far.Close()
	if !f.keep(near, far) {
		return
	}
	defer f.forget(near, far)
	var back sync.WaitGroup
	back.Go(func() { pass(near, far) })
	pass(far, near)
	back.Wait()
}

// pass copies one direction and passes on its end; an error ends both.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if w, ok := to.(interface{ CloseWrite() error }); ok && err == nil && w.CloseWrite() == nil {
		return
	}
	_ = to.Close()
	_ = from.Close()
}

func (f *Forwarder) keep(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		f.conns[c] = true
	}
	return f.life.Err() == nil
}

func (f *Forwarder) forget(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		delete(f.conns, c)
	}
}
