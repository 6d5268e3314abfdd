package autoscale

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// lostWorld has an app with an instance on each of two nodes.
func lostWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.rt.nodes = append(w.rt.nodes, fakeNode("n2"))
	w.app("a")
	id := w.put("a", router.Ready)
	_, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error {
		in, _ := st.Instance(id)
		in.Node = "n1"
		other := *in
		other.ID, other.Node = "a-1-other", "n2"
		st.PutInstance(other)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.rt.mu.Lock()
	w.rt.containers[id].Node = "n1"
	k := *w.rt.containers[id]
	k.ID, k.Instance, k.Node = "c-a-1-other", "a-1-other", "n2"
	w.rt.containers[k.Instance] = &k
	w.rt.mu.Unlock()
	return w
}

func nodesOf(st *router.AppState, state router.InstanceState) []string {
	var nodes []string
	for _, in := range st.Instances {
		if in.State == state {
			nodes = append(nodes, in.Node)
		}
	}
	return nodes
}

// TestLostNode is contract 6, and what follows when the node comes back.
func TestLostNode(t *testing.T) {
	w := lostWorld(t)
	w.rt.lose("n2")
	w.c.leads.Store(true)
	w.c.abandonLost(t.Context())
	w.await("a", "replaced on the other node", func(st *router.AppState) bool {
		return slices.Equal(nodesOf(st, router.Ready), []string{"n1", "n1"})
	})
	if w.rt.count("remove") != 0 {
		t.Error("a container on a lost node cannot have been removed")
	}
	if err := w.c.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.get("a").Instances); n != 2 {
		t.Errorf("%d instances after a reconciliation without the node", n)
	}
	w.rt.back("n2")
	if err := w.c.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.c.group.Wait()
	if _, there := w.rt.containers["a-1-other"]; there {
		t.Error("what ran on the lost node runs on beside its replacement")
	}
}

