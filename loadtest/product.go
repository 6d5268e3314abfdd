package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// gateway is one `fluxgate up`, on loopback ports and a data folder of its own.
type gateway struct {
	bin   string
	data  string
	http  int
	https int
	flags []string
	env   []string // beside this process's own

	patience time.Duration // until it is ready, 2 minutes where 0; for its commands, 5 minutes at least

	cmd    *exec.Cmd
	exited chan struct{}
	roots  *x509.CertPool
}

// newGateway chooses ports and a data folder; start starts it.
func newGateway(bin, data string, flags ...string) (*gateway, error) {
	path, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	g := &gateway{bin: path, data: data, flags: flags}
	for _, port := range []*int{&g.http, &g.https} {
		if *port, err = freePort(); err != nil {
			return nil, err
		}
	}
	return g, os.MkdirAll(data, 0o700)
}

// freePort is a loopback port that nothing listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// environment points the command line at this gateway, and away from the
// contexts of whoever runs the benchmark.
func (g *gateway) environment() []string {
	env := append(os.Environ(), g.env...)
	return append(env, "FLUXGATE_DATA="+g.data, "XDG_CONFIG_HOME="+filepath.Join(g.data, "config"))
}

// certPath finds the path of the root certificate in what `up` prints.
var certPath = regexp.MustCompile(`/\S+\.(?:crt|pem)\b`)

// start runs the gateway and returns when it says that it is ready. Its output
// goes into up.log in the data folder.
func (g *gateway) start(ctx context.Context) error {
	logPath := filepath.Join(g.data, "up.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	args := append([]string{
		"up", "--data", g.data,
		"--http", loopback(g.http), "--https", loopback(g.https),
	}, g.flags...)
	g.cmd = exec.Command(g.bin, args...)
	g.cmd.Env = g.environment()
	g.cmd.Stderr = log
	// ^C reaches the benchmark, which then stops the gateway.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	if err := g.cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	g.exited = make(chan struct{})
	ready := make(chan string, 1)
	go func() {
		defer close(g.exited)
		defer log.Close()
		lines := bufio.NewScanner(io.TeeReader(out, log))
		var printed strings.Builder
		for lines.Scan() {
			printed.WriteString(lines.Text() + "\n")
			if strings.HasPrefix(lines.Text(), "ready") {
				ready <- printed.String()
				break
			}
		}
		_, _ = io.Copy(log, out)
		_ = g.cmd.Wait()
	}()
	wait, cancel := context.WithTimeout(ctx, cmp.Or(g.patience, 2*time.Minute))
	defer cancel()
	select {
	case printed := <-ready:
		return g.readRoot(printed)
	case <-g.exited:
		return fmt.Errorf("`fluxgate up` ended before it was ready; its last lines:\n%s", tail(logPath))
	case <-wait.Done():
		return errors.Join(fmt.Errorf("`fluxgate up` is not ready: %w; its last lines:\n%s", wait.Err(), tail(logPath)), g.stop())
	}
}

// readRoot finds the local CA's certificate in what `up` printed.
func (g *gateway) readRoot(printed string) error {
	for _, path := range certPath.FindAllString(printed, -1) {
		pem, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		g.roots = x509.NewCertPool()
		if g.roots.AppendCertsFromPEM(pem) {
			return nil
		}
	}
	return fmt.Errorf("`fluxgate up` printed no path of a root certificate:\n%s", printed)
}

// stop asks the gateway to drain, and kills it if it has not in a minute.
func (g *gateway) stop() error {
	if g.cmd == nil || g.cmd.Process == nil {
		return nil
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.exited:
		return nil
	case <-time.After(time.Minute):
		_ = g.cmd.Process.Kill()
		<-g.exited
		return errors.New("`fluxgate up` did not stop within a minute of SIGTERM and was killed")
	}
}

// pid is the running gateway's.
func (g *gateway) pid() int { return g.cmd.Process.Pid }

// cli runs one command, as a user would, and returns what it printed.
func (g *gateway) cli(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, max(g.patience, 5*time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, g.bin, args...)
	cmd.Env = g.environment()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("fluxgate %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.Bytes(), nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// tail is the end of a file, for an error.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4096):])
}

// running reports whether the process that start started is still there.
func (g *gateway) running() bool {
	if g.exited == nil {
		return false
	}
	select {
	case <-g.exited:
		return false
	default:
		return true
	}
}
