package autoscale

import (
	"errors"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// stray puts a container without a record onto a node.
func (w *world) stray(node, id string) {
	w.rt.mu.Lock()
	defer w.rt.mu.Unlock()
	w.rt.containers[id] = &router.Container{ID: "c-" + id, Node: node, Instance: id, App: "a", Release: 1, State: router.ContainerRunning}
}

func (w *world) hasContainer(id string) bool {
	w.rt.mu.Lock()
	defer w.rt.mu.Unlock()
	return w.rt.containers[id] != nil
}

// A node that is connected again is looked at alone: with very many nodes, all
// of them would be much for each that comes.
func TestReconcileOfNamedNodes(t *testing.T) {
	w := lostWorld(t)
	w.stray("n1", "a-1-left")
	w.stray("n2", "a-1-gone")
	w.c.onEvent(t.Context(), router.ContainerEvent{Kind: router.NodeConnected, Node: "n2"})
	w.c.group.Wait()
	if w.hasContainer("a-1-gone") {
		t.Error("what no record knows is left on the node")
	}
	if !w.hasContainer("a-1-left") {
		t.Error("another node was looked at, too")
	}
}

// Where the Catalog agrees with what runs, the store is not asked, whatever the
// number of apps.
func TestReconcileAsksTheStoreOnlyOfDifferences(t *testing.T) {
	w := lostWorld(t)
	if err := w.c.Reconcile(t.Context()); err != nil { // the records get the containers' IDs
		t.Fatal(err)
	}
	w.store.mu.Lock()
	w.store.down = errors.New("asked")
	w.store.mu.Unlock()
	if err := w.c.Reconcile(t.Context()); err != nil {
		t.Errorf("all agrees: %v", err)
	}
	w.rt.set(w.get("a").Instances[0].ID, router.ContainerExited)
	if err := w.c.Reconcile(t.Context()); err == nil {
		t.Error("one has ended, and the store was not asked")
	}
}

// A node may be lost while an instance is raised there; then it is raised on
// another one at once, and not only when the next tick comes.
func TestRaiseGoesElsewhere(t *testing.T) {
	w := lostWorld(t)
	w.rt.mu.Lock()
	w.rt.failOnce = map[string]error{"create": router.Errorf(router.CodeUnavailable, "the machine is lost")}
	w.rt.mu.Unlock()
	st := w.get("a")
	w.c.raiseTo(st, 3, w.c.Now())
	w.await("a", "a third is ready", func(st *router.AppState) bool { return st.Count(st.App.Current, router.Ready) == 3 })
	if n := w.rt.count("create"); n != 3 { // one for each instance made here, and the one that failed
		t.Errorf("%d creations", n)
	}
}
