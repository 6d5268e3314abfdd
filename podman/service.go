package podman

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/podman/site"
	"github.com/fluxgate/fluxgate/router"
)

const (
	serviceStart = 20 * time.Second // from the start of the program to its first answer
	serviceStop  = 10 * time.Second // from SIGTERM to SIGKILL
	socketPath   = 107              // bytes that a unix socket's address holds
)

// Service is the Podman API of this machine: one that the machine has, or one
// of our own, which is watched and started again when it ends. Containers do
// not depend on it: they go on running without it, and across its restarts.
type Service struct {
	socket  string
	dir     string
	own     bool
	program string
	args    []string // of Podman itself, before "system service"
	log     *slog.Logger

	proc    *process // StartService's, then watch's alone; so is runtime
	runtime string   // OCI runtime to start it with; empty: its own default
	close   sync.Once
	closing chan struct{}
	watched chan struct{} // closed when watching has ended
}

// StartService finds or starts the Podman API of this machine. With no args it
// takes the machine's own service where that answers. Otherwise it takes the
// one that an earlier gateway left in dir, or starts `podman ARGS system
// service` there, with an OCI runtime that works. Several gateways must not
// share a dir at the same time. ctx bounds the start only; Close ends it.
func StartService(ctx context.Context, dir string, log *slog.Logger, args ...string) (*Service, error) {
	if len(args) == 0 {
		for _, socket := range systemSockets() {
			s := &Service{socket: socket, log: log}
			if !answers(ctx, socket) {
				continue
			}
			if _, err := s.tryEngine(ctx); err != nil {
				log.Warn("no container runs with the machine's Podman service; starting one of our own", "error", err)
				continue
			}
			return s, nil
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Service{
		socket: filepath.Join(dir, "podman.sock"), dir: dir, own: true, args: args, log: log,
		closing: make(chan struct{}), watched: make(chan struct{}),
	}
	if len(s.socket) > socketPath {
		return nil, router.Errorf(router.CodeInvalid, "the path of Podman's socket, %s, is longer than a socket's may be (%d bytes): choose a shorter data folder", s.socket, socketPath)
	}
	if s.program, err = exec.LookPath("podman"); err != nil {
		return nil, router.Errorf(router.CodeUnavailable, "the program podman is not there: install it (apt-get install podman, dnf install podman), version %s or later", minimum)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, router.Errorf(router.CodeInternal, "the folder for Podman's socket cannot be made: %w", err)
	}
	s.runtime = s.rememberedRuntime()
	if s.proc = s.leftover(ctx); s.proc != nil && answers(ctx, s.socket) {
		go s.watch()
		return s, nil
	}
	if s.proc != nil { // it hangs
		s.proc.stop(serviceStop)
	}
	if err := s.startWorking(ctx); err != nil {
		return nil, err
	}
	go s.watch()
	return s, nil
}

// systemSockets are where a machine's own service listens.
func systemSockets() []string {
	if os.Getuid() == 0 {
		return []string{"/run/podman/podman.sock"}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return []string{filepath.Join(dir, "podman/podman.sock")}
	}
	return nil
}

// URL is where the service answers.
func (s *Service) URL() string { return "unix://" + s.socket }

// Started reports whether the service is one of our own.
func (s *Service) Started() bool { return s.own }

// Close stops the service if it is one of our own, and waits for that.
// Containers go on running.
func (s *Service) Close(ctx context.Context) error {
	if !s.own {
		return nil
	}
	s.close.Do(func() { close(s.closing) })
	select {
	case <-s.watched:
	case <-ctx.Done():
		return ctx.Err()
	}
	return ignoreMissing(os.Remove(s.socket))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// watch starts the service again when it ends, until Close.
func (s *Service) watch() {
	defer close(s.watched)
	const most = 10 * time.Second
	for wait := 100 * time.Millisecond; ; {
		began := time.Now()
		select {
		case <-s.closing:
			s.proc.stop(serviceStop)
			return
		case <-s.proc.done():
		}
		if time.Since(began) > most {
			wait = 100 * time.Millisecond
		}
		s.log.Error("the Podman service ended; starting it again", "said", s.lastWords())
		for started := false; !started; wait = min(2*wait, most) {
			select {
			case <-s.closing:
				return
			case <-time.After(wait):
			}
			ctx, cancel := context.WithTimeout(context.Background(), serviceStart)
			go func() { // Close need not wait for a slow start
				select {
				case <-s.closing:
					cancel()
				case <-ctx.Done():
				}
			}()
			err := s.start(ctx)
			cancel()
			if started = err == nil; !started {
				s.log.Error("the Podman service does not start", "error", err)
			}
		}
	}
}

// startWorking starts the service with an OCI runtime that works: first the one
// that an earlier start found or Podman's own choice, then the others there
// are. Where none works it runs with Podman's own, for the node's Check to
// report what is wrong.
func (s *Service) startWorking(ctx context.Context) error {
	err := s.start(ctx)
	if err != nil && s.runtime != "" { // perhaps no longer installed
		s.runtime = ""
		err = s.start(ctx)
	}
	if err != nil {
		return err
	}
	if site.Available() != nil {
		return nil // nothing to try it with; the node's Check says so
	}
	first, err := s.tryEngine(ctx)
	if err == nil {
		return nil
	}
	for _, runtime := range []string{"crun", "runc"} {
		if runtime == first {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		s.log.Info("no container runs with this OCI runtime; trying another", "runtime", first, "next", runtime, "error", err)
		s.proc.stop(serviceStop)
		s.runtime = runtime
		if err := s.start(ctx); err != nil {
			continue // not installed
		}
		if _, err := s.tryEngine(ctx); err == nil {
			return os.WriteFile(s.runtimeFile(), []byte(runtime), 0o600)
		}
	}
	s.proc.stop(serviceStop)
	s.runtime = ""
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.start(ctx)
}

// tryEngine runs a container, of no installation.
func (s *Service) tryEngine(ctx context.Context) (runtime string, err error) {
	n, err := Connect(ctx, Options{URL: s.URL(), Owner: "service", Logger: s.log})
	if err != nil {
		return "", err
	}
	defer n.Close()
	return n.tryEngine(ctx)
}

func (s *Service) runtimeFile() string { return filepath.Join(s.dir, "podman.runtime") }
func (s *Service) logFile() string     { return filepath.Join(s.dir, "podman.log") }

// rememberedRuntime is what an earlier start settled on, while it is installed.
func (s *Service) rememberedRuntime() string {
	name, err := os.ReadFile(s.runtimeFile())
	if err != nil {
		return "" // a first start
	}
	return string(name)
}

// answers reports whether a Podman API answers at the socket.
func answers(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	n, err := Connect(ctx, Options{URL: "unix://" + socket, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return false
	}
	n.Close()
	return true
}

// start starts the program and waits until it answers.
func (s *Service) start(ctx context.Context) error {
	if err := ignoreMissing(os.Remove(s.socket)); err != nil {
		return router.Errorf(router.CodeInternal, "an old socket of Podman's is in the way: %w", err)
	}
	args := append([]string(nil), s.args...)
	if s.runtime != "" {
		args = append(args, "--runtime", s.runtime)
	}
	args = append(args, "system", "service", "--time", "0", s.URL())
	proc, err := startProcess(s.program, args, s.logFile())
	if err != nil {
		return router.Errorf(router.CodeInternal, "podman cannot be started: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, serviceStart)
	defer cancel()
	for {
		if _, err := os.Stat(s.socket); err == nil && answers(ctx, s.socket) {
			s.proc = proc
			return nil
		}
		select {
		case <-proc.done():
			return router.Errorf(router.CodeUnavailable, "`podman system service` ended at once; it says:\n%s", s.lastWords())
		case <-ctx.Done():
			proc.stop(serviceStop)
			return router.Errorf(router.CodeUnavailable, "`podman system service` does not answer; it says:\n%s", s.lastWords())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastWords is the end of what the service wrote.
func (s *Service) lastWords() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil || len(text) == 0 {
		return "(nothing)"
	}
	return string(newest(text, 2000))
}

// leftover is the process of a service that an earlier gateway started in dir.
// The socket itself tells which it is, also where it hangs.
func (s *Service) leftover(ctx context.Context) *process {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	pid, err := peerPid(ctx, s.socket)
	if err != nil {
		return nil
	}
	return findProcess(pid, s.URL())
}
