package state

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// gatewayDir, in the environment, makes this test program a gateway that
// starts a server of that folder, says so, and then does nothing: one to kill.
const gatewayDir = "FLUXGATE_TEST_GATEWAY_DIR"

func beGateway(dir string) {
	if _, err := StartServer(context.Background(), dir, nil); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or the test ends
}

// killedGateway leaves behind what a gateway killed with SIGKILL does.
func killedGateway(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), gatewayDir+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // of a test that failed before it adopted the server
		left := &Server{dir: dir, log: slog.New(slog.DiscardHandler)}
		if err := left.endLost(testContext(t)); err != nil {
			t.Error(err)
		}
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if line != "started\n" {
		t.Fatal(line)
	}
}

func startIn(t *testing.T, dir string) *Server {
	t.Helper()
	srv, err := StartServer(testContext(t), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, srv) })
	return srv
}

func closeServer(t *testing.T, srv *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := srv.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestServerKeepsItsData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new folder")
	srv := startIn(t, dir)
	if srv.Adopted() {
		t.Fatal("adopted in an empty folder")
	}
	s := openStore(t, srv)
	create(t, s, "kept")
	pid := serverPID(t, s)
	closeServer(t, srv)
	if srv.runsHere(pid) || listening(testContext(t), srv.socket) {
		t.Fatal("the server still runs")
	}
	closeServer(t, srv) // again is fine
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("others can look into the folder: %v %v", info.Mode(), err)
	}
	again := startIn(t, dir)
	if _, err := openStore(t, again).Load(testContext(t), "kept"); err != nil {
		t.Fatal(err)
	}
}

func TestServerListensOnItsSocketAlone(t *testing.T) {
	srv := startServer(t)
	s := openStore(t, srv)
	config, err := s.client.ConfigGet(testContext(t), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"port": "0", "unixsocketperm": "700", "appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""} {
		if config[name] != want {
			t.Errorf("%s is %q, want %q", name, config[name], want)
		}
	}
	pid := serverPID(t, s)
	if group, err := syscall.Getpgid(pid); err != nil || group != pid {
		t.Errorf("its group is %d, not its own: ^C would end it, %v", group, err)
	}
}

func TestServerOfAKilledGatewayIsAdopted(t *testing.T) {
	dir := t.TempDir()
	killedGateway(t, dir)
	srv := startIn(t, dir)
	if !srv.Adopted() || srv.Version() == "" {
		t.Fatalf("adopted: %v, version %q", srv.Adopted(), srv.Version())
	}
	s := openStore(t, srv)
	create(t, s, "app")
	first := serverPID(t, s)

	t.Run("and started again when it dies", func(t *testing.T) {
		signal(t, first, syscall.SIGKILL)
		eventually(t, "another server serves the same data", func() bool {
			_, err := s.Load(testContext(t), "app")
			return err == nil && serverPID(t, s) != first
		})
	})
	t.Run("and ended with the gateway", func(t *testing.T) {
		pid := serverPID(t, s)
		closeServer(t, srv)
		if srv.runsHere(pid) {
			t.Fatal("it still runs")
		}
	})
}

func TestAdoptedServerEndsWithTheGateway(t *testing.T) {
	dir := t.TempDir()
	killedGateway(t, dir)
	srv := startIn(t, dir)
	pid := serverPID(t, openStore(t, srv))
	closeServer(t, srv)
	if !srv.Adopted() || srv.runsHere(pid) {
		t.Fatal("it still runs")
	}
}

func TestServerThatDiesIsStartedAgain(t *testing.T) {
	srv := startServer(t)
	s := openStore(t, srv)
	create(t, s, "app")
	for range 2 {
		pid := serverPID(t, s)
		signal(t, pid, syscall.SIGKILL)
		eventually(t, "another server serves the same data", func() bool {
			_, err := s.Load(testContext(t), "app")
			return err == nil && serverPID(t, s) != pid
		})
	}
}

