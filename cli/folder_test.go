package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/fluxgate/fluxgate/router"
)

// tree makes a folder of files: "a/b" with a text, "a/" for a directory,
// "a" with "-> target" for a link.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch target, isLink := strings.CutPrefix(text, "-> "); {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case isLink:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func sent(t testing.TB, root string, source router.Source) []string {
	t.Helper()
	f, err := scan(root, source)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range f.entries {
		name := e.name
		if e.info.IsDir() {
			name += "/"
		}
		names = append(names, name)
	}
	return names
}

func TestScan(t *testing.T) {
	containerfile := router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"}
	files := map[string]string{
		"Containerfile": "FROM scratch", "main.go": "m", "fluxgate.toml": "", ".env": "s", "docs/a.md": "a", "docs/b.txt": "b",
		"node_modules/x/index.js": "x", "node_modules/y.js": "y", "link": "-> main.go", "empty/": "",
	}
	all := []string{".env", "Containerfile", "docs/", "docs/a.md", "docs/b.txt", "empty/", "link", "main.go", "node_modules/", "node_modules/x/", "node_modules/x/index.js", "node_modules/y.js"}
	without := func(drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return slices.Contains(drop, n) })
	}
	modules := []string{"node_modules/", "node_modules/x/", "node_modules/x/index.js", "node_modules/y.js"}
	tests := map[string]struct {
		ignore string
		want   []string
	}{
		"nothing ignored":       {"", all},
		"a comment":             {"# main.go\n\n", all},
		"a file":                {"main.go", without("main.go")},
		"a folder":              {"node_modules", without(modules...)},
		"a folder with slashes": {"/node_modules/\n", without(modules...)},
		"a pattern":             {"*.go\n**/*.md", without("main.go", "docs/a.md")},
		"a pattern in the root": {"*.md", all},
		"an exception":          {"docs/*\n!docs/b.txt", without("docs/a.md")},
		"an exception below an ignored folder": {
			"node_modules\n!node_modules/x/index.js",
			without("node_modules/y.js"),
		},
		"an exception with wildcards": {"node_modules\n!**/index.js", without("node_modules/y.js")},
		"the last one wins":           {"!main.go\nmain.go", without("main.go")},
		"everything but one":          {"*\n!main.go", []string{"Containerfile", "main.go"}},
		"the Containerfile always":    {"Containerfile\n.env", without(".env")},
		"a link":                      {"link", without("link")},
	}
	for name, test := range tests {
		for _, ignore := range []string{".containerignore", ".dockerignore"} {
			t.Run(name+ignore, func(t *testing.T) {
				root := tree(t, files)
				if test.ignore != "" {
					if err := os.WriteFile(filepath.Join(root, ignore), []byte(test.ignore), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				got := slices.DeleteFunc(sent(t, root, containerfile), func(n string) bool { return n == ignore })
				if !slices.Equal(got, test.want) {
					t.Errorf("sends %q\nwant  %q", got, test.want)
				}
			})
		}
	}
	t.Run("containerignore before dockerignore", func(t *testing.T) {
		root := tree(t, map[string]string{"Containerfile": "", "a": "", "b": "", ".containerignore": "a\n.*", ".dockerignore": "b"})
		if got := sent(t, root, containerfile); !slices.Equal(got, []string{"Containerfile", "b"}) {
			t.Errorf("sends %q", got)
		}
	})
	t.Run("a Containerfile in an ignored folder", func(t *testing.T) {
		root := tree(t, map[string]string{"build/Prod": "", "build/x": "", "a": "", ".dockerignore": "build\n.*"})
		if got := sent(t, root, router.Source{Kind: router.SourceContainerfile, Path: "build/Prod"}); !slices.Equal(got, []string{"a", "build/", "build/Prod"}) {
			t.Errorf("sends %q", got)
		}
	})
	t.Run("sockets are left out", func(t *testing.T) {
		root, err := os.MkdirTemp("", "fg") // t.TempDir's path is too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(root) })
		ln, err := net.Listen("unix", filepath.Join(root, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if err := os.WriteFile(filepath.Join(root, "Containerfile"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := sent(t, root, containerfile); !slices.Equal(got, []string{"Containerfile"}) {
			t.Errorf("sends %q", got)
		}
	})
	static := map[string]string{
		"index.html": "", ".env": "", ".git/config": "", ".well-known/security.txt": "", "css/a.css": "", "css/.b": "",
		"fluxgate.toml": "", "public/index.html": "", "public/.hidden": "", ".out/site/index.html": "",
	}
	for path, want := range map[string][]string{
		".":         {".well-known/", ".well-known/security.txt", "css/", "css/a.css", "index.html", "public/", "public/index.html"},
		"public":    {"public/", "public/index.html"},
		".out/site": {".out/", ".out/site/", ".out/site/index.html"},
	} {
		t.Run("a site in "+path, func(t *testing.T) {
			if got := sent(t, tree(t, static), router.Source{Kind: router.SourceStatic, Path: path}); !slices.Equal(got, want) {
				t.Errorf("sends %q\nwant  %q", got, want)
			}
		})
	}
}

func TestScanRefuses(t *testing.T) {
	home := tree(t, map[string]string{"app/Containerfile": ""})
	t.Setenv("HOME", home)
	source := router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"}
	big := tree(t, map[string]string{"Containerfile": ""})
	if file, err := os.Create(filepath.Join(big, "sparse")); err != nil || file.Truncate(maxFolder+1) != nil || file.Close() != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ root, say string }{
		"the root":         {"/", "not an app's folder"},
		"home":             {home, "not an app's folder"},
		"above home":       {filepath.Dir(home), "not an app's folder"},
		"a link to home":   {filepath.Join(tree(t, map[string]string{"h": "-> " + home}), "h"), "not an app's folder"},
		"absent":           {filepath.Join(home, "no"), "cannot read"},
		"a file":           {filepath.Join(home, "app", "Containerfile"), "not a folder"},
		"too large":        {big, ".containerignore"},
		"empty":            {t.TempDir(), "nothing to send"},
		"all ignored":      {tree(t, map[string]string{".dockerignore": "*", "x": ""}), "nothing to send"},
		"a broken pattern": {tree(t, map[string]string{".dockerignore": "[", "x": ""}), ".dockerignore"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := scan(test.root, source); err == nil || !strings.Contains(err.Error(), test.say) {
				t.Errorf("%v does not say %q", err, test.say)
			}
		})
	}
	if _, err := scan(filepath.Join(home, "app"), source); err != nil {
		t.Errorf("a folder in home: %v", err)
	}
}

func TestTarIsTheSameForTheSameFiles(t *testing.T) {
	source := router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"}
	files := map[string]string{"Containerfile": "FROM scratch", "a/b": "text", "link": "-> a/b", strings.Repeat("long/", 60) + "ü": "x"}
	digest := func(root string) string {
		t.Helper()
		f, err := scan(root, source)
		if err != nil {
			t.Fatal(err)
		}
		d, err := f.digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	one, two := tree(t, files), tree(t, files)
	if err := os.Chtimes(filepath.Join(two, "a/b"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(two, "a/b"), 0o644); err != nil {
		t.Fatal(err)
	}
	first := digest(one)
	if first != digest(two) {
		t.Error("times or permissions matter")
	}
	changes := map[string]func(string) error{
		"text":       func(r string) error { return os.WriteFile(filepath.Join(r, "a/b"), []byte("texT"), 0o600) },
		"a new file": func(r string) error { return os.WriteFile(filepath.Join(r, "c"), nil, 0o600) },
		"a program":  func(r string) error { return os.Chmod(filepath.Join(r, "a/b"), 0o755) },
		"a name":     func(r string) error { return os.Rename(filepath.Join(r, "a/b"), filepath.Join(r, "a/c")) },
		"a link": func(r string) error {
			return os.Remove(filepath.Join(r, "link"))
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			root := tree(t, files)
			if err := change(root); err != nil {
				t.Fatal(err)
			}
			if digest(root) == first {
				t.Error("makes no difference")
			}
		})
	}
}

func TestUpload(t *testing.T) {
	root := tree(t, map[string]string{"Containerfile": "FROM scratch", "dir/file": strings.Repeat("text", 100000), "link": "-> dir/file", "empty/": ""})
	f, err := scan(root, router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := f.digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	var counted int64
	if err := f.upload(t.Context(), &buf, digest, func(n int) { counted += int64(n) }); err != nil {
		t.Fatal(err)
	}
	if counted != f.size || buf.Len() > 100000 {
		t.Errorf("counted %d of %d, sent %d", counted, f.size, buf.Len())
	}
	zip, err := gzip.NewReader(&buf)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for tr := tar.NewReader(zip); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 || fs.FileMode(h.Mode)&0o022 != 0 && h.Typeflag != tar.TypeSymlink {
			t.Errorf("%s says too much: %+v", h.Name, h)
		}
		got[h.Name] = h.Linkname + string(text)
	}
	if len(got) != 5 || got["link"] != "dir/file" || got["dir/file"] != strings.Repeat("text", 100000) || got["Containerfile"] != "FROM scratch" {
		t.Errorf("sent %d entries", len(got))
	}
	for name, text := range map[string]string{"longer": "FROM scratch\n", "shorter": "FROM", "other": "FROM scratcH"} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(root, "Containerfile"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			err := f.upload(t.Context(), io.Discard, digest, nil)
			if router.CodeOf(err) != router.CodeConflict || !strings.Contains(err.Error(), "changed") {
				t.Errorf("a file that changed meanwhile: %v", err)
			}
		})
	}
}

func TestDetect(t *testing.T) {
	tests := map[string]struct {
		files []string
		want  router.Source
	}{
		"Containerfile":        {[]string{"Containerfile", "Dockerfile", "index.html"}, router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"}},
		"Dockerfile":           {[]string{"Dockerfile", "index.html"}, router.Source{Kind: router.SourceContainerfile, Path: "Dockerfile"}},
		"site":                 {[]string{"index.html"}, router.Source{Kind: router.SourceStatic, Path: "."}},
		"nothing":              {[]string{"main.go"}, router.Source{}},
		"a folder of the name": {[]string{"Dockerfile/x"}, router.Source{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			for _, f := range test.files {
				files[f] = ""
			}
			got, err := detect(tree(t, files))
			if got != test.want || (err == nil) != (test.want.Kind != "") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestNameFrom(t *testing.T) {
	for in, want := range map[string]string{
		"hello": "hello", "My App_2": "my-app-2", "--x--": "x", "2048": "app-2048", "Über": "ber", "日本": "", "": "",
		strings.Repeat("a", 39) + "-b": strings.Repeat("a", 39), "a..b": "a-b",
	} {
		if got := nameFrom(in); got != want {
			t.Errorf("nameFrom(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"nginx": "nginx", "docker.io/library/nginx:1.27": "nginx", "localhost:5000/a/My.App@sha256:abc": "my-app", "reg:5000/x:tag@sha256:1": "x",
	} {
		if got := nameFromImage(in); got != want {
			t.Errorf("nameFromImage(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzNameFrom(f *testing.F) {
	f.Add("My App")
	f.Add("0-" + strings.Repeat("-x", 30))
	f.Fuzz(func(t *testing.T, s string) {
		if name := nameFrom(s); name != "" && name != "fluxgate" && name != "registry" {
			if v := router.CheckAppName(name); v != nil {
				t.Fatalf("%q became %q: %s", s, name, v)
			}
		}
	})
}
