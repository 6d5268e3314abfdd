package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/gateway/api/apitest"
	"github.com/fluxgate/fluxgate/router"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// result is what a command printed and its exit code.
type result struct {
	out, err string
	code     int
}

// run runs the command line in this process.
func run(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	return runUntil(t.Context(), stdin, args...)
}

func runUntil(ctx context.Context, stdin string, args ...string) result {
	var out, errs bytes.Buffer
	app := App()
	app.Reader, app.Writer, app.ErrWriter = strings.NewReader(stdin), &out, &errs
	app.Metadata = map[string]any{metaNow: func() time.Time { return apitest.Created.Add(90 * time.Minute) }}
	code := Run(ctx, app, append([]string{"fluxgate"}, args...))
	return result{out.String(), errs.String(), code}
}

// gatewayRig starts a control API and makes it the current context.
func gatewayRig(t testing.TB) *apitest.Rig {
	t.Helper()
	setHome(t)
	r := apitest.Start(t)
	if err := WriteContext("local", Context{URL: r.URL, Token: r.Token.Reveal()}); err != nil {
		t.Fatal(err)
	}
	return r
}

func setHome(t testing.TB) {
	t.Helper()
	home := t.TempDir()
	for name, value := range map[string]string{"HOME": home, "XDG_CONFIG_HOME": filepath.Join(home, "config"), "XDG_DATA_HOME": filepath.Join(home, "data"), "FLUXGATE_CONTEXT": "", "FLUXGATE_TOKEN": ""} {
		if tt, ok := t.(interface{ Setenv(string, string) }); ok {
			tt.Setenv(name, value)
		}
	}
}

// golden compares text with testdata/golden/name.
func golden(t testing.TB, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run with -update", err)
	}
	if string(want) != text {
		t.Errorf("%s is otherwise:\n%s\nwant:\n%s", name, text, want)
	}
}

