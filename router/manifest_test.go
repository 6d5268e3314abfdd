package router

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// fields are the fields of an error's violations.
func fields(t testing.TB, err error) []string {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeInvalid {
		t.Fatalf("not a CodeInvalid error: %v", err)
	}
	var list []string
	for _, v := range e.Violations {
		if v.Limit == "" || v.Remedy == "" {
			t.Errorf("%+v does not say what to do", v)
		}
		list = append(list, v.Field)
	}
	return list
}

func TestParseManifest(t *testing.T) {
	m, err := ParseManifest([]byte(`
name = "hello"
domains = ["Hello.Example.com.", "bücher.example.com"]
command = ["/server", "-v"]
[build]
containerfile = "./build//Containerfile"
[http]
port = 9000
health = "/healthz?deep=1"
timeout = "2m"
sticky = true
[scale]
min = 1
max = 20
target_rps = 12.5
freeze_after = "never"
stop_after = "never"
remove_after = "never"
[resources]
cpu = 2
memory = "256MB"
[placement]
nodes = ["n1", "n2"]
require = { zone = "a", disk = "ssd" }
spread = "rack"
apart = ["noisy"]
[env]
GREETING = "hi"
N = 7
F = 1.5
B = true
EMPTY = ""
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{
		Name: "hello", Domains: []string{"hello.example.com", "xn--bcher-kva.example.com"},
		Source: Source{SourceContainerfile, "build/Containerfile"},
		Run: Run{
			Command: []string{"/server", "-v"}, Port: 9000, Health: "/healthz?deep=1", Sticky: true, Timeout: Duration(2 * time.Minute), CPU: 2, Memory: 256 << 20, Reserve: 256 << 20,
			Placement: Placement{Nodes: []string{"n1", "n2"}, Require: map[string]string{"zone": "a", "disk": "ssd"}, Spread: "rack", Apart: []string{"noisy"}},
		},
		Scale: map[string]string{"min": "1", "max": "20", "target_rps": "12.5", "freeze_after": "never", "stop_after": "never", "remove_after": "never"},
		Env:   map[string]string{"GREETING": "hi", "N": "7", "F": "1.5", "B": "true", "EMPTY": ""},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
}

func TestParseManifestDefaults(t *testing.T) {
	m, err := ParseManifest(nil)
	if err != nil || m.Name != "" || m.Domains != nil || m.Source != (Source{}) || !reflect.DeepEqual(m.Run, DefaultRun()) || len(m.Scale)+len(m.Env) != 0 {
		t.Errorf("%+v, %v", m, err)
	}
	// An empty list takes all domains away; no list leaves them.
	if m, err := ParseManifest([]byte("domains = []")); err != nil || m.Domains == nil || len(m.Domains) != 0 {
		t.Errorf("%#v, %v", m.Domains, err)
	}
}

func TestParseManifestSources(t *testing.T) {
	for text, want := range map[string]Source{
		`static = "public/"`:                       {SourceStatic, "public"},
		`static = "."`:                             {SourceStatic, "."},
		`image = "docker.io/library/nginx:1.27"`:   {SourceImage, "docker.io/library/nginx:1.27"},
		`containerfile = "deploy/Containerfile"`:   {SourceContainerfile, "deploy/Containerfile"},
		`containerfile = "a..b/..c/Containerfile"`: {SourceContainerfile, "a..b/..c/Containerfile"},
	} {
		if m, err := ParseManifest([]byte("[build]\n" + text)); err != nil || m.Source != want {
			t.Errorf("%s: %+v, %v", text, m.Source, err)
		}
	}
}

func TestParseManifestErrors(t *testing.T) {
	tests := map[string]struct {
		text   string
		fields []string
		say    string // in the error's text
	}{
		"syntax":                   {"name = \n", []string{"fluxgate.toml line 1 column 8"}, ""},
		"a key twice":              {"name = \"a\"\nname = \"b\"", []string{"fluxgate.toml"}, ""},
		"unknown key":              {"nam = \"a\"", []string{"nam"}, "did you mean name?"},
		"unknown key far off":      {"colour = 1", []string{"colour"}, "no such key"},
		"unknown table":            {"[htpp]\nport = 1", []string{"htpp"}, "did you mean http?"},
		"unknown nested key":       {"[http]\nprot = 1", []string{"http.prot"}, "did you mean http.port?"},
		"unknown policy":           {"[scale]\nmaximum = 1\ntarget_rsp = 1", []string{"scale.maximum", "scale.target_rsp"}, "did you mean scale.target_rps?"},
		"name of a wrong type":     {"name = 7", []string{"name"}, "a string"},
		"empty name":               {"name = \"\"", []string{"name"}, ""},
		"bad name":                 {"name = \"Hello_World\"", []string{"name"}, "1 to 40"},
		"the platform's name":      {"name = \"fluxgate\"", []string{"name"}, "the platform's own"},
		"a table as a value":       {"http = 1", []string{"http"}, "a table"},
		"a value as a table":       {"[name]\nx = 1", []string{"name"}, "a string"},
		"port too high":            {"[http]\nport = 65536", []string{"http.port"}, "from 1 to 65535"},
		"port as text":             {"[http]\nport = \"80\"", []string{"http.port"}, ""},
		"health without slash":     {"[http]\nhealth = \"healthz\"", []string{"http.health"}, "starts with /"},
		"health that splits":       {"[http]\nhealth = \"/a\\r\\nX: y\"", []string{"http.health"}, ""},
		"timeout never":            {"[http]\ntimeout = \"never\"", []string{"http.timeout"}, ""},
		"timeout without unit":     {"[http]\ntimeout = 60", []string{"http.timeout"}, "write timeout"},
		"cpu of none":              {"[resources]\ncpu = 0", []string{"resources.cpu"}, ""},
		"cpu not a number":         {"[resources]\ncpu = nan", []string{"resources.cpu"}, ""},
		"a number as a label":      {"[placement]\nrequire = { zone = 1 }", []string{"placement.require"}, "labels"},
		"labels as a list":         {"[placement]\nprefer = [\"a\"]", []string{"placement.prefer"}, "a table"},
		"no nodes":                 {"[placement]\nnodes = []", []string{"placement.nodes"}, "names"},
		"spread over nothing":      {"[placement]\nspread = \"a b\"", []string{"placement.spread"}, "name of a label"},
		"a misspelt placement":     {"[placement]\nnode = [\"a\"]", []string{"placement.node"}, ""},
		"a word for sticky":        {"[http]\nsticky = \"yes\"", []string{"http.sticky"}, "true or false"},
		"too little memory":        {"[resources]\nmemory = \"1MB\"", []string{"resources.memory"}, "from 6MB"},
		"memory as a number":       {"[resources]\nmemory = 512", []string{"resources.memory"}, ""},
		"two kinds of build":       {"[build]\nstatic = \".\"\nimage = \"x\"", []string{"build"}, "one of containerfile"},
		"a path outside":           {"[build]\nstatic = \"a/../../etc\"", []string{"build.static"}, "inside the folder"},
		"an absolute path":         {"[build]\ncontainerfile = \"/etc/passwd\"", []string{"build.containerfile"}, ""},
		"an image that is a flag":  {"[build]\nimage = \"--privileged\"", []string{"build.image"}, ""},
		"domains not a list":       {"domains = \"a.example.com\"", []string{"domains"}, "a list"},
		"domains of numbers":       {"domains = [1]", []string{"domains"}, ""},
		"bad domains":              {"domains = [\"a.example.com\", \"*.example.com\", \"1.2.3.4\"]", []string{"domains[1]", "domains[2]"}, "wildcards"},
		"empty command":            {"command = []", []string{"command"}, ""},
		"min above max":            {"[scale]\nmin = 11", []string{"scale.min"}, "at most scale.max (10)"},
		"ladder out of order":      {"[scale]\nfreeze_after = \"1h\"\nstop_after = \"10m\"", []string{"scale.freeze_after"}, "scale.stop_after"},
		"policy of a wrong type":   {"[scale]\nmin = [1]\nmax = true", []string{"scale.max", "scale.min"}, ""},
		"policy that is no number": {"[scale]\ntarget_rps = nan", []string{"scale.target_rps"}, ""},
		"env PORT":                 {"[env]\nPORT = 1", []string{"env.PORT"}, "http.port"},
		"env names":                {"[env]\n\"A-B\" = 1\n\"9\" = 1\n\"\" = 1", []string{"env.", "env.9", "env.A-B"}, ""},
		"env of a wrong type":      {"[env]\nA = [1]\nB = {c = 1}\nD = \"a\\u0000b\"", []string{"env.A", "env.B", "env.D"}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseManifest([]byte(test.text))
			got := fields(t, err)
			if name == "a key twice" { // the position is the decoder's affair
				got = []string{strings.Fields(got[0])[0]}
			}
			if !slices.Equal(got, test.fields) || !strings.Contains(err.Error(), test.say) {
				t.Errorf("%q: %v", got, err)
			}
		})
	}
}

func TestParseManifestTellsEverythingAtOnce(t *testing.T) {
	_, err := ParseManifest([]byte("name = \"X\"\ncolour = 1\ndomains = [\"no host\"]\n[build]\nimage = 1\n[http]\nport = 0\ntimeout = \"x\"\n[scale]\nmin = 5\nmax = 2\nfoo = 1\n[resources]\ncpu = -1\n[env]\nPORT = 1\n"))
	want := []string{"build.image", "colour", "domains[0]", "env.PORT", "http.port", "http.timeout", "name", "resources.cpu", "scale.foo", "scale.min"}
	if got := fields(t, err); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestManifestValuesAreCut(t *testing.T) {
	_, err := ParseManifest([]byte("name = \"" + strings.Repeat("ü", 10000) + "\""))
	if err == nil || len(err.Error()) > 30000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte("name = \"hello\"\n[http]\nport = 80\n[scale]\nmax = 3\n[env]\nA = 1"))
	f.Add([]byte("[scale]\nfreeze_after = \"never\"\n[build]\nstatic = \"./a/./b\""))
	f.Add([]byte("domains = [\"a.example.com\", \"ü.de\"]"))
	f.Add([]byte("a = [[[{}]]]\n[env]\nx = 1979-05-27"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text)
		if err != nil {
			if len(fields(t, err)) == 0 {
				t.Fatal("an error that names nothing")
			}
			return
		}
		// What is accepted is within every limit that later code relies on.
		if m.Name != "" && CheckAppName(m.Name) != nil {
			t.Fatalf("name %q", m.Name)
		}
		if m.Run.Port < 1 || m.Run.Port > 65535 || m.Run.Timeout <= 0 || m.Run.Memory < 0 || m.Run.CPU < 0 {
			t.Fatalf("run %+v", m.Run)
		}
		for _, d := range m.Domains {
			if again, v := ParseDomain("", d); v != nil || again != d {
				t.Fatalf("domain %q is not in its stored form: %q, %v", d, again, v)
			}
		}
		if _, bad := DefaultPolicy().With(m.Scale, ""); len(bad) > 0 {
			t.Fatalf("scale %v: %v", m.Scale, bad)
		}
		for k, v := range m.Env {
			if CheckEnvName(k, k) != nil || strings.ContainsRune(v, 0) {
				t.Fatalf("env %q=%q", k, v)
			}
		}
		if p := m.Source.Path; m.Source.Kind != SourceImage && (strings.HasPrefix(p, "/") || p == ".." || strings.HasPrefix(p, "../")) {
			t.Fatalf("source %+v", m.Source)
		}
	})
}
