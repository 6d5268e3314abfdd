package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests run the real binary against the real Podman and Redis. Podman has
// roots of its own, so that nothing on the machine is touched.
var (
	binary    string // fluxgate
	appBinary string // testdata/app
	podmanURL string // of the service that all tests share
	podmanCmd []string
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "fg") // short: unix sockets have 108 bytes
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary, appBinary = filepath.Join(dir, "fluxgate"), filepath.Join(dir, "app")
		for out, pkg := range map[string]string{binary: "./fluxgate", appBinary: "./testdata/app"} {
			build := exec.Command("go", "build", "-o", out, pkg)
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if text, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "building %s: %v\n%s", pkg, err, text)
				return 1
			}
		}
		end, err := startPodman(dir)
		defer end()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// startPodman runs a Podman service with its own storage, networks and locks; the
// function it returns ends the service and removes all that it made.
func startPodman(dir string) (end func(), err error) {
	_ = os.Setenv("CONTAINERS_CONF", filepath.Join(dir, "containers.conf")) // for the podman commands of the tests
	podmanCmd = []string{
		"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"), "--cgroup-manager", "cgroupfs",
		"--network-config-dir", filepath.Join(dir, "networks"), "--volumepath", filepath.Join(dir, "volumes"),
	}
	conf := filepath.Join(dir, "containers.conf")
	runtime := "crun"
	if exec.Command("sh", "-c", "command -v runc").Run() == nil {
		runtime = "runc"
	}
	if err := os.WriteFile(conf, []byte("[engine]\nruntime=\""+runtime+"\"\nlock_type=\"file\"\n"), 0o600); err != nil {
		return func() {}, err
	}
	socket := filepath.Join(dir, "podman.sock")
	podmanURL = "unix://" + socket
	cmd := exec.Command(podmanCmd[0], append(podmanCmd[1:], "system", "service", "--time", "0", podmanURL)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return func() {}, err
	}
	end = func() {
		for _, args := range [][]string{{"rm", "--all", "--force", "--time", "0"}, {"network", "prune", "--force"}} {
			_ = exec.Command(podmanCmd[0], append(podmanCmd[1:], args...)...).Run()
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = exec.Command("umount", filepath.Join(dir, "root", "overlay")).Run()
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if conn, err := net.Dial("unix", socket); err == nil {
			return end, conn.Close()
		}
		if time.Now().After(deadline) {
			return end, fmt.Errorf("podman does not listen on %s", socket)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// machine is a place where one gateway runs and one user types.
type machine struct {
	t    *testing.T
	dir  string // short
	data string
	up   *exec.Cmd
	out  *lines // of `up`
	url  string // https://fluxgate.localhost:PORT
	port string // HTTPS
	http string // address of the HTTP listener

	cleaned   bool     // clean is registered
	path      string   // PATH of what is run; empty: the test's own
	ownPodman bool     // let the gateway look for Podman itself
	wrap      []string // program and arguments that `up` is run by
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "fgm")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, data: filepath.Join(dir, "data")}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return m
}

// upMachine is a machine whose gateway is ready, and is stopped and cleaned of
// its containers afterwards.
func upMachine(t *testing.T, args ...string) *machine {
	t.Helper()
	m := newMachine(t)
	m.start(args...)
	return m
}

// start runs `fluxgate up` and waits until it is ready.
func (m *machine) start(args ...string) {
	m.t.Helper()
	if err := m.tryStart(args...); err != nil {
		m.t.Fatal(err)
	}
	if !m.cleaned {
		m.cleaned = true
		m.t.Cleanup(m.clean)
	}
}

func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "FLUXGATE_DATA="+m.data, "XDG_CONFIG_HOME="+filepath.Join(m.dir, "config"))
	if m.path != "" {
		cmd.Env = append(cmd.Env, "PATH="+m.path)
	}
	cmd.Dir = m.dir
	return cmd
}

