package autoscale

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

const gb = router.Bytes(1 << 30)

// spot is a candidate with a gigabyte of memory, changed by the given ones.
func spot(name string, changes ...func(*Candidate)) Candidate {
	c := Candidate{Node: &router.Node{Name: name, Labels: map[string]string{}, Facts: router.NodeFacts{Memory: gb}}}
	for _, change := range changes {
		change(&c)
	}
	return c
}

func taken(b router.Bytes) func(*Candidate) { return func(c *Candidate) { c.Reserved = b } }
func lacks(b router.Bytes) func(*Candidate) { return func(c *Candidate) { c.Missing = b } }
func cordoned(c *Candidate)                 { c.Node.Cordoned = true }
func down(c *Candidate)                     { c.Node.Down = true }
func lostNode(c *Candidate)                 { c.Node.Down, c.Node.Lost = true, true }
func inTrouble(c *Candidate)                { c.Trouble = true }
func unsized(c *Candidate)                  { c.Node.Facts.Memory = 0 }
func label(key, value string) func(*Candidate) {
	return func(c *Candidate) { c.Node.Labels[key] = value }
}

func has(app string, n int) func(*Candidate) {
	return func(c *Candidate) { c.Apps = map[string]int{app: n} }
}

func TestPlace(t *testing.T) {
	tests := map[string]struct {
		nodes  []Candidate
		p      router.Placement
		need   router.Bytes
		want   string
		refuse string // of the error, where nothing is wanted
	}{
		"no node":      {refuse: "there is none"},
		"the one node": {nodes: []Candidate{spot("a")}, need: gb, want: "a"},
		"full":         {nodes: []Candidate{spot("a", taken(1))}, need: gb, refuse: "a: 0.00 GB of 1.00 GB are reserved, 1.00 GB more are needed"},
		"every node says why not": {
			nodes:  []Candidate{spot("a", cordoned), spot("b", down), spot("c", lostNode), spot("d", taken(gb))},
			need:   gb,
			refuse: "a: it is being drained; b: its Podman does not answer; c: it cannot be reached; d: 1.00 GB of 1.00 GB are reserved, 1.00 GB more are needed",
		},
		"not where the engine failed lately": {nodes: []Candidate{spot("a", inTrouble), spot("b", taken(gb/2))}, want: "b"},
		"unless there is no other":           {nodes: []Candidate{spot("a", inTrouble)}, want: "a"},
		"the emptier one":                    {nodes: []Candidate{spot("a", taken(gb/2)), spot("b")}, want: "b"},
		"a node of unknown size has room":    {nodes: []Candidate{spot("a", unsized)}, need: gb, want: "a"},
		"pinned":                             {nodes: []Candidate{spot("a"), spot("b", taken(gb/2))}, p: router.Placement{Nodes: []string{"b"}}, want: "b"},
		"pinned to one that is full":         {nodes: []Candidate{spot("a"), spot("b", taken(gb))}, p: router.Placement{Nodes: []string{"b"}}, need: 1, refuse: "a: placement.nodes does not name it; b: 1.00 GB"},
		"required label":                     {nodes: []Candidate{spot("a"), spot("b", taken(gb/2), label("disk", "ssd"))}, p: router.Placement{Require: map[string]string{"disk": "ssd"}}, want: "b"},
		"required label nobody has":          {nodes: []Candidate{spot("a", label("disk", "hdd"))}, p: router.Placement{Require: map[string]string{"disk": "ssd"}}, refuse: "a: placement.require wants the label disk=ssd, it has disk=hdd"},
		"avoided label":                      {nodes: []Candidate{spot("a", label("spot", "yes")), spot("b", taken(gb/2))}, p: router.Placement{Avoid: map[string]string{"spot": "yes"}}, want: "b"},
		"preferred label":                    {nodes: []Candidate{spot("a"), spot("b", taken(gb/2), label("disk", "ssd"))}, p: router.Placement{Prefer: map[string]string{"disk": "ssd"}}, want: "b"},
		"preferred but full":                 {nodes: []Candidate{spot("a"), spot("b", taken(gb), label("disk", "ssd"))}, p: router.Placement{Prefer: map[string]string{"disk": "ssd"}}, need: gb, want: "a"},
		"near":                               {nodes: []Candidate{spot("a"), spot("b", taken(gb/2), has("db", 1))}, p: router.Placement{Near: []string{"db"}}, want: "b"},
		"apart":                              {nodes: []Candidate{spot("a", has("noisy", 1)), spot("b", taken(gb/2))}, p: router.Placement{Apart: []string{"noisy"}}, want: "b"},
		"apart from all":                     {nodes: []Candidate{spot("a", has("noisy", 1))}, p: router.Placement{Apart: []string{"noisy"}}, refuse: "noisy has instances there"},
		"beside itself only last":            {nodes: []Candidate{spot("a", has("app", 1)), spot("b", taken(gb/2))}, want: "b"},
		"over zones, not only nodes": {
			nodes: []Candidate{spot("a1", label("zone", "a"), has("app", 1)), spot("a2", label("zone", "a")), spot("b1", label("zone", "b"), taken(gb/2))},
			p:     router.Placement{Spread: "zone"}, want: "b1",
		},
		"within a zone over nodes": {
			nodes: []Candidate{spot("a1", label("zone", "a"), has("app", 1)), spot("a2", label("zone", "a"), taken(gb/2))},
			p:     router.Placement{Spread: "zone"}, want: "a2",
		},
		"where the image is":                {nodes: []Candidate{spot("a", lacks(50<<20)), spot("b", taken(gb/2))}, want: "b"},
		"a little of it missing is nothing": {nodes: []Candidate{spot("a", lacks(1000)), spot("b", taken(gb/2))}, want: "a"},
		"not where it is nearly full":       {nodes: []Candidate{spot("a", lacks(50<<20)), spot("b", taken(gb-gb/20))}, want: "a"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Place("app", tt.p, tt.need, tt.nodes)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Fatalf("got %q, %v; want %q", got, err, tt.want)
			}
			if err != nil && (router.CodeOf(err) != router.CodeExhausted || !strings.Contains(err.Error(), tt.refuse)) {
				t.Errorf("%s: %v", router.CodeOf(err), err)
			}
		})
	}
}

