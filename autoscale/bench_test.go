package autoscale

import (
	"fmt"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// crowd is a Controller with many nodes and apps, some of which are awake and
// have had a request in every second of the last minute.
func crowd(b testing.TB, nodes, apps, awake int) *Controller {
	b.Helper()
	catalog, rt, rates := router.NewCatalog(), &fakeRuntime{}, &fakeSignals{rates: map[int64]map[string]router.Sample{}}
	c := New(Options{
		Gateway: "g1", Catalog: catalog, Runtime: rt, Signals: rates, Journal: &fakeJournal{},
		Store:   &memoryStore{catalog: catalog, apps: map[string]router.AppState{}},
		Cluster: &fakeCluster{gateways: []string{"g1"}, asked: make(chan struct{}, 1)},
	})
	b.Cleanup(c.Close)
	for i := range nodes {
		rt.nodes = append(rt.nodes, fakeNode(fmt.Sprintf("n%d", i)))
	}
	now := time.Now()
	for i := range apps {
		name := fmt.Sprintf("app%d", i)
		st := router.AppState{Version: uint64(i + 1), App: router.App{Name: name, Policy: router.DefaultPolicy(), Current: 1}}
		st.Releases = []router.Release{{App: name, Number: 1, Run: router.DefaultRun()}}
		if i < awake {
			st.Instances = []router.Instance{{ID: name + "-1-0", App: name, Release: 1, Node: rt.nodes[i%nodes].Name, State: router.Ready, Since: now, Addr: "127.0.0.1:1"}}
		}
		catalog.Apply(st)
	}
	for second := now.Unix() - 60; second < now.Unix()+600; second++ {
		rates.rates[second] = map[string]router.Sample{}
		for i := range awake {
			rates.rates[second][fmt.Sprintf("app%d", i)] = router.Sample{Requests: 1}
		}
	}
	return c
}

// A tick costs in proportion to the apps that are awake.
func BenchmarkTick(b *testing.B) {
	for _, apps := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%d apps, 1000 awake, 1000 nodes", apps), func(b *testing.B) {
			c := crowd(b, 1000, apps, 1000)
			c.tick(b.Context(), true)
			for b.Loop() {
				c.history.upTo -= 2 // the seconds of one tick are read anew
				c.tick(b.Context(), true)
			}
		})
	}
}

func BenchmarkPlacement(b *testing.B) {
	for _, nodes := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("%d nodes", nodes), func(b *testing.B) {
			c := crowd(b, nodes, 1000, 1000)
			rel := router.Release{Number: 1, Run: router.DefaultRun()}
			for b.Loop() {
				if _, err := Place("app1", rel.Run.Placement, rel.Run.Reserve, c.candidates("app1", &rel)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