// tryStart runs `fluxgate up`; its error holds what it printed where it ended
// before it was ready.
func (m *machine) tryStart(args ...string) error {
	m.t.Helper()
	all := []string{"up", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"}
	if !m.ownPodman && !slices.Contains(args, "--node") {
		all = append(all, "--node", podmanURL)
	}
	all = append(all, args...)
	cmd := m.command(all...)
	if len(m.wrap) > 0 {
		wrapped := exec.Command(m.wrap[0], append(m.wrap[1:], cmd.Args...)...)
		wrapped.Env, wrapped.Dir = cmd.Env, cmd.Dir
		cmd = wrapped
	}
	m.out = &lines{}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = m.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ready := make(chan string, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		scan := bufio.NewScanner(stdout)
		for scan.Scan() {
			_, _ = m.out.Write(append(scan.Bytes(), '\n'))
			word, rest, _ := strings.Cut(scan.Text(), " ")
			switch rest = strings.TrimSpace(rest); word {
			case "http":
				m.http = rest
			case "ready":
				ready <- rest
			}
		}
	}()
	select {
	case m.url = <-ready:
		m.up = cmd
		m.port = m.url[strings.LastIndexByte(m.url, ':')+1:]
		return nil
	case <-ended:
		err := cmd.Wait()
		return fmt.Errorf("up ended (%w):\n%s", err, m.out)
	case <-time.After(90 * time.Second):
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("up was not ready in time:\n%s", m.out)
	}
}

// term stops the gateway as an operator does, and waits.
func (m *machine) term() {
	m.t.Helper()
	if m.up == nil {
		return
	}
	_ = m.up.Process.Signal(syscall.SIGTERM)
	if err := m.up.Wait(); err != nil {
		m.t.Errorf("up after SIGTERM: %v\n%s", err, m.out)
	}
	m.up = nil
}

// kill ends the gateway as a crash does.
func (m *machine) kill() {
	m.t.Helper()
	_ = m.up.Process.Kill()
	_ = m.up.Wait()
	m.up = nil
}

// clean stops the gateway and removes its apps.
func (m *machine) clean() {
	if m.up == nil {
		return
	}
	if m.t.Failed() {
		m.t.Logf("what up said:\n%s", m.out)
	}
	for _, app := range m.apps() {
		m.try("rm", "--yes", app)
	}
	m.term()
}

func (m *machine) apps() []string {
	out, _ := m.try("apps", "--json")
	var list []struct{ Name string }
	var wrapped struct{ Apps []struct{ Name string } }
	if json.Unmarshal([]byte(out), &list) != nil && json.Unmarshal([]byte(out), &wrapped) == nil {
		list = wrapped.Apps
	}
	var names []string
	for _, a := range list {
		names = append(names, a.Name)
	}
	return names
}

// try runs a command and returns all that it printed and its exit code.
func (m *machine) try(args ...string) (string, int) {
	m.t.Helper()
	cmd := m.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run()
	return out.String(), cmd.ProcessState.ExitCode()
}

// run runs a command that must succeed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, code := m.try(args...)
	if code != 0 {
		m.t.Fatalf("fluxgate %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// folder makes a folder with the given files; "app" stands for the test app's
// binary.
func (m *machine) folder(name string, files map[string]string) string {
	m.t.Helper()
	dir := filepath.Join(m.dir, name)
	for path, text := range files {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	return dir
}

// appFolder is a folder that pushes the test app under a name, with more lines
// for its manifest.
func (m *machine) appFolder(name, manifest string) string {
	m.t.Helper()
	code, err := os.ReadFile(appBinary)
	if err != nil {
		m.t.Fatal(err)
	}
	dir := m.folder(name, map[string]string{
		"Containerfile": "FROM scratch\nCOPY --chmod=755 app /app\nENTRYPOINT [\"/app\"]\n",
		"fluxgate.toml": "name = \"" + name + "\"\n" + manifest,
	})
	if err := os.WriteFile(filepath.Join(dir, "app"), code, 0o755); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

// push pushes the test app.
func (m *machine) push(name, manifest string) string {
	m.t.Helper()
	return m.run("push", m.appFolder(name, manifest))
}

// client talks to the edge as a browser does, with the root that `up` printed.
func (m *machine) client() *http.Client {
	m.t.Helper()
	pem, err := os.ReadFile(filepath.Join(m.data, "ca.crt"))
	if err != nil {
		m.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		MaxIdleConnsPerHost: 2000,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, "127.0.0.1:"+m.port)
		},
	}
	m.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// app is the address of an app's path.
func (m *machine) app(name, path string) string {
	return fmt.Sprintf("https://%s.localhost:%s%s", name, m.port, path)
}

// answer is a response, read whole.
type answer struct {
	status int
	body   string
	header http.Header
}

func fetch(client *http.Client, url string) (answer, error) {
	resp, err := client.Get(url)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(body), resp.Header}, err
}

// get asks an app and wants 200.
func (m *machine) get(client *http.Client, app, path string) answer {
	m.t.Helper()
	a, err := fetch(client, m.app(app, path))
	if err != nil {
		m.t.Fatal(err)
	}
	if a.status != http.StatusOK {
		m.t.Fatalf("%s%s: %d\n%s", app, path, a.status, a.body)
	}
	return a
}

// instance is one line of `ps --json`.
type instance struct {
	ID, App, State, Container string
	Release                   int
}

func (m *machine) ps(app string) []instance {
	m.t.Helper()
	out := m.run("ps", app, "--json")
	var list []instance
	var wrapped struct{ Instances []instance }
	if json.Unmarshal([]byte(out), &list) != nil {
		if err := json.Unmarshal([]byte(out), &wrapped); err != nil {
			m.t.Fatalf("ps --json: %v\n%s", err, out)
		}
		list = wrapped.Instances
	}
	return list
}

// awaitState waits until the app has exactly these instances, by state.
func (m *machine) awaitState(app string, states ...string) []instance {
	m.t.Helper()
	want := strings.Join(states, " ")
	var got string
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		list := m.ps(app)
		var have []string
		for _, in := range list {
			have = append(have, in.State)
		}
		if got = strings.Join(have, " "); got == want {
			return list
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.t.Fatalf("%s is %q, want %q\n%s", app, got, want, m.run("why", app))
	return nil
}

// containers lists what Podman itself has for an app: IDs by instance.
func containers(t *testing.T, app string) map[string]string {
	t.Helper()
	args := append(podmanCmd[1:], "ps", "--all", "--filter", "label=fluxgate.app="+app, "--format", "{{.ID}} {{.Names}}", "--no-trunc")
	out, err := exec.Command(podmanCmd[0], args...).Output()
	if err != nil {
		t.Fatalf("podman ps: %v", err)
	}
	found := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if id, name, ok := strings.Cut(line, " "); ok {
			found[strings.TrimPrefix(name, "fluxgate-")] = id
		}
	}
	return found
}

// lines collects what a program prints; it may be read meanwhile.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
