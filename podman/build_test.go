package podman

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/podman/site"
	"github.com/fluxgate/fluxgate/router"
)

func containerfile(name string) router.Source {
	return router.Source{Kind: router.SourceContainerfile, Path: name}
}

func busybox(t *testing.T) []byte {
	t.Helper()
	name, err := exec.LookPath("busybox")
	must(t, err)
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// The steps' numbers are those of the Containerfile, with several stages too.
func TestFollowBuild(t *testing.T) {
	const said = `{"stream":"[1/2] STEP 1/2: FROM scratch AS one\n"}
{"stream":"[1/2] STEP 2/2: COPY a /a\n"}
{"stream":"--> faa01085cfd\n"}
{"stream":"[2/2] STEP 1/3: FROM scratch\n"}
{"stream":"[2/2] STEP 2/3: COPY --from=one /a /a\n"}
{"stream":"--> b08cc9b4e3d\n"}
{"stream":"[2/2] STEP 3/3: LABEL \"fluxgate.image\"=\"b\"\n"}
{"stream":"[2/2] COMMIT\n"}
{"stream":"--> 23f27e284e0\n"}
{"stream":"23f27e284e0c9742bf83c78672f57e5e5f22fa2a078aeaee38dad06ab771df16\n"}
`
	const want = `[1/2] STEP 1/2: FROM scratch AS one
[1/2] STEP 2/2: COPY a /a
--> faa01085cfd
[2/2] STEP 1/2: FROM scratch
[2/2] STEP 2/2: COPY --from=one /a /a
--> b08cc9b4e3d
[2/2] COMMIT
--> 23f27e284e0
23f27e284e0c9742bf83c78672f57e5e5f22fa2a078aeaee38dad06ab771df16
`
	var out strings.Builder
	id, err := followBuild(strings.NewReader(said), &out)
	must(t, err)
	if out.String() != want || id != "sha256:23f27e284e0c9742bf83c78672f57e5e5f22fa2a078aeaee38dad06ab771df16" {
		t.Errorf("image %s, output:\n%s", id, &out)
	}
}

const runSteps = `FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "echo", "built with", "care"]
RUN ["/bin/busybox", "sh", "-c", "exit 3"]
`

func TestBuildContainerfile(t *testing.T) {
	n := connect(t)
	var out bytes.Buffer
	id, err := n.Build(t.Context(), "hello", containerfile("deploy/Dockerfile"),
		files(t, tar.Header{Typeflag: tar.TypeDir, Name: "deploy", Mode: 0o755}, nil,
			"deploy/Dockerfile", strings.Split(runSteps, "RUN [\"/bin/busybox\", \"sh\"")[0], "busybox", busybox(t)), &out)
	must(t, err)
	for _, want := range []string{"STEP 3/3", "built with care\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output is without %q:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "LABEL") {
		t.Errorf("our own step shows:\n%s", &out)
	}
	if ok, err := n.ImageExists(t.Context(), id); err != nil || !ok || !strings.HasPrefix(id, "sha256:") {
		t.Errorf("the image %s: %v, %v", id, ok, err)
	}
	again, err := n.Build(t.Context(), "hello", containerfile("./deploy/Dockerfile"),
		files(t, "deploy/Dockerfile", strings.Split(runSteps, "RUN [\"/bin/busybox\", \"sh\"")[0], "busybox", busybox(t)), io.Discard)
	must(t, err)
	if again != id {
		t.Errorf("the same build gave %s, then %s: nothing was cached", id, again)
	}
}

func TestBuildFailures(t *testing.T) {
	n := connect(t)
	tests := map[string]struct {
		src   router.Source
		files io.Reader
		code  router.Code
		text  string
	}{
		"a step fails": {
			containerfile("Containerfile"), files(t, "Containerfile", runSteps, "busybox", busybox(t)),
			router.CodeFailed, `the build failed at step 4/4: RUN ["/bin/busybox", "sh", "-c", "exit 3"]: exit status 3`,
		},
		"a file is missing": {
			containerfile("Containerfile"), files(t, "Containerfile", "FROM scratch\nCOPY nothing /\n"),
			router.CodeFailed, "step 2/2: COPY nothing /: ",
		},
		"the Containerfile is wrong": {
			containerfile("Containerfile"), files(t, "Containerfile", "FRO scratch\n"),
			router.CodeFailed, "the build failed: ",
		},
		"no Containerfile": {
			containerfile("Containerfile"), files(t, "other", "FROM scratch\n"),
			router.CodeInvalid, "there is no Containerfile",
		},
		"no files":    {containerfile("Containerfile"), nil, router.CodeInvalid, "no files were sent"},
		"not gzip":    {containerfile("Containerfile"), strings.NewReader("hello"), router.CodeInvalid, "do not arrive whole"},
		"cut off":     {containerfile("Containerfile"), io.LimitReader(files(t, "Containerfile", runSteps, "busybox", busybox(t)), 90_000), router.CodeInvalid, "do not arrive whole"},
		"broken off":  {containerfile("Containerfile"), io.MultiReader(io.LimitReader(files(t, "Containerfile", runSteps, "busybox", busybox(t)), 90_000), broken{}), router.CodeInvalid, "the line went dead"},
		"no site":     {router.Source{Kind: router.SourceStatic, Path: "public"}, files(t, "index.html", "hi"), router.CodeInvalid, "no index.html"},
		"no kind":     {router.Source{Kind: "magic"}, nil, router.CodeInvalid, "magic"},
		"no image":    {router.Source{Kind: router.SourceImage, Path: "127.0.0.1:1/nothing/here:1"}, nil, router.CodeFailed, "127.0.0.1:1/nothing/here:1"},
		"no image ID": {router.Source{Kind: router.SourceImage, Path: strings.Repeat("ab", 32)}, nil, router.CodeFailed, "podman images"},
		"bad name":    {router.Source{Kind: router.SourceImage, Path: "Not A Name"}, nil, router.CodeFailed, "check the name"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := n.Build(t.Context(), "hello", tt.src, tt.files, io.Discard)
			wantCode(t, err, tt.code)
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error is %q, without %q", err, tt.text)
			}
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the line went dead") }

// The engine unpacks as root and follows links: nothing that leads out of the
// context may reach it.
func TestContextCannotEscape(t *testing.T) {
	n := connect(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.Mkdir(outside, 0o755))
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}
	}
	tests := map[string][]any{
		"parent":                 {"../escaped", "x"},
		"parent within":          {"a/../../escaped", "x"},
		"absolute":               {outside + "/escaped", "x"},
		"through a link":         {link("l", outside), nil, "l/escaped", "x"},
		"through a link, deep":   {link("a/l", outside), nil, "a/l/b/escaped", "x"},
		"through a relative one": {link("a/l", "../../../../../../../.."+outside), nil, "a/./l/escaped", "x"},
		"hard link to outside":   {hard("passwd", "/etc/passwd"), nil},
		"hard link above":        {hard("passwd", "../passwd"), nil},
		"hard link through link": {link("l", "/etc"), nil, hard("passwd", "l/passwd"), nil},
		"device":                 {tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Mode: 0o666, Devmajor: 8}, nil},
		"pipe":                   {tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o666}, nil},
	}
	for name, entries := range tests {
		for _, src := range []router.Source{containerfile("Containerfile"), {Kind: router.SourceStatic, Path: "."}} {
			t.Run(name+" "+string(src.Kind), func(t *testing.T) {
				all := append([]any{"Containerfile", "FROM scratch\nCOPY . /\n", "index.html", "hi"}, entries...)
				_, err := n.Build(t.Context(), "hello", src, files(t, all...), io.Discard)
				wantCode(t, err, router.CodeInvalid)
				if left, _ := os.ReadDir(outside); len(left) > 0 {
					t.Error("a file got out")
				}
			})
		}
	}
}

