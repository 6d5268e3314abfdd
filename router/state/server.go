package state

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// Server is the private redis-server (or valkey-server) of one data folder. It
// listens on a Unix socket only. It is not a child that dies with the gateway:
// when the gateway is killed, it goes on and the next gateway adopts it.
type Server struct {
	dir, socket string
	log         *slog.Logger
	client      *redis.Client // for PING and SHUTDOWN
	adopted     bool
	version     string

	stop    context.CancelFunc // ends the supervision
	stopped chan struct{}      // closed when the supervision has ended
	proc    process            // the one that runs now; changed only by the supervision
	once    sync.Once
	err     error // of Close
}

// How a server that dies is started again.
const (
	pingEvery     = time.Second
	minRestart    = 100 * time.Millisecond
	maxRestart    = 10 * time.Second
	steadyAfter   = time.Minute      // a server that lived that long starts over at minRestart
	startDeadline = 20 * time.Second // for a new server to answer; loading its data may take longer
	loadDeadline  = 10 * time.Minute
)

// StartServer makes sure that a private server of the data folder dir runs and
// answers: one that runs already is adopted, otherwise one is started, and
// started again whenever it dies until Close. The data folder must not be used
// by two gateways at once; that is the caller's to see to. ctx bounds the start
// alone.
func StartServer(ctx context.Context, dir string, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dir, err := dataDir(dir)
	if err != nil {
		return nil, err
	}
	socket, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, socket: socket, log: log, stopped: make(chan struct{})}
	opts, _, err := parseURL(s.URL())
	if err != nil {
		return nil, err
	}
	simple := opts.Simple()
	simple.PoolSize, simple.MaxRetries = 2, -1
	s.client = redis.NewClient(simple)

	if s.proc, s.adopted, err = s.bring(ctx); err != nil {
		_ = s.client.Close()
		return nil, err
	}
	info, err := s.info(ctx)
	if err != nil {
		if !s.adopted {
			sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			_ = s.shutdown(sctx) // the first error tells more
			cancel()
		}
		_ = s.client.Close()
		return nil, router.Errorf(router.CodeUnavailable, "the Redis of %s started but does not answer: %w", dir, err)
	}
	s.version = serverName(info)
	life, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.supervise(life)
	return s, nil
}

// dataDir makes the folder if need be and gives its real path, which is what a
// server reports.
func dataDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		if err = os.MkdirAll(abs, 0o700); err == nil {
			abs, err = filepath.EvalSymlinks(abs)
		}
	}
	if err != nil {
		return "", router.Errorf(router.CodeUnavailable, "the data folder cannot be used: %w: choose another with --data, or correct its permissions", err)
	}
	return abs, nil
}

// ServerURL is how to [Open] the server of a data folder that somebody else
// keeps running.
func ServerURL(dir string) (string, error) {
	dir, err := dataDir(dir)
	if err != nil {
		return "", err
	}
	socket, err := socketPath(dir)
	return (&url.URL{Scheme: "unix", Path: socket}).String(), err
}

// URL is how to [Open] the server.
func (s *Server) URL() string { return (&url.URL{Scheme: "unix", Path: s.socket}).String() }

// Adopted reports whether the server ran before StartServer.
func (s *Server) Adopted() bool { return s.adopted }

// Version is the server's name and version: "Redis 7.0.15".
func (s *Server) Version() string { return s.version }

// supervise starts the server again when it dies.
func (s *Server) supervise(ctx context.Context) {
	defer close(s.stopped)
	delay := minRestart
	for {
		began := time.Now()
		if !s.awaitDeath(ctx) {
			return
		}
		if time.Since(began) > steadyAfter {
			delay = minRestart
		}
		s.log.Error("the private Redis died; starting it again", "dir", s.dir, "output", s.proc.lastLines())
		for {
			if !wait(ctx, delay) {
				return
			}
			delay = min(2*delay, maxRestart)
			proc, _, err := s.bring(ctx)
			if err == nil {
				s.proc = proc
				s.log.Info("the private Redis runs again", "dir", s.dir)
				break
			}
			if ctx.Err() != nil {
				return
			}
			s.log.Error("the private Redis does not start", "err", err)
		}
	}
}

// awaitDeath returns true when the server has died, false when ctx ended.
func (s *Server) awaitDeath(ctx context.Context) bool {
	if s.proc.exited != nil {
		select {
		case <-s.proc.exited:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		}
	}
	// An adopted server is nobody's child here: it is asked. One that is only
	// slow still listens.
	for wait(ctx, pingEvery) {
		if err := s.ping(ctx); err != nil && !listening(ctx, s.socket) && ctx.Err() == nil {
			return true
		}
	}
	return false
}

// ping asks the server for an answer over a connection of its own: the
// client's pool does not dial at once again after some failures.
func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 1024)).ReadString('\n')
	if err != nil {
		return err
	}
	if answer := strings.TrimSpace(line); answer != "+PONG" {
		return errors.New(strings.TrimPrefix(answer, "-"))
	}
	return nil
}

func (s *Server) info(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	text, err := s.client.Info(ctx, "server").Result()
	return parseInfo(text), err
}

// Close shuts the server down, with all data on its disk, and waits for its
// end. When it cannot be shut down, or ctx ends first, the server is left
// running rather than killed, for the next gateway to adopt.
func (s *Server) Close(ctx context.Context) error {
	s.once.Do(func() {
		s.stop()
		<-s.stopped
		s.err = s.shutdown(ctx)
		_ = s.client.Close()
	})
	return s.err
}

func (s *Server) shutdown(ctx context.Context) error {
	// No reply is the good reply: the connection just ends. Everything is in
	// the append-only file, which SHUTDOWN brings to the disk; a snapshot
	// besides would only take time.
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	err := s.client.Do(cctx, "SHUTDOWN", "NOSAVE").Err()
	cancel()
	var refusal redis.Error
	if errors.As(err, &refusal) {
		return router.Errorf(router.CodeUnavailable, "the private Redis of %s cannot be shut down, and goes on running: %w", s.dir, err)
	}
	for s.alive(s.proc) {
		if !wait(ctx, 2*time.Millisecond) {
			return router.Errorf(router.CodeUnavailable, "the private Redis of %s (process %d) is still shutting down: %w", s.dir, s.proc.pid, ctx.Err())
		}
	}
	if folder := filepath.Dir(s.socket); folder != s.dir {
		_ = os.Remove(folder) // made for the socket alone; the next start makes it again
	}
	return nil
}

// wait sleeps, and reports whether it did to the end.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