// example fills a gateway with one of everything.
func example(t testing.TB) *apitest.Rig {
	t.Helper()
	r := gatewayRig(t)
	at := apitest.Created
	r.Deployed(t, "hello")
	r.Update(t, "hello", func(st *router.AppState) {
		st.App.Domains = []string{"www.example.com"}
		st.App.Current = st.AddRelease(router.Release{
			Image: "sha256:0002", Source: router.Source{Kind: router.SourceStatic, Path: "."}, Run: router.DefaultRun(),
			Env: map[string]string{"GREETING": "hi there"}, Secrets: map[string]router.Secret{"KEY": router.NewSecret("hunter2")},
			Digest: "sha256:2", By: "ci", Note: "env set KEY", Created: at.Add(time.Hour),
		})
		st.App.Secrets = map[string]router.Secret{"KEY": router.NewSecret("hunter2")}
		for _, in := range []router.Instance{
			{ID: "hello-1-00000001", Release: 1, State: router.Frozen, Addr: "10.88.0.2:8080"},
			{ID: "hello-2-00000002", Release: 2, State: router.Ready, Addr: "10.88.0.3:8080"},
			{ID: "hello-2-00000003", Release: 2, State: router.Starting, Claim: router.Claim{Holder: "gw", Op: "create"}},
			{ID: "hello-2-00000004", Release: 2, State: router.Failed, ExitCode: 137, Reason: "killed:\x1b[31m out of memory"},
		} {
			in.App, in.Node, in.Since = "hello", "local", at.Add(time.Hour)
			st.PutInstance(in)
		}
	})
	r.Update(t, "empty", func(st *router.AppState) {
		st.App.Owner, st.App.Created, st.App.Policy = "admin", at, router.DefaultPolicy()
	})
	r.Engine.Lines = []router.LogLine{
		{At: at, Instance: "hello-1-00000001", Stream: "stdout", Text: "listening"},
		{At: at.Add(time.Second), Instance: "hello-2-00000002", Stream: "stderr", Text: "warning\r"},
	}
	for _, e := range []router.Event{
		{Kind: "wake", Text: "woke from frozen", Fields: map[string]string{"instance": "hello-2-00000002"}, Phases: []router.Phase{{Name: "claim", Took: 900e3}, {Name: "thaw", Took: 7400e3}, {Name: "probe", Took: 1200e6}}},
		{Kind: "decision", Text: "from 1 to 2:\x1b[31m 410 requests/s, 200 each", Decision: &router.Decision{
			Had: 1, Desired: 2, Rule: "rate",
			Votes:   []router.Vote{{Rule: "rate", Count: 2, Reason: "410 requests/s"}, {Rule: "min", Count: 1, Reason: "min is 1\x1b[31m"}},
			Signals: []router.Signal{{Name: "rate", Value: 410, Unit: "requests/s", Window: router.Duration(6 * time.Second)}, {Name: "load", Value: 16.4}},
		}},
	} {
		e.At = time.Now() // the store forgets what is old
		if err := r.Store.Record(t.Context(), "hello", e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Store.PutUsage(t.Context(), "local", router.NodeUsage{By: "gw", Instances: map[string]router.Usage{
		"hello-1-00000001": {At: at, Memory: 9 << 20, MemoryLimit: 512 << 20},
		"hello-2-00000002": {At: at, CPU: 0.99, CPULimit: 1, Memory: 40 << 20, MemoryLimit: 512 << 20},
	}}); err != nil {
		t.Fatal(err)
	}
	r.Engine.Checks = append(r.Engine.Checks, api.Check{Name: "node local", Status: api.CheckWarning, Detail: "no freezer", Remedy: "use cgroups v2"})
	return r
}

// unstable is what differs from run to run.
var unstable = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"id": "[0-9a-f]{12}"`), `"id": "0123456789ab"`},
	{regexp.MustCompile(`(?m)^[0-9a-f]{12} `), `0123456789ab `},
	{regexp.MustCompile(`"ms": [0-9.]+`), `"ms": 1`},
	{regexp.MustCompile(`"at": "2[^"]+"`), `"at": "2026-01-02T03:04:05Z"`},
	{regexp.MustCompile(`"go": "[^"]+"`), `"go": "go1"`},
	{regexp.MustCompile(`"platform": "[^"]+"`), `"platform": "linux/amd64"`},
	{regexp.MustCompile(`"version": "[^"]+"`), `"version": "v0"`},
}

func stable(text string) string {
	for _, u := range unstable {
		text = u.re.ReplaceAllString(text, u.with)
	}
	return text
}

func TestListings(t *testing.T) {
	t.Setenv("TZ", "UTC")
	time.Local = time.UTC
	example(t)
	for name, line := range map[string]string{
		"apps": "apps", "ps": "ps", "ps-app": "ps hello", "ps-none": "ps empty", "releases": "releases hello", "env": "env hello",
		"domains": "domains hello", "policy": "policy hello", "why": "why hello", "token-ls": "token ls", "doctor": "doctor",
		"logs": "logs hello", "open": "open hello",
	} {
		t.Run(name, func(t *testing.T) {
			for ending, flags := range map[string][]string{".txt": nil, ".json": {"--json"}} {
				got := run(t, "", append(strings.Fields(line), flags...)...)
				if got.code != 0 || got.err != "" {
					t.Fatalf("%+v", got)
				}
				if strings.Contains(got.out, "hunter2") || strings.Contains(got.out, "\x1b") {
					t.Errorf("shows a secret or steers the terminal: %q", got.out)
				}
				if ending == ".json" && name != "logs" && !json.Valid([]byte(got.out)) {
					t.Errorf("not JSON: %s", got.out)
				}
				golden(t, name+ending, stable(got.out))
			}
		})
	}
}

func TestVersion(t *testing.T) {
	setHome(t)
	if got := run(t, "", "version"); got.code != 0 || !strings.HasPrefix(got.out, "fluxgate "+Version) || strings.Contains(got.out, "gateway") {
		t.Errorf("%+v", got)
	}
	gatewayRig(t)
	got := run(t, "", "version", "--json")
	golden(t, "version.json", stable(got.out))
}

