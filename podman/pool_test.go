package podman

import (
	"fmt"
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
