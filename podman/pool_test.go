package podman

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

func TestPoolChoosesByTheInstance(t *testing.T) {
	p := NewPool(&Node{name: "a", archive: newArchive("/a")}, &Node{name: "b", archive: newArchive("/a")})
	_, err := p.Start(t.Context(), router.Instance{ID: "x", Node: "c"})
	wantCode(t, err, router.CodeUnavailable)
	if got := p.Nodes(); len(got) != 2 || got[0].Name != "a" || got[1].Name != "b" {
		t.Errorf("nodes are %+v", got)
	}
	if _, ok := p.Facts("a"); ok {
		t.Error("there are facts without a check")
	}
	count := map[string]int{}
	for i := range 1000 {
		app := fmt.Sprint("app-", i)
		n, err := p.place(app)
		if err != nil {
			t.Fatal(err)
		}
		count[n.name]++
		if again, _ := p.place(app); again != n {
			t.Fatal("an app has two places")
		}
	}
	if count["a"] < 300 || count["b"] < 300 {
		t.Errorf("apps are placed %v", count)
	}
	if p.nodes()[0].archive != p.nodes()[1].archive {
		t.Error("two nodes write the same files by themselves")
	}
	p.Cordon("a", true)
	if n, err := p.place("app-1"); err != nil || n.name != "b" {
		t.Errorf("placed on %v, %v although a takes nothing", n, err)
	}
	p.Drop("b")
	_, err = p.place("app-1")
	wantCode(t, err, router.CodeUnavailable)
	p.Cordon("a", false)
	if n, err := p.place("app-1"); err != nil || n.name != "a" {
		t.Errorf("placed on %v, %v", n, err)
	}
	_, err = p.Start(t.Context(), router.Instance{ID: "x", Node: "b"})
	wantCode(t, err, router.CodeUnavailable)
}

// A node whose disk is full builds only where no other node can; what it says of
// that is told, and the next node builds from the same files.
func TestBuildAvoidsAFullDisk(t *testing.T) {
	const full = "write /var/lib/containers/x: no space left on device"
	builds := make(map[string]int)
	var mu sync.Mutex
	engine := func(name string, answer func(http.ResponseWriter)) *Node {
		url := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
			pong(w)
			if strings.HasSuffix(r.URL.Path, "/build") {
				_, _ = io.Copy(io.Discard, r.Body)
				mu.Lock()
				builds[name]++
				mu.Unlock()
				answer(w)
			}
		})
		n, err := Connect(t.Context(), Options{Name: name, URL: url, DataDir: t.TempDir()})
		must(t, err)
		t.Cleanup(n.Close)
		return n
	}
	id := strings.Repeat("ab", 32)
	fails := func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"error":"`+full+`"}`) }
	works := func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"stream":"`+id+`\n"}`) }
	p := NewPool(engine("a", fails), engine("b", works))
	app := "" // one that is built on the node that is full
	for i := 0; app == ""; i++ {
		if n, _ := p.place(fmt.Sprint("app", i)); n.name == "a" {
			app = fmt.Sprint("app", i)
		}
	}
	build := func() (string, error) {
		src := bytes.NewReader(readAll(t, files(t, "Containerfile", "FROM scratch")))
		return p.Build(t.Context(), app, router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"}, src, nil)
	}
	for range 2 {
		if got, err := build(); err != nil || got != imageID(id) {
			t.Errorf("built %q, %v", got, err)
		}
	}
	if builds["a"] != 1 || builds["b"] != 2 {
		t.Errorf("builds: %v; once it is known to be full it is not asked", builds)
	}
	p.Cordon("b", true)
	if _, err := build(); router.CodeOf(err) != router.CodeUnavailable || !strings.Contains(err.Error(), "node a: its disk is full") {
		t.Errorf("with no other node: %v", err)
	}
}

func readAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	text, err := io.ReadAll(r)
	must(t, err)
	return text
}
