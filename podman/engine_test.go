package podman

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/fluxgate/fluxgate/router"
)

// engine is a real Podman of the tests' own: its storage, network settings and
// locks are apart from the machine's.
type engine struct {
	dir     string
	args    []string
	service *Service
}

// shared is one engine for the tests that need no more than a Podman.
var shared = struct {
	once   sync.Once
	engine *engine
	err    error
}{}

func TestMain(m *testing.M) {
	conf, err := engineConf()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	removeDeadEngines()
	code := m.Run()
	if shared.engine != nil {
		shared.engine.close()
	}
	os.Remove(conf)
	os.Exit(code)
}

// engineConf keeps the engines' locks apart from the machine's: those in shared
// memory are one set for all of root's engines, wherever their storage is.
func engineConf() (string, error) {
	f, err := os.CreateTemp("", "containers-*.conf")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString("[engine]\nlock_type = \"file\"\n")
	return f.Name(), errors.Join(err, f.Close(), os.Setenv("CONTAINERS_CONF", f.Name()))
}

// enginePrefix is followed by the number of the process whose engine it is, so
// that what a killed test left can be told and cleared away by the next.
const enginePrefix = "/tmp/fgpod-"

func removeDeadEngines() {
	dirs, _ := filepath.Glob(enginePrefix + "*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.Split(strings.TrimPrefix(dir, enginePrefix), "-")[0])
		if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			newEngine(dir).clear()
		}
	}
}

func newEngine(dir string) *engine {
	return &engine{dir: dir, args: []string{
		"--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp",
		"--network-config-dir", dir + "/net", "--volumepath", dir + "/vol",
	}}
}

func startEngine(name string) (*engine, error) {
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("these tests need root: containers with limits in storage of their own")
	}
	e := newEngine(fmt.Sprintf("%s%d-%s", enginePrefix, os.Getpid(), name))
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	e.service, err = StartService(ctx, e.dir, slog.New(slog.DiscardHandler), e.args...)
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *engine) close() {
	if e.service != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := e.service.Close(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "the tests' Podman service does not end:", err)
		}
	}
	e.clear()
}

// clear removes what the engine left, also without its service.
func (e *engine) clear() {
	if p := (&Service{dir: e.dir, socket: e.dir + "/podman.sock"}).leftover(context.Background()); p != nil {
		p.stop(serviceStop)
	}
	for _, args := range [][]string{{"rm", "--all", "--force", "--time", "0"}, {"network", "prune", "--force"}} {
		cmd := exec.Command("podman", append(append([]string(nil), e.args...), args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "clearing the tests' Podman: %v: %s\n", err, out)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, e.dir+"/") {
			_ = syscall.Unmount(at, syscall.MNT_DETACH)
		}
	}
	if err := os.RemoveAll(e.dir); err != nil {
		fmt.Fprintln(os.Stderr, "clearing the tests' Podman:", err)
	}
}

func sharedEngine(t testing.TB) *engine {
	t.Helper()
	shared.once.Do(func() { shared.engine, shared.err = startEngine("s") })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.engine
}

var facts sync.Map // engine -> NodeFacts: one check is enough where a test is not about checks

// connect is a checked node of the shared engine; each call is another
// installation, whose containers are removed at the end of the test.
func connect(t testing.TB, change ...func(*Options)) *Node {
	t.Helper()
	e := sharedEngine(t)
	o := Options{Name: "n1", URL: e.service.URL(), Owner: strings.ToLower(t.Name()), DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&o)
	}
	n, err := Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := facts.Load(e); ok {
		known := f.(router.NodeFacts)
		n.facts.Store(&known)
	} else {
		f, err := n.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		facts.Store(e, f)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		list, err := n.Containers(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, c := range list {
			if err := n.remove(ctx, c.ID); err != nil {
				t.Error(err)
			}
		}
		n.removeNetwork(ctx)
		n.Close()
	})
	return n
}

var appBinary = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "fgapp")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-o", dir+"/app", "./testdata/app")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(dir + "/app")
})

// files is a context as the command line sends it.
func files(t testing.TB, entries ...any) io.Reader {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	for i := 0; i < len(entries); i += 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o755, ModTime: time.Unix(1700000000, 0)}
		var content []byte
		switch v := entries[i].(type) {
		case string:
			h.Name = v
			switch c := entries[i+1].(type) {
			case string:
				content = []byte(c)
			case []byte:
				content = c
			}
			h.Size = int64(len(content))
		case tar.Header:
			h = &v
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// appImage is the tests' app as an image on the node.
func appImage(t testing.TB, n *Node) string {
	t.Helper()
	app, err := appBinary()
	if err != nil {
		t.Fatal(err)
	}
	id, err := n.Build(t.Context(), "app", router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"},
		files(t, "Containerfile", "FROM scratch\nCOPY app /app\nVOLUME /data\nENTRYPOINT [\"/app\"]\n", "app", app), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func release(image string) router.Release {
	run := router.DefaultRun()
	run.Memory = 64 << 20
	return router.Release{App: "hello", Number: 3, Image: image, Run: run, Env: map[string]string{"GREETING": "hi"}}
}

func instance() router.Instance {
	return router.Instance{ID: router.NewInstanceID("hello", 3), App: "hello", Release: 3, Node: "n1"}
}

// running is an instance of the release that answers.
func running(t testing.TB, n *Node, rel router.Release) (router.Instance, string) {
	t.Helper()
	in := instance()
	if _, err := n.Create(t.Context(), in, rel); err != nil {
		t.Fatal(err)
	}
	addr, err := n.Start(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the app answers", func() bool { return get(addr, "/") != "" })
	return in, addr
}

var patient = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get is the body of an answer, or empty where there is none.
func get(addr, path string) string {
	resp, err := patient.Get("http://" + addr + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// eventually waits until done says so.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came that %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func wantCode(t testing.TB, err error, code router.Code) {
	t.Helper()
	if !isCode(err, code) {
		t.Fatalf("error is %v, want one with code %s", err, code)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
