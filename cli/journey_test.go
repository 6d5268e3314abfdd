package cli_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// quickSleep makes an app go down the ladder while a test watches.
const quickSleep = "[scale]\nfreeze_after = \"1s\"\nstop_after = \"4s\"\nremove_after = \"8s\"\n"

// TestLadder walks an app down every rung and wakes it from each.
func TestLadder(t *testing.T) {
	m := upMachine(t)
	m.push("ladder", "[env]\nGREETING = \"hi\"\n"+quickSleep)
	client := m.client()
	if a := m.get(client, "ladder", "/"); !strings.HasPrefix(a.body, "hi ") || a.header.Get("X-Request-Id") == "" {
		t.Errorf("%q, %v", a.body, a.header)
	}
	boot := func(a answer) string { return strings.Fields(a.body)[2] }
	first := m.get(client, "ladder", "/")

	m.awaitState("ladder", "frozen")
	thawed := m.get(client, "ladder", "/")
	if boot(thawed) != boot(first) {
		t.Error("a thaw must keep the process")
	}
	wantTiming(t, thawed, "queue", "claim", "thaw", "probe", "upstream")

	m.awaitState("ladder", "stopped")
	before := containers(t, "ladder")
	started := m.get(client, "ladder", "/")
	wantTiming(t, started, "queue", "claim", "start", "probe", "upstream")
	if after := containers(t, "ladder"); len(after) != 1 || !sameIDs(before, after) || boot(started) == boot(first) {
		t.Errorf("a start must keep the container (%v, %v) and begin a new process", before, after)
	}

	m.awaitState("ladder")
	if left := containers(t, "ladder"); len(left) != 0 {
		t.Errorf("absent, but Podman has %v", left)
	}
	wantTiming(t, m.get(client, "ladder", "/"), "queue", "claim", "create", "start", "probe", "upstream")

	why := m.run("why", "ladder")
	for _, want := range []string{"frozen", "stopped", "absent", "thaw", "no request for"} {
		if !strings.Contains(why, want) {
			t.Errorf("why lacks %q:\n%s", want, why)
		}
	}
	if a := m.get(client, "ladder", "/"); a.header.Get("Server-Timing") != "" {
		t.Error("an answer that woke nothing carries wake phases")
	}
}

func wantTiming(t *testing.T, a answer, phases ...string) {
	t.Helper()
	got := a.header.Get("Server-Timing")
	for _, p := range phases {
		if !strings.Contains(got, p+";dur=") {
			t.Errorf("Server-Timing %q lacks %s", got, p)
		}
	}
}

func sameIDs(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// TestReleases goes through push, push again, a changed push, rollback, env,
// domains, policy, logs and rm.
func TestReleases(t *testing.T) {
	m := upMachine(t)
	out := m.push("rel", "[env]\nGREETING = \"one\"\n")
	for _, want := range []string{"https://rel.localhost:" + m.port, "v1", "build", "start"} {
		if !strings.Contains(out, want) {
			t.Errorf("push does not say %q:\n%s", want, out)
		}
	}
	client := m.client()
	if out := m.push("rel", "[env]\nGREETING = \"one\"\n"); !strings.Contains(out, "unchanged") && !strings.Contains(out, "nothing changed") || strings.Contains(out, "v2") {
		t.Errorf("pushing the same again:\n%s", out)
	}
	m.push("rel", "[env]\nGREETING = \"two\"\n")
	if a := m.get(client, "rel", "/"); !strings.HasPrefix(a.body, "two ") {
		t.Errorf("after v2: %q", a.body)
	}
	m.run("rollback", "rel")
	if a := m.get(client, "rel", "/"); !strings.HasPrefix(a.body, "one ") {
		t.Errorf("after the rollback: %q", a.body)
	}
	if out := m.run("releases", "rel"); !strings.Contains(out, "v1") || !strings.Contains(out, "v2") {
		t.Errorf("releases:\n%s", out)
	}

	m.run("env", "rel", "set", "API_KEY=s3cr3t-value")
	if a := m.get(client, "rel", "/env?name=API_KEY"); strings.TrimSpace(a.body) != "s3cr3t-value" {
		t.Errorf("the app sees %q", a.body)
	}
	for _, cmd := range [][]string{{"env", "rel"}, {"env", "rel", "--json"}, {"releases", "rel", "--json"}, {"why", "rel", "--json"}, {"ps", "rel", "--json"}, {"apps", "--json"}} {
		if out := m.run(cmd...); strings.Contains(out, "s3cr3t-value") {
			t.Errorf("%v shows a secret:\n%s", cmd, out)
		}
	}
	if strings.Contains(m.out.String(), "s3cr3t-value") {
		t.Error("the log shows a secret")
	}
	m.run("env", "rel", "unset", "API_KEY")
	if a := m.get(client, "rel", "/env?name=API_KEY"); strings.TrimSpace(a.body) != "" {
		t.Errorf("after unset the app sees %q", a.body)
	}

	m.run("domains", "rel", "add", "www.rel.test")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://www.rel.test:"+m.port+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("www.rel.test: %d", resp.StatusCode)
	}

	if out, code := m.try("policy", "rel", "set", "min=5", "max=2", "target_rps=0", "colour=red"); code != 1 ||
		!strings.Contains(out, "max") || !strings.Contains(out, "target_rps") || !strings.Contains(out, "colour") {
		t.Errorf("a bad policy (%d) must be refused with all reasons:\n%s", code, out)
	}

	m.get(client, "rel", "/say?text=line-from-the-app")
	if out := m.run("logs", "rel"); !strings.Contains(out, "line-from-the-app") {
		t.Errorf("logs:\n%s", out)
	}
	m.run("rm", "--yes", "rel")
	if left := containers(t, "rel"); len(left) != 0 {
		t.Errorf("after rm Podman has %v", left)
	}
	if a, err := fetch(client, m.app("rel", "/")); err == nil && a.status != http.StatusNotFound {
		t.Errorf("after rm: %d", a.status)
	}
}