func TestContextKeepsLinksWithin(t *testing.T) {
	n := connect(t)
	_, err := n.Build(t.Context(), "hello", containerfile("Containerfile"),
		files(t, "Containerfile", "FROM scratch\nCOPY . /\n", "a/file", "x",
			tar.Header{Typeflag: tar.TypeSymlink, Name: "a/link", Linkname: "file", Mode: 0o777}, nil,
			tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/localtime", Linkname: "/usr/share/zoneinfo/UTC", Mode: 0o777}, nil,
			tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "a/file", Mode: 0o644}, nil), io.Discard)
	must(t, err)
}

func TestBuildStatic(t *testing.T) {
	must(t, site.Available())
	n := connect(t)
	context := func() io.Reader {
		return files(t, "readme.md", "not of the site", "public/index.html", "<h1>hello</h1>", "public/css/style.css", "body{}",
			tar.Header{Typeflag: tar.TypeSymlink, Name: "public/start.html", Linkname: "index.html", Mode: 0o777}, nil,
			tar.Header{Typeflag: tar.TypeSymlink, Name: "public/passwd", Linkname: "/etc/passwd", Mode: 0o777}, nil,
			tar.Header{Typeflag: tar.TypeLink, Name: "public/hard.html", Linkname: "public/index.html", Mode: 0o644}, nil)
	}
	src := router.Source{Kind: router.SourceStatic, Path: "./public"}
	id, err := n.Build(t.Context(), "hello", src, context(), io.Discard)
	must(t, err)
	again, err := n.Build(t.Context(), "hello", src, context(), io.Discard)
	must(t, err)
	if id != again {
		t.Errorf("the same site gave %s, then %s", id, again)
	}
	_, addr := running(t, n, release(id))
	for path, want := range map[string]string{
		"/": "<h1>hello</h1>", "/css/style.css": "body{}", "/start.html": "<h1>hello</h1>", "/hard.html": "<h1>hello</h1>",
		"/readme.md": "404 page not found\n", "/passwd": "404 page not found\n", "/serve": "404 page not found\n",
	} {
		if got := get(addr, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestLocalImageNeedsNoRegistry(t *testing.T) {
	n := connect(t)
	id := appImage(t, n)
	resp, err := n.request(t.Context(), http.MethodPost, "/images/"+id+"/tag", map[string][]string{"repo": {"127.0.0.1:1/app"}, "tag": {"v1"}}, nil, "")
	must(t, err)
	resp.Body.Close()
	for _, reference := range []string{"127.0.0.1:1/app:v1", id, strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(id, "sha256:")[:12]} {
		var out bytes.Buffer
		got, err := n.Build(t.Context(), "hello", router.Source{Kind: router.SourceImage, Path: reference}, nil, &out)
		must(t, err)
		if got != id {
			t.Errorf("%s is %s, want %s", reference, got, id)
		}
	}
}

func TestPruneImages(t *testing.T) {
	n := connect(t)
	build := func(content string) string {
		id, err := n.Build(t.Context(), "hello", router.Source{Kind: router.SourceStatic, Path: "."}, files(t, "index.html", t.Name()+content), io.Discard)
		must(t, err)
		return id
	}
	kept, used, old, fresh := build("kept"), build("used"), build("old"), build("fresh")
	running(t, n, release(used))
	n.builtMu.Lock()
	for _, id := range []string{kept, used, old} { // made long ago, as the static images' own time says
		n.built[id] = time.Now().Add(-2 * pruneAge)
	}
	n.builtMu.Unlock()
	must(t, n.PruneImages(t.Context(), []string{kept}))
	for id, want := range map[string]bool{kept: true, used: true, old: false, fresh: true} {
		if got, err := n.ImageExists(t.Context(), id); err != nil || got != want {
			t.Errorf("image %s exists: %v, %v; want %v", id, got, err, want)
		}
	}
}