// TestPlacedOnLostNode: another gateway does not know of the loss yet, and places
// an instance there. Nobody waits for the next tick.
func TestPlacedOnLostNode(t *testing.T) {
	w := lostWorld(t)
	w.rt.lose("n2")
	w.c.leads.Store(true)
	w.c.abandonLost(t.Context())
	replaced := func(st *router.AppState) bool { return slices.Equal(nodesOf(st, router.Ready), []string{"n1", "n1"}) }
	w.await("a", "replaced on the other node", replaced)
	_, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error {
		now := time.Now()
		st.PutInstance(router.Instance{
			ID: "a-1-late", App: "a", Release: 1, Node: "n2", State: router.Starting, Since: now,
			Claim: router.Claim{Holder: "g2", Op: "create", Until: now.Add(time.Minute)},
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.await("a", "let go of", func(st *router.AppState) bool {
		_, there := st.Instance("a-1-late")
		return !there
	})
	w.await("a", "replaced on the other node too", func(st *router.AppState) bool {
		return slices.Equal(nodesOf(st, router.Ready), []string{"n1", "n1", "n1"})
	})
}

func TestLostNodesThatAreLeftAlone(t *testing.T) {
	tests := map[string]struct {
		leads bool
		lost  []string
	}{
		"another gateway leads":       {false, []string{"n2"}},
		"the gateway itself is alone": {true, []string{"n1", "n2"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := lostWorld(t)
			for _, n := range tt.lost {
				w.rt.lose(n)
			}
			before := w.get("a").Version
			w.c.leads.Store(tt.leads)
			w.c.abandonLost(t.Context())
			if st := w.get("a"); st.Version != before {
				t.Errorf("instances became %+v", st.Instances)
			}
		})
	}
}

// TestSilentNodeIsNotReconciled: a node whose engine hangs keeps its records.
func TestSilentNodeIsNotReconciled(t *testing.T) {
	w := lostWorld(t)
	w.rt.mu.Lock()
	w.rt.nodes[1].Down = true
	w.rt.mu.Unlock()
	if err := w.c.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := nodesOf(w.get("a"), router.Ready); !slices.Equal(got, []string{"n1", "n2"}) && !slices.Equal(got, []string{"n2", "n1"}) {
		t.Errorf("ready instances on %v", got)
	}
}

func TestClaimsOfGoneGateways(t *testing.T) {
	tests := map[string]struct {
		live   []string
		voided bool
	}{
		"its holder lives":       {[]string{"g1", "g2"}, false},
		"its holder is gone":     {[]string{"g1"}, true},
		"nobody is known to be":  {nil, false},
		"this one is not listed": {[]string{"g3"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("a")
			id := w.put("a", router.Frozen)
			until := time.Now().Add(time.Hour)
			if _, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error {
				in, _ := st.Instance(id)
				in.Claim = router.Claim{Holder: "g2", Op: "thaw", Until: until}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			w.cluster.mu.Lock()
			w.cluster.gateways = tt.live
			w.cluster.mu.Unlock()
			w.c.voidClaims(t.Context())
			in, _ := w.get("a").Instance(id)
			if voided := !in.Claim.Held("g1", w.c.Now()); voided != tt.voided {
				t.Errorf("the claim is void: %v", voided)
			}
		})
	}
}

// TestDrainedNode: what serves there is replaced before it goes, and what
// sleeps there is removed.
func TestDrainedNode(t *testing.T) {
	w := lostWorld(t)
	w.cluster.autoAck = true
	if _, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error {
		st.App.Policy.Min = 2
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.rt.cordon("n2")
	w.c.group.Wait()
	var mu sync.Mutex
	least := 2
	w.catalog.OnChange(func(_, next *router.AppState) {
		mu.Lock()
		defer mu.Unlock()
		if next != nil {
			least = min(least, next.Count(1, router.Ready))
		}
	})
	w.c.tick(t.Context(), true)
	w.await("a", "a replacement", func(st *router.AppState) bool { return st.Count(1, router.Ready) == 3 })
	w.c.group.Wait()
	w.c.tick(t.Context(), true)
	w.await("a", "its node's instance sleeps", func(st *router.AppState) bool {
		return st.Count(1, router.Ready) == 2 && st.Count(1, router.Frozen, router.Stopped) == 1
	})
	w.c.group.Wait()
	w.c.tick(t.Context(), true)
	w.await("a", "nothing is left there", func(st *router.AppState) bool {
		return slices.Equal(nodesOf(st, router.Ready), []string{"n1", "n1"}) && len(st.Instances) == 2
	})
	mu.Lock()
	defer mu.Unlock()
	if least < 2 {
		t.Errorf("there were only %d ready instances in between", least)
	}
}

// TestTakenBack has records lost while their containers run on.
func TestTakenBack(t *testing.T) {
	for name, tt := range map[string]struct {
		state router.ContainerState
		want  router.InstanceState
	}{
		"running": {router.ContainerRunning, router.Ready},
		"frozen":  {router.ContainerPaused, router.Frozen},
		"stopped": {router.ContainerExited, router.Stopped},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("a")
			id := w.put("a", router.Ready)
			w.rt.set(id, tt.state)
			if _, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error { st.DropInstance(id); return nil }); err != nil {
				t.Fatal(err)
			}
			if err := w.c.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.await("a", "taken back", func(st *router.AppState) bool {
				in, ok := st.Instance(id)
				return ok && in.State == tt.want && in.Container != ""
			})
			if w.rt.count("remove") != 0 {
				t.Error("it was removed")
			}
		})
	}
}

// TestStaleDeath has the end of a container that was stopped on purpose arrive
// after it was started again, as from a node that hung: it is no crash.
func TestStaleDeath(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Ready)
	before := w.get("a")
	died := router.ContainerEvent{Kind: router.ContainerDied, App: "a", Instance: id, Container: "c-" + id}
	w.c.onEvent(t.Context(), died)
	if st := w.get("a"); st.Version != before.Version {
		t.Errorf("a running container was taken for dead: %+v", st.Instances)
	}

	// While it is being started it does not run yet: what decides is whether it
	// does a moment later.
	for name, tt := range map[string]struct {
		then router.ContainerState
		dead bool
	}{
		"it comes up": {router.ContainerRunning, false},
		"it does not": {router.ContainerExited, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("a")
			id := w.put("a", router.Starting)
			w.rt.set(id, router.ContainerExited)
			old := died
			old.Instance, old.Container, old.At = id, "c-"+id, w.get("a").Instances[0].Since.Add(-time.Second)
			if !w.c.stale(t.Context(), old) {
				t.Fatal("an event from before the start is believed")
			}
			w.rt.set(id, tt.then)
			w.c.group.Wait() // for whoever looks again
			in, ok := w.get("a").Instance(id)
			if dead := !ok || in.State == router.Failed; dead != tt.dead {
				t.Errorf("dead: %v, want %v", dead, tt.dead)
			}
		})
	}
}
