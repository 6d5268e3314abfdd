package autoscale

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// spread is an app with ready instances on the given nodes, the last one the
// newest, all of them settled.
func spread(p router.Placement, now time.Time, nodes ...string) *router.AppState {
	st := &router.AppState{App: router.App{Name: "app", Current: 1}, Releases: []router.Release{{Number: 1, Run: router.Run{Placement: p, Reserve: gb / 4}}}}
	for i, node := range nodes {
		st.Instances = append(st.Instances, router.Instance{
			ID: fmt.Sprint(i), App: "app", Release: 1, Node: node, State: router.Ready,
			Since: now.Add(-settled - time.Hour + time.Duration(i)*time.Minute),
		})
	}
	return st
}

var zones = []Candidate{
	spot("a1", label("zone", "a")), spot("a2", label("zone", "a")), spot("b1", label("zone", "b")),
}

func nodesOfCandidates(list []Candidate) nodeByName {
	return func(name string) (*router.Node, bool) {
		for _, c := range list {
			if c.Node.Name == name {
				return c.Node, true
			}
		}
		return nil, false
	}
}

func TestLopsided(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	byZone := router.Placement{Spread: "zone"}
	tests := map[string]struct {
		st    *router.AppState
		nodes []Candidate
		want  string
	}{
		"two in one zone":      {spread(byZone, now, "a1", "a2"), zones, "2 instances in zone=a, 0 in zone=b"},
		"one in each":          {spread(byZone, now, "a1", "b1"), zones, ""},
		"three in two":         {spread(byZone, now, "a1", "b1", "a2"), zones, ""},
		"two on one node":      {spread(router.Placement{}, now, "a1", "a1"), zones, "2 instances in a1, 0 in a2"},
		"nowhere else to go":   {spread(router.Placement{Nodes: []string{"a1"}}, now, "a1", "a1"), zones, ""},
		"no room there":        {spread(byZone, now, "a1", "a2"), []Candidate{zones[0], zones[1], spot("b1", label("zone", "b"), taken(gb))}, ""},
		"one became ready now": {func() *router.AppState { st := spread(byZone, now, "a1", "a2"); st.Instances[1].Since = now; return st }(), zones, ""},
		"one is starting": {func() *router.AppState {
			st := spread(byZone, now, "a1", "a2", "b1")
			st.Instances[2].State = router.Starting
			return st
		}(), zones, ""},
		"on a node not known": {spread(byZone, now, "a1", "gone"), zones, ""},
		"a single one":        {spread(byZone, now, "a1"), zones, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := lopsided(tt.st, nodesOfCandidates(tt.nodes), func() []Candidate { return tt.nodes }, now)
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSurplus(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	byZone := router.Placement{Spread: "zone"}
	tests := map[string]struct {
		st      *router.AppState
		leaving map[string]bool
		keep    int
		want    []string
	}{
		"the newest":                  {spread(byZone, now, "a1", "b1"), nil, 1, []string{"1"}},
		"of the crowded zone":         {spread(byZone, now, "a1", "a2", "b1"), nil, 2, []string{"1"}},
		"then evenly":                 {spread(byZone, now, "a1", "a2", "a1", "b1"), nil, 2, []string{"2", "1"}},
		"first those that must leave": {spread(byZone, now, "b1", "a1", "a2"), map[string]bool{"0": true}, 2, []string{"0"}},
		"none":                        {spread(byZone, now, "a1"), nil, 1, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := surplus(tt.st, tt.keep, tt.leaving, domains(tt.st, nodesOfCandidates(zones)), time.Now()); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLeaving(t *testing.T) {
	st := spread(router.Placement{Require: map[string]string{"zone": "a"}}, time.Now(), "a1", "b1", "a2", "gone")
	got := leaving(st, nodesOfCandidates([]Candidate{zones[0], spot("a2", label("zone", "a"), cordoned), zones[2]}))
	if len(got) != 2 || !got["1"] || !got["2"] {
		t.Errorf("leaving: %v; want the one outside its zone and the one on a cordoned node", got)
	}
}

// TestRebalance has an app spread itself once there is a second node, and then
// stay.
func TestRebalance(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Ready)
	if _, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error {
		in, _ := st.Instance(id)
		other := *in
		other.ID = "a-1-other"
		st.PutInstance(other)
		st.App.Policy.Min = 2
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.rt.mu.Lock()
	k := *w.rt.containers[id]
	k.ID, k.Instance = "c-a-1-other", "a-1-other"
	w.rt.containers[k.Instance] = &k
	w.rt.nodes = append(w.rt.nodes, fakeNode("n2"))
	w.rt.mu.Unlock()
	w.ahead.Store(int64(2 * settled))
	spreadOut := func(st *router.AppState) bool {
		got := nodesOf(st, router.Ready)
		slices.Sort(got)
		return slices.Equal(got, []string{"n1", "n2"})
	}
	govern := func() { w.c.govern(w.get("a"), w.c.Now()) }
	govern()
	w.await("a", "a third on the other node", func(*router.AppState) bool {
		written, err := w.store.Load(t.Context(), "a") // the Catalog knows of it earlier
		return err == nil && written.Count(1, router.Ready) == 3
	})
	govern()
	w.await("a", "one on each", spreadOut)
	w.ahead.Store(int64(4 * settled))
	govern()
	if st := w.get("a"); !spreadOut(st) || st.Count(1, router.Ready, router.Starting) != 2 {
		t.Errorf("it does not stay: %+v", st.Instances)
	}
}
