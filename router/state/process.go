package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// process is one run of the server program.
type process struct {
	pid    int
	exited <-chan struct{} // closed at its end; nil for an adopted one
	output *tail           // nil for an adopted one
}

func (s *Server) alive(p process) bool {
	if p.exited == nil {
		return s.runsHere(p.pid)
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p process) lastLines() string {
	if p.output == nil {
		return ""
	}
	return p.output.String()
}

// bring adopts the server that runs, or else starts one, and returns when it
// answers.
func (s *Server) bring(ctx context.Context) (_ process, adopted bool, _ error) {
	if listening(ctx, s.socket) {
		p, err := s.adopt(ctx)
		return p, true, err
	}
	if err := s.endLost(ctx); err != nil {
		return process{}, false, err
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return process{}, false, router.Errorf(router.CodeUnavailable, "an old socket is in the way: %w: remove it", err)
	}
	p, err := s.start(ctx)
	return p, false, err
}

// adopt takes over the server behind the socket, if it is the one of this data
// folder.
func (s *Server) adopt(ctx context.Context) (process, error) {
	foreign := func(format string, args ...any) (process, error) {
		return process{}, router.Errorf(router.CodeConflict, "%s is the socket of another program: %w: stop that program, or choose another folder with --data",
			s.socket, fmt.Errorf(format, args...))
	}
	if err := s.ready(ctx, nil); err != nil {
		return foreign("it does not answer as Redis would: %w", err)
	}
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	config, err := s.client.ConfigGet(cctx, "dir").Result()
	if err != nil {
		return foreign("it does not tell its data folder: %w", err)
	}
	if config["dir"] != s.dir {
		return foreign("a Redis with the data folder %q", config["dir"])
	}
	info, err := s.info(ctx)
	pid, err2 := strconv.Atoi(info["process_id"])
	if err = errors.Join(err, err2); err != nil {
		return foreign("it does not tell its process: %w", err)
	}
	return process{pid: pid}, nil
}

// ready waits until the server answers; exited, if not nil, is closed when
// waiting has become useless.
func (s *Server) ready(ctx context.Context, exited <-chan struct{}) error {
	began := time.Now()
	for {
		err := s.ping(ctx)
		if err == nil {
			return nil
		}
		limit := startDeadline
		if strings.HasPrefix(err.Error(), "LOADING") {
			limit = loadDeadline
		}
		if time.Since(began) > limit {
			return err
		}
		t := time.NewTimer(2 * time.Millisecond)
		select {
		case <-t.C:
		case <-exited:
			t.Stop()
			return err
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

func (s *Server) pidFile() string { return filepath.Join(s.dir, "redis.pid") }

// endLost ends a server of this data folder that nobody can reach because its
// socket was deleted: two servers on one append-only file would destroy it.
func (s *Server) endLost(ctx context.Context) error {
	text, err := os.ReadFile(s.pidFile())
	if err != nil {
		return nil // no server, or one that ended in good order
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || !s.runsHere(pid) {
		return nil // its process is gone, and the number may be another's by now
	}
	s.log.Warn("ending a private Redis whose socket is gone", "dir", s.dir, "pid", pid)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return router.Errorf(router.CodeConflict, "process %d is a Redis on %s without a socket, and cannot be ended: %w: end it", pid, s.dir, err)
	}
	cctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	for s.runsHere(pid) {
		if !wait(cctx, 5*time.Millisecond) {
			return router.Errorf(router.CodeConflict, "process %d is a Redis on %s without a socket, and does not end: end it", pid, s.dir)
		}
	}
	return nil
}

// runsHere reports whether pid is a server program that runs in the data
// folder. A zombie has no folder any more.
func (s *Server) runsHere(pid int) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
	if err != nil || cwd != s.dir {
		return false
	}
	name, err := os.ReadFile(filepath.Join(proc, "comm"))
	return err == nil && (strings.HasPrefix(string(name), "redis") || strings.HasPrefix(string(name), "valkey"))
}

// program finds the server program.
func program() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", router.Errorf(router.CodeUnavailable,
		"Fluxgate keeps its state in Redis, and there is neither redis-server nor valkey-server on this machine: "+
			"install one (Debian and Ubuntu: apt install redis-server; Fedora: dnf install valkey), or name a running one with --redis")
}

// start runs the server program and waits until it answers.
func (s *Server) start(ctx context.Context) (process, error) {
	path, err := program()
	if err != nil {
		return process{}, err
	}
	out := &tail{}
	cmd := exec.Command(path, // no context: it outlives every context here, and the gateway itself
		"--port", "0", "--unixsocket", s.socket, "--unixsocketperm", "700",
		"--dir", s.dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
		"--daemonize", "no", "--pidfile", s.pidFile(), "--maxmemory-policy", "noeviction", "--databases", "1")
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"} // some versions refuse to start in an unknown locale
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	// A group of its own: ^C in the terminal must reach the gateway, which
	// drains, and not the Redis that it needs for that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return process{}, router.Errorf(router.CodeUnavailable, "%s cannot be run: %w", path, err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its output
		close(exited)
	}()
	p := process{pid: cmd.Process.Pid, exited: exited, output: out}
	if err := s.ready(ctx, exited); err != nil {
		early := !s.alive(p)
		if !early {
			_ = cmd.Process.Kill() // it never served anybody
			<-exited
		}
		return process{}, startFailure(path, s.dir, early, ctx.Err(), out.String())
	}
	return p, nil
}

// startFailure says why a server does not start, as far as its output tells,
// and what to do.
func startFailure(path, dir string, early bool, cancelled error, output string) error {
	if cancelled != nil && !early {
		return router.Errorf(router.CodeUnavailable, "%s did not start in time: %w", path, cancelled)
	}
	remedy := "repair what it complains about"
	for _, known := range []struct{ sign, remedy string }{
		{"No space left", "the disk is full: free some space"},
		{"Read-only file system", "the data folder cannot be written to: choose another with --data"},
		{"Permission denied", "the data folder belongs to another user: correct its permissions, or choose another with --data"},
		{"Can't handle RDB format version", "its data was written by a newer version: install that one again"},
		{"append only file", "its append-only file is damaged: keep a copy of " + dir + "/appendonlydir, then repair it with " +
			"redis-check-aof --fix " + dir + "/appendonlydir/appendonly.aof.manifest"},
	} {
		if strings.Contains(output, known.sign) {
			remedy = known.remedy
			break
		}
	}
	what := "does not answer"
	if early {
		what = "does not start"
	}
	if output == "" {
		output = "(no output)"
	}
	return router.Errorf(router.CodeUnavailable, "%s with the data folder %s %s; %s. Its last lines:\n%s", path, dir, what, remedy, output)
}

// tail keeps the last lines of what is written to it.
type tail struct {
	mu    sync.Mutex
	lines []string
	part  string // of a line that has not ended
}

const tailLines = 6

// Write implements io.Writer; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(t.part+string(p), "\n")
	t.part = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		if line = strings.TrimSpace(line); line != "" {
			t.lines = append(t.lines, line)
		}
	}
	t.lines = t.lines[max(0, len(t.lines)-tailLines):]
	return len(p), nil
}

// String is the lines kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(append(t.lines[:len(t.lines):len(t.lines)], t.part), "\n")
}