func TestWrongUsage(t *testing.T) {
	setHome(t)
	for line, say := range map[string]string{
		"nonsense":             `no command "nonsense"`,
		"app":                  "did you mean apps?",
		"--nonsense":           "there is no flag -nonsense",
		"apps --nonsense":      "there is no flag -nonsense",
		"apps extra":           `"extra" is an argument too many`,
		"logs":                 "logs needs an argument more",
		"logs a b":             `"b" is an argument too many`,
		"logs a -n":            "-n needs a value",
		"logs a -n many":       "invalid value",
		"logs a -n -1":         "negative",
		"logs a --since never": "not a duration",
		"why a -n 0":           "from 1 to 500",
		"why a --at noonish":   "is not a time",
		"rollback a latest":    "not a release",
		"rollback a v0":        "not a release",
		"env a get":            "env has no",
		"env a set":            "needs an argument more",
		"env a set A=1 B":      "is not NAME=VALUE",
		"env a set A=1 A=2":    "A is given twice",
		"policy a set max":     "not KEY=VALUE",
		"domains a add":        "needs an argument more",
		"token":                "say what to do",
		"token forge":          "no \"forge\"",
		"token create":         "needs an argument more",
		"token ls x":           "too many",
		"login":                "needs an argument more",
		"login fluxgate.test":  "not an address",
		"push a b":             "too many",
		"rm":                   "needs an argument more",
		"open":                 "needs an argument more",
		"doctor now":           "too many",
		"--context":            "--context needs a value",
	} {
		t.Run(line, func(t *testing.T) {
			got := run(t, "", strings.Fields(line)...)
			if got.code != 2 || !strings.Contains(got.err, say) || !strings.Contains(got.err, "usage: fluxgate") || got.out != "" {
				t.Errorf("%+v does not say %q", got, say)
			}
		})
	}
	if got := run(t, "", "env", "a", "set", "A=hunter2", "=hunter3", "hunter4"); strings.Contains(got.err, "hunter") {
		t.Errorf("a wrong call repeats a secret: %s", got.err)
	}
}