// Equal nodes get about equal shares of the apps, and the loss of one moves
// only what was there.
func TestPlaceSpreadsApps(t *testing.T) {
	var nodes []Candidate
	for i := range 10 {
		nodes = append(nodes, spot(fmt.Sprintf("n%d", i)))
	}
	count := map[string]int{}
	for i := range 1000 {
		app := fmt.Sprintf("app-%d", i)
		with, err := Place(app, router.Placement{}, 1, nodes)
		if err != nil {
			t.Fatal(err)
		}
		without, err := Place(app, router.Placement{}, 1, nodes[:9])
		if err != nil {
			t.Fatal(err)
		}
		if with != "n9" && with != without {
			t.Errorf("%s moves from %s to %s though only n9 went", app, with, without)
		}
		count[with]++
	}
	for name, n := range count {
		if n < 60 || n > 150 {
			t.Errorf("%s has %d of 1000 apps", name, n)
		}
	}
}

// However apps change, the ledger holds what a count over all of them gives.
func TestLedger(t *testing.T) {
	catalog := router.NewCatalog()
	chance := rand.New(rand.NewPCG(1, 2))
	state := func(app string, version uint64) router.AppState {
		st := router.AppState{Version: version, App: router.App{Name: app}, Releases: []router.Release{{Number: 1, Run: router.Run{Reserve: 10}}}}
		for i := range chance.IntN(4) {
			st.Instances = append(st.Instances, router.Instance{
				ID: fmt.Sprint(i), App: app, Release: 1, Node: fmt.Sprintf("n%d", chance.IntN(3)),
				State: []router.InstanceState{router.Starting, router.Ready, router.Frozen, router.Failed}[chance.IntN(4)],
			})
		}
		st.Deleted = chance.IntN(5) == 0
		return st
	}
	catalog.Apply(state("before", 1)) // what is there when it is made counts, too
	l := newLedger(catalog)
	for version := range uint64(300) {
		catalog.Apply(state(fmt.Sprintf("app%d", chance.IntN(8)), version+2))
		want := map[string]router.Bytes{}
		apps := map[string]map[string]int{"n0": {}, "n1": {}, "n2": {}}
		for _, st := range catalog.All() {
			for _, in := range st.Instances {
				if in.State != router.Failed {
					apps[in.Node][in.App]++
					want[in.Node] += st.Reserves(in)
				}
			}
		}
		for node := range apps {
			if got := l.account(node); got.reserved != want[node] || len(apps[node])+len(got.apps) > 0 && fmt.Sprint(got.apps) != fmt.Sprint(apps[node]) {
				t.Fatalf("version %d: %s has %+v, want %d and %v", version, node, got, want[node], apps[node])
			}
		}
	}
}

// Where the store knows that others have filled the chosen node, another one is
// chosen; where all are, the error says so.
func TestFullNodeIsPassedOver(t *testing.T) {
	w := newWorld(t)
	w.rt.nodes = append(w.rt.nodes, fakeNode("n2"))
	for i := range w.rt.nodes {
		w.rt.nodes[i].Facts.Memory = gb
	}
	w.store.full = map[string]*router.FullError{}
	var others []string
	for range 2 {
		st := w.app(fmt.Sprintf("app%d", len(others)))
		chosen := st.Instances[0].Node
		others = append(others, chosen)
		w.store.full[chosen] = &router.FullError{Node: chosen, Reserved: gb, Capacity: gb}
	}
	if others[0] == others[1] {
		t.Errorf("a full node was chosen: %v", others)
	}
	_, err := w.deploy("late", "img")
	if router.CodeOf(err) != router.CodeExhausted || !strings.Contains(err.Error(), "n1: 1.00 GB of 1.00 GB are reserved") || !strings.Contains(err.Error(), "n2: ") {
		t.Errorf("with every node full: %v", err)
	}
	clear(w.store.full)
	w.ahead.Store(int64(believeFull))
	if _, err := w.deploy("late", "img"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A node whose engine cannot create containers, as with a full disk, is left
// out by the same wake's next try.
func TestBrokenEngineIsAvoided(t *testing.T) {
	w := newWorld(t)
	w.rt.nodes = append(w.rt.nodes, fakeNode("n2"))
	chosen := w.app("a").Instances[0].Node
	if _, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error { st.Instances = nil; return nil }); err != nil {
		t.Fatal(err)
	}
	w.rt.mu.Lock()
	w.rt.fail["create at "+chosen] = router.Errorf(router.CodeInternal, "no space left on device")
	w.rt.mu.Unlock()
	wake, err := w.c.Wake(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if in, ok := w.get("a").Instance(wake.Instance); !ok || in.Node == chosen {
		t.Errorf("it was woken on %+v", in)
	}
	if n := w.get("a").App.Crash.Count; n != 0 {
		t.Errorf("the app is blamed for it %d times", n)
	}
}