// TestLogsOfTheGone reads what a container wrote that has been removed since.
func TestLogsOfTheGone(t *testing.T) {
	m := upMachine(t)
	m.push("gone", "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n")
	m.get(m.client(), "gone", "/say?text=last-words")
	m.awaitState("gone")
	if out := m.run("logs", "gone"); !strings.Contains(out, "last-words") {
		t.Errorf("logs of a removed container:\n%s", out)
	}
}

// TestStaticSite pushes a folder with index.html and nothing else.
func TestStaticSite(t *testing.T) {
	m := upMachine(t)
	dir := m.folder("shop", map[string]string{
		"index.html": "<h1>Shop</h1>", "a/page.html": strings.Repeat("words and words ", 500), ".secret": "no",
		".containerignore": "drafts\n", "drafts/x.html": "no",
	})
	m.run("push", dir)
	client := m.client()
	a := m.get(client, "shop", "/")
	if a.body != "<h1>Shop</h1>" || a.header.Get("Etag") == "" {
		t.Errorf("%q, %v", a.body, a.header)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, m.app("shop", "/a/page.html"), nil)
	req.Header.Set("Range", "bytes=0-4")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	part, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent || string(part) != "words" {
		t.Errorf("range: %d %q", resp.StatusCode, part)
	}
	for _, path := range []string{"/.secret", "/drafts/x.html", "/nothing"} {
		if a, err := fetch(client, m.app("shop", path)); err != nil || a.status != http.StatusNotFound {
			t.Errorf("%s: %d, %v", path, a.status, err)
		}
	}
}

// TestImage pushes a reference to an image that the node has.
func TestImage(t *testing.T) {
	m := upMachine(t)
	dir := m.appFolder("img", "")
	args := append(podmanCmd[1:], "build", "--quiet", "--tag", "localhost/img:1", dir)
	if out, err := exec.Command(podmanCmd[0], args...).CombinedOutput(); err != nil {
		t.Fatalf("podman build: %v\n%s", err, out)
	}
	m.run("push", "--image", "localhost/img:1", "--name", "img")
	m.get(m.client(), "img", "/")
	if out, code := m.try("push", "--image", "localhost/no-such-image:1", "--name", "img"); code != 1 || !strings.Contains(out, "no-such-image") {
		t.Errorf("a missing image (%d):\n%s", code, out)
	}
}

// TestExamples pushes what the repository shows to users.
func TestExamples(t *testing.T) {
	m := upMachine(t)
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(repo, "examples/hello/hello")); err != nil {
		build := exec.Command("go", "build", "-o", "hello", ".")
		build.Dir = filepath.Join(repo, "examples/hello")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, name := range []string{"hello", "site"} {
		m.run("push", filepath.Join(repo, "examples", name))
		m.get(m.client(), name, "/")
	}
}