// Somebody cleaned up the socket while the server ran without a gateway. Two
// servers on the same file would destroy it.
func TestServerWithoutSocketIsEndedFirst(t *testing.T) {
	dir := t.TempDir()
	killedGateway(t, dir)
	socket, err := socketPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	probe := &Server{dir: dir, socket: socket}
	text, err := os.ReadFile(probe.pidFile())
	if err != nil {
		t.Fatal(err)
	}
	var lost int
	if _, err := fmt.Sscan(string(text), &lost); err != nil || !probe.runsHere(lost) {
		t.Fatalf("process %d is not the server, %v", lost, err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	srv := startIn(t, dir)
	if srv.Adopted() || srv.runsHere(lost) {
		t.Fatalf("adopted %v; the lost one runs: %v", srv.Adopted(), srv.runsHere(lost))
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "redis.sock")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	if srv := startIn(t, dir); srv.Adopted() {
		t.Fatal("adopted nobody")
	}
}

func TestServerOfAnotherFolderIsNotAdopted(t *testing.T) {
	other := startServer(t)
	dir := t.TempDir()
	if err := os.Symlink(other.socket, filepath.Join(dir, "redis.sock")); err != nil {
		t.Fatal(err)
	}
	_, err := StartServer(testContext(t), dir, nil)
	wantCode(t, err, router.CodeConflict)
	if !strings.Contains(err.Error(), other.dir) {
		t.Fatal(err)
	}
	if _, err := openStore(t, other).Info(testContext(t)); err != nil {
		t.Fatalf("the other server was harmed: %v", err)
	}
}

func TestServerOfALongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long-", 30))
	srv := startIn(t, dir)
	if len(srv.socket) > maxSocketPath {
		t.Fatal(srv.socket)
	}
	info, err := os.Stat(filepath.Dir(srv.socket))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v %v", info, err)
	}
	create(t, openStore(t, srv), "app")
	if again, err := socketPath(dir); err != nil || again != srv.socket {
		t.Fatalf("the next gateway would look at %s, %v", again, err)
	}
	closeServer(t, srv)
	if _, err := os.Stat(filepath.Dir(srv.socket)); !os.IsNotExist(err) {
		t.Fatalf("the socket's folder is left behind: %v", err)
	}
}

func TestPrivateDirOfSomebodyElse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := privateDir(dir); err == nil {
		t.Error("a folder that others can enter was taken")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if err := privateDir(link); err == nil {
		t.Error("a link was taken")
	}
}

func TestServerThatCannotStart(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir string) string // gives the folder to use
		says    []string
	}{
		"no program": {func(t *testing.T, dir string) string {
			t.Helper()
			t.Setenv("PATH", t.TempDir())
			return dir
		}, []string{"redis-server", "valkey-server", "apt install redis-server", "--redis"}},
		"damaged append-only file": {func(t *testing.T, dir string) string {
			t.Helper()
			srv := startIn(t, dir)
			create(t, openStore(t, srv), "app")
			closeServer(t, srv)
			files, err := filepath.Glob(filepath.Join(dir, "appendonlydir", "*.incr.aof"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			if err := os.WriteFile(files[0], []byte("*1\r\n$-damaged and more of it\r\n*1\r\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}, []string{"damaged", "redis-check-aof --fix", "last lines"}},
		"something in the way": {func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, "appendonlydir"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}, []string{"does not start", "appendonly", "last lines"}},
		"the folder is a file": {func(t *testing.T, dir string) string {
			t.Helper()
			file := filepath.Join(dir, "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		}, []string{"data folder", "--data"}},
		"a program that is none": {func(t *testing.T, dir string) string {
			t.Helper()
			bin := t.TempDir()
			script := "#!/bin/sh\necho 'Fatal: No space left on device'\nexit 1\n"
			if err := os.WriteFile(filepath.Join(bin, "redis-server"), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin)
			return dir
		}, []string{"does not start", "the disk is full", "No space left on device"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.prepare(t, t.TempDir())
			_, err := StartServer(testContext(t), dir, nil)
			wantCode(t, err, router.CodeUnavailable)
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("it does not say %q: %v", word, err)
				}
			}
		})
	}
}

func TestServerStartIsCancelled(t *testing.T) {
	bin := t.TempDir()
	pidFile := filepath.Join(bin, "pid")
	script := "#!/bin/sh\necho $$ > " + pidFile + ".new\nmv " + pidFile + ".new " + pidFile + "\nexec sleep 60\n"
	if err := os.WriteFile(filepath.Join(bin, "redis-server"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() {
		_, err := StartServer(ctx, t.TempDir(), nil)
		done <- err
	}()
	var pid int
	eventually(t, "the program runs", func() bool {
		text, err := os.ReadFile(pidFile)
		_, _ = fmt.Sscan(string(text), &pid)
		return err == nil
	})
	cancel()
	wantCode(t, <-done, router.CodeUnavailable)
	if err := syscall.Kill(pid, 0); err == nil {
		t.Fatal("what was half started still runs")
	}
}