func TestHelp(t *testing.T) {
	setHome(t)
	for _, line := range []string{"", "help", "--help", "-h", "help push", "push --help", "token --help", "token create -h"} {
		if got := run(t, "", strings.Fields(line)...); got.code != 0 || !strings.Contains(got.out, "USAGE") {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestErrors(t *testing.T) {
	r := example(t)
	t.Run("plain", func(t *testing.T) {
		got := run(t, "", "policy", "hello", "set", "max=0", "min=x", "colour=1")
		if got.code != 1 || got.out != "" {
			t.Errorf("%+v", got)
		}
		for _, say := range []string{"max = 0", "min = x", "colour"} {
			if !strings.Contains(got.err, say) {
				t.Errorf("%q is missing: %s", say, got.err)
			}
		}
	})
	t.Run("JSON", func(t *testing.T) {
		got := run(t, "", "policy", "hello", "set", "max=0", "--json")
		var p api.Problem
		if err := json.Unmarshal([]byte(got.err), &p); err != nil || got.code != 1 || got.out != "" || p.Code != router.CodeInvalid || len(p.Errors) != 1 || p.Status != 422 {
			t.Errorf("%v: %+v", err, got)
		}
	})
	t.Run("unknown app", func(t *testing.T) {
		for _, line := range []string{"ps nobody", "releases nobody", "open nobody", "logs nobody", "rm nobody --yes", "rollback nobody", "env nobody unset A"} {
			if got := run(t, "", strings.Fields(line)...); got.code != 1 || !strings.Contains(got.err, "nobody") {
				t.Errorf("%s: %+v", line, got)
			}
		}
	})
	t.Run("bad name", func(t *testing.T) {
		if got := run(t, "", "ps", "../x"); got.code != 1 || !strings.Contains(got.err, "1 to 40") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("unknown context", func(t *testing.T) {
		if got := run(t, "", "apps", "--context", "prod"); got.code != 1 || !strings.Contains(got.err, "known: local") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("no context", func(t *testing.T) {
		setHome(t)
		if got := run(t, "", "apps"); got.code != 1 || !strings.Contains(got.err, "fluxgate up") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("broken contexts", func(t *testing.T) {
		setHome(t)
		path, err := contextsPath()
		if err != nil || os.MkdirAll(filepath.Dir(path), 0o700) != nil || os.WriteFile(path, []byte("{"), 0o600) != nil {
			t.Fatal(err)
		}
		if got := run(t, "", "apps"); got.code != 1 || !strings.Contains(got.err, path) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("failed check", func(t *testing.T) {
		r.Engine.Checks = []api.Check{{Name: "redis", Status: api.CheckFailed, Detail: "gone"}}
		if got := run(t, "", "doctor", "--json"); got.code != 1 || !strings.Contains(got.out, `"ok": false`) || got.err != "" {
			t.Errorf("%+v", got)
		}
	})
}

func TestChanges(t *testing.T) {
	r := example(t)
	do := func(stdin string, args ...string) result {
		t.Helper()
		got := run(t, stdin, args...)
		if got.code != 0 {
			t.Fatalf("%q: %+v", args, got)
		}
		return got
	}
	do("", "policy", "hello", "set", "max=4", "min=1")
	if p := r.Load(t, "hello").App.Policy; p.Max != 4 || p.Min != 1 {
		t.Errorf("policy %+v", p)
	}
	do("", "domains", "hello", "add", "a.example.com", "b.example.com")
	do("", "domains", "hello", "rm", "www.example.com")
	if d := r.Load(t, "hello").App.Domains; strings.Join(d, " ") != "a.example.com b.example.com" {
		t.Errorf("domains %v", d)
	}
	got := do("", "env", "hello", "set", "A=1=2", "B=", "--json")
	golden(t, "env-set.json", stable(got.out))
	if got.err != "" {
		t.Errorf("progress beside JSON: %s", got.err)
	}
	do("from stdin\n", "env", "hello", "set", "C")
	s := r.Load(t, "hello").App.Secrets
	if s["A"].Reveal() != "1=2" || len(s) != 4 || s["C"].Reveal() != "from stdin" || s["KEY"].Reveal() != "hunter2" {
		t.Errorf("secrets %v", s)
	}
	if got := do("", "env", "hello", "unset", "A", "B"); !strings.Contains(got.out, "hello v5 serves after") || !strings.Contains(got.err, "probe") {
		t.Errorf("%+v", got)
	}
	if got := do("", "rollback", "hello", "v2"); !strings.Contains(got.out, "hello v2 serves after") {
		t.Errorf("%+v", got)
	}
	do("", "rollback", "hello")
	if n := r.Load(t, "hello").App.Current; n != 1 {
		t.Errorf("v%d serves", n)
	}
	if got := run(t, "y\n", "rm", "hello"); got.code != 1 || !strings.Contains(got.err, "--yes") {
		t.Errorf("removed without a terminal: %+v", got)
	}
	do("", "rm", "hello", "-y")
	if _, ok := r.Catalog.Get("hello"); ok {
		t.Error("hello is still there")
	}
}

func TestLogsFollow(t *testing.T) {
	example(t)
	ctx, cancel := context.WithCancel(t.Context())
	app := App()
	read, write := io.Pipe()
	app.Writer, app.ErrWriter = write, io.Discard
	code := make(chan int, 1)
	go func() { code <- Run(ctx, app, []string{"fluxgate", "logs", "hello", "-f", "-n", "1", "--json"}) }()
	var line router.LogLine
	if err := json.NewDecoder(read).Decode(&line); err != nil || line.Text != "warning\r" {
		t.Errorf("%+v, %v", line, err)
	}
	cancel()
	if c := <-code; c != 0 {
		t.Errorf("^C ended following with %d", c)
	}
}

func TestTokenAndLogin(t *testing.T) {
	r := gatewayRig(t)
	made := run(t, "", "token", "create", "ci")
	text := strings.TrimSpace(made.out)
	if made.code != 0 || !strings.HasPrefix(text, "fgt_") || !strings.Contains(made.err, "cannot be shown again") {
		t.Fatalf("%+v", made)
	}
	id, _ := router.TokenID(text)
	t.Run("login", func(t *testing.T) {
		setHome(t)
		got := run(t, text+"\n", "login", r.URL, "--name", "far")
		if got.code != 0 || !strings.Contains(got.out, "with the token ci") {
			t.Fatalf("%+v", got)
		}
		path, err := contextsPath()
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the contexts can be read by others: %v, %v", info.Mode(), err)
		}
		if got := run(t, "", "apps", "--json"); got.code != 0 || strings.TrimSpace(got.out) != "[]" {
			t.Errorf("%+v", got)
		}
		// up's own context must not take over.
		if err := WriteContext("local", Context{URL: "https://fluxgate.localhost:1", Token: "x"}); err != nil {
			t.Fatal(err)
		}
		if got := run(t, "", "apps"); got.code != 0 {
			t.Errorf("%+v", got)
		}
		if got := run(t, "", "apps", "--context", "local"); got.code != 1 || !strings.Contains(got.err, "fluxgate up") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a wrong token is not kept", func(t *testing.T) {
		setHome(t)
		got := run(t, "", "login", r.URL, "--token", "fgt_0123456789ab_wrong")
		if got.code != 1 || strings.Contains(got.err, "wrong") && strings.Contains(got.err, "fgt_0") {
			t.Errorf("%+v", got)
		}
		if got := run(t, "", "apps"); !strings.Contains(got.err, "no gateway is known") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("rm", func(t *testing.T) {
		if got := run(t, "", "token", "rm", id); got.code != 0 {
			t.Errorf("%+v", got)
		}
		if got := run(t, "", "token", "rm", id); got.code != 1 {
			t.Errorf("removed twice: %+v", got)
		}
		admin, _ := router.TokenID(r.Token.Reveal())
		if got := run(t, "", "token", "rm", admin, "--force"); got.code != 1 || !strings.Contains(got.err, "last token") {
			t.Errorf("%+v", got)
		}
	})
}

func TestPushCommand(t *testing.T) {
	r := gatewayRig(t)
	r.Engine.Output = "STEP 1/1: FROM scratch\n\x1b[2Jmore\n"
	root := tree(t, map[string]string{"Containerfile": "FROM scratch", "main.go": "m", "fluxgate.toml": "name = \"hello\"\n"})
	got := run(t, "", "push", root)
	if got.code != 0 || !strings.HasPrefix(got.out, "https://hello.localhost:8443\nhello v1 serves after ") {
		t.Fatalf("%+v", got)
	}
	for _, say := range []string{"upload", "STEP 1/1", "start", "probe"} {
		if !strings.Contains(got.err, say) {
			t.Errorf("the progress does not show %s: %s", say, got.err)
		}
	}
	if strings.Contains(got.err, "\x1b") {
		t.Error("the build steers the terminal")
	}
	for _, step := range []string{"upload", "build", "start", "probe"} {
		if !strings.Contains(got.out, step+" ") {
			t.Errorf("the seconds of %s are missing: %s", step, got.out)
		}
	}
	if got := run(t, "", "push", root); got.code != 0 || got.out != "https://hello.localhost:8443\nnothing changed: hello v1 serves\n" || got.err != "" {
		t.Errorf("%+v", got)
	}
	if got := run(t, "", "push", root, "--force", "--json"); got.code != 0 || got.err != "" {
		t.Errorf("%+v", got)
	} else {
		golden(t, "push.json", stable(got.out))
	}
	if err := os.WriteFile(filepath.Join(root, "fluxgate.toml"), []byte("name = \"hello\"\n[scale]\nmax = 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "", "push", root); got.code != 0 || !strings.Contains(got.out, "serves as before, with new settings") {
		t.Errorf("%+v", got)
	}
	if got := run(t, "", "push", root, "--name", "second"); got.code != 0 || !strings.Contains(got.out, "second v1 serves") {
		t.Errorf("%+v", got)
	}
	if got := run(t, "", "push", "--image", "docker.io/library/nginx:1", root, "--name", "web"); got.code != 0 || !strings.Contains(got.out, "web v1 serves") {
		t.Errorf("%+v", got)
	}
	site := tree(t, map[string]string{"My Site/index.html": "<p>", "My Site/.git/x": ""})
	t.Chdir(filepath.Join(site, "My Site"))
	if got := run(t, "", "push"); got.code != 0 || !strings.Contains(got.out, "my-site v1 serves") {
		t.Errorf("%+v", got)
	}
	builds := r.Engine.Builds()
	if last := builds[len(builds)-1]; last.Source != (router.Source{Kind: router.SourceStatic, Path: "."}) || len(last.Context) == 0 {
		t.Errorf("%+v", last.Source)
	}
}

func TestPushCommandRefuses(t *testing.T) {
	r := gatewayRig(t)
	r.Deployed(t, "other")
	r.Update(t, "other", func(st *router.AppState) { st.App.Domains = []string{"taken.example.com"} })
	tests := map[string]struct {
		files map[string]string
		args  []string
		say   []string
	}{
		"all that is wrong at once": {
			map[string]string{"Containerfile": "", "fluxgate.toml": "name = \"hello\"\ncolour = 1\ndomains = [\"taken.example.com\"]\n[http]\nport = 0\n"},
			nil,
			[]string{"colour", "http.port", "domains[0]", "belongs to the app other"},
		},
		"not TOML":              {map[string]string{"Containerfile": "", "fluxgate.toml": "name = "}, nil, []string{"line 1"}},
		"nothing to build":      {map[string]string{"main.go": ""}, nil, []string{"Containerfile", "index.html", "--image"}},
		"absent Containerfile":  {map[string]string{"fluxgate.toml": "[build]\ncontainerfile = \"Prod\"\n"}, nil, []string{"build.containerfile", "Prod"}},
		"a site that is a file": {map[string]string{"fluxgate.toml": "[build]\nstatic = \"x\"\n", "x": ""}, nil, []string{"build.static"}},
		"bad name":              {map[string]string{"Containerfile": ""}, []string{"--name", "Hello!"}, []string{"1 to 40"}},
		"reserved name":         {map[string]string{"Containerfile": ""}, []string{"--name", "fluxgate"}, []string{"the platform's own"}},
		"absent manifest":       {map[string]string{"Containerfile": ""}, []string{"--file", "/nowhere.toml"}, []string{"/nowhere.toml"}},
		"failing build":         {map[string]string{"Containerfile": "", "fluxgate.toml": "name = \"hello\"\n"}, nil, []string{"STEP 2/3", "exit status 1"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r.Engine.BuildErr = nil
			if name == "failing build" {
				r.Engine.BuildErr = router.Errorf(router.CodeFailed, "STEP 2/3: RUN make: exit status 1")
			}
			got := run(t, "", append([]string{"push", tree(t, test.files)}, test.args...)...)
			if got.code != 1 || got.out != "" {
				t.Errorf("%+v", got)
			}
			for _, say := range test.say {
				if !strings.Contains(got.err, say) {
					t.Errorf("does not say %q: %s", say, got.err)
				}
			}
		})
	}
	if got := run(t, "", "push", filepath.Join(t.TempDir(), "no")); got.code != 1 || !strings.Contains(got.err, "no folder") {
		t.Errorf("%+v", got)
	}
	if _, ok := r.Catalog.Get("hello"); ok {
		t.Error("an app was made")
	}
}

func TestInterrupted(t *testing.T) {
	gatewayRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := runUntil(ctx, "", "apps"); got.code != 1 || !strings.Contains(got.err, "interrupted") {
		t.Errorf("%+v", got)
	}
}

func TestForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1 << 10: "1 KB", 3000012: "2.9 MB", 3 << 29: "1.5 GB"} {
		if got := amount(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{900 * time.Microsecond: "0.9ms", 231 * time.Millisecond: "231ms", 1200 * time.Millisecond: "1.2s", 71 * time.Second: "1m11s"} {
		if got := seconds(d); got != want {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
}