// TestFailedPushes shows that each way to fail leaves what served before.
func TestFailedPushes(t *testing.T) {
	m := upMachine(t)
	quick := "[scale]\nwake_deadline = \"3s\"\n"
	m.push("frail", "[env]\nGREETING = \"good\"\n"+quick)
	client := m.client()
	tests := map[string]struct {
		manifest string
		says     []string
	}{
		"exits at once":       {"[env]\nMODE = \"exit\"\n" + quick, []string{"cannot find my configuration", "code 3", "v1 goes on serving"}},
		"listens elsewhere":   {"[env]\nMODE = \"other-port\"\n" + quick, []string{"port 8080", "listening on 3999", "v1 goes on serving"}},
		"never gets healthy":  {"[http]\nhealth = \"/healthz\"\n[env]\nMODE = \"unhealthy\"\n" + quick, []string{"/healthz", "500", "v1 goes on serving"}},
		"all manifest errors": {"prot = 1\n[http]\nport = 99999\n[scale]\nmin = -1\nmaxx = 3\n[resources]\nmemory = \"much\"\n", []string{"prot", "http.port", "scale.min", "scale.maxx", "resources.memory"}},
		"a manifest not TOML": {"[http\n", []string{"line 2"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out, code := m.try("push", m.appFolder("frail", tt.manifest))
			if code != 1 {
				t.Errorf("exit code %d", code)
			}
			for _, want := range tt.says {
				if !strings.Contains(out, want) {
					t.Errorf("it does not say %q:\n%s", want, out)
				}
			}
			if a := m.get(client, "frail", "/"); !strings.HasPrefix(a.body, "good ") {
				t.Errorf("now serves %q", a.body)
			}
		})
	}
	t.Run("a build step that fails", func(t *testing.T) {
		dir := m.appFolder("frail", quick)
		if err := os.WriteFile(filepath.Join(dir, "Containerfile"), []byte("FROM scratch\nCOPY app /app\nCOPY missing /x\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		out, code := m.try("push", dir)
		if code != 1 || !strings.Contains(out, "COPY missing /x") {
			t.Errorf("exit code %d:\n%s", code, out)
		}
		m.get(client, "frail", "/")
	})
	t.Run("a first push leaves no app", func(t *testing.T) {
		m.try("push", m.appFolder("stillborn", "[env]\nMODE = \"exit\"\n"+quick))
		if got := strings.Join(m.apps(), " "); got != "frail" {
			t.Errorf("apps: %s", got)
		}
		if left := containers(t, "stillborn"); len(left) != 0 {
			t.Errorf("Podman has %v", left)
		}
	})
}

// TestStreams sends and gets more than any buffer holds.
func TestStreams(t *testing.T) {
	m := upMachine(t)
	m.push("echo", "")
	payload := make([]byte, 20<<20)
	_, _ = rand.Read(payload)
	resp, err := m.client().Post(m.app("echo", "/echo"), "application/octet-stream", bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(payload), err)
	}
}

// TestForwardedHeaders shows what an app is told of its client.
func TestForwardedHeaders(t *testing.T) {
	m := upMachine(t)
	m.push("fwd", "")
	client := m.client()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, m.app("fwd", "/headers"), nil)
	req.Header.Set("X-Forwarded-For", "6.6.6.6")
	req.Header.Set("X-Forwarded-Proto", "gopher")
	req.Header.Set("Connection", "X-Hop")
	req.Header.Set("X-Hop", "secret")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	for _, want := range []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: fwd.localhost", "X-Request-Id: " + resp.Header.Get("X-Request-Id")} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the app does not see %q:\n%s", want, body)
		}
	}
	for _, not := range []string{"6.6.6.6", "gopher", "X-Hop"} {
		if strings.Contains(string(body), not) {
			t.Errorf("the app sees %q:\n%s", not, body)
		}
	}
}

// TestRedirectAndUnknownHosts goes to the doors that lead nowhere.
func TestRedirectAndUnknownHosts(t *testing.T) {
	m := upMachine(t)
	m.push("door", "")
	plain := func(host, path string) *http.Response {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.http+path, nil)
		req.Host = host
		resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp
	}
	if r := plain("door.localhost", "/a?b=c"); r.StatusCode != http.StatusPermanentRedirect || r.Header.Get("Location") != m.app("door", "/a?b=c") {
		t.Errorf("redirect: %d to %s", r.StatusCode, r.Header.Get("Location"))
	}
	if r := plain("nobody.localhost", "/"); r.StatusCode != http.StatusNotFound {
		t.Errorf("unknown host over HTTP: %d", r.StatusCode)
	}
	if _, err := fetch(m.client(), m.app("nobody", "/")); err == nil {
		t.Error("an unknown host got a certificate")
	}
}
