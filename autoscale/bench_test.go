package autoscale

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// crowd is a Controller with many nodes and apps. Some are awake and have 100
// requests in every second; the others are frozen. ahead is by how much its clock
// is ahead; calls counts what it asks Redis.
func crowd(b testing.TB, nodes, apps, awake int) (c *Controller, ahead *atomic.Int64, calls *atomic.Int64) {
	b.Helper()
	ahead, calls = new(atomic.Int64), new(atomic.Int64)
	catalog, rt := router.NewCatalog(), manyNodes{&fakeRuntime{}, map[string]*router.Node{}}
	rates := &steadySignals{awake: awake, calls: calls}
	c = New(Options{
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }, Memories: rates,
		Gateway: "g1", Catalog: catalog, Runtime: rt, Signals: rates, Journal: &fakeJournal{},
		Store:   &memoryStore{catalog: catalog, apps: map[string]router.AppState{}},
		Cluster: countingCluster{&fakeCluster{gateways: []string{"g1"}, asked: make(chan struct{}, 1)}, calls},
	})
	b.Cleanup(c.Close)
	for i := range nodes {
		n := fakeNode(fmt.Sprintf("n%d", i))
		rt.byName[n.Name] = &n
	}
	now := time.Now()
	for i := range apps {
		name := fmt.Sprintf("app%d", i)
		st := router.AppState{Version: uint64(i + 1), App: router.App{Name: name, Policy: router.DefaultPolicy(), Current: 1}}
		st.Releases = []router.Release{{App: name, Number: 1, Run: router.DefaultRun()}}
		in := router.Instance{ID: name + "-1-0", App: name, Release: 1, Node: fmt.Sprintf("n%d", i%nodes), State: router.Ready, Since: now, Addr: "127.0.0.1:1"}
		if i >= awake {
			in.State, in.Since, in.IdleSince = router.Frozen, now.Add(-time.Hour), now.Add(-time.Hour)
		}
		st.Instances = []router.Instance{in}
		catalog.Apply(st)
	}
	return c, ahead, calls
}

// manyNodes finds a node among very many as quickly as the real Runtime does.
type manyNodes struct {
	*fakeRuntime
	byName map[string]*router.Node
}

func (r manyNodes) Nodes() []*router.Node { return slices.Collect(maps.Values(r.byName)) }

func (r manyNodes) Node(name string) (*router.Node, bool) {
	n, ok := r.byName[name]
	return n, ok
}

// steadySignals are the same in every second.
type steadySignals struct {
	awake int
	calls *atomic.Int64
}

func (s *steadySignals) Rates(_ context.Context, from, to time.Time) (map[int64]map[string]router.Sample, error) {
	s.calls.Add(1)
	rates := map[int64]map[string]router.Sample{}
	for second := from.Unix(); second <= to.Unix(); second++ {
		rates[second] = make(map[string]router.Sample, s.awake)
		for i := range s.awake {
			rates[second][fmt.Sprintf("app%d", i)] = router.Sample{Requests: 100, Done: 100, Service: 100_000, InFlight: 1}
		}
	}
	return rates, nil
}

func (s *steadySignals) LastActive(context.Context, []string) (map[string]time.Time, error) {
	s.calls.Add(1)
	return nil, nil
}

func (s *steadySignals) Recall(context.Context, []string) (map[string][]byte, error) {
	s.calls.Add(1)
	return nil, nil
}

func (s *steadySignals) Keep(context.Context, map[string]router.Learned) error { return nil }

func (s *steadySignals) Due(context.Context, time.Time, int) ([]string, error) {
	s.calls.Add(1)
	return nil, nil
}

type countingCluster struct {
	*fakeCluster
	calls *atomic.Int64
}

func (c countingCluster) Lead(ctx context.Context) (bool, error) {
	c.calls.Add(1)
	return c.fakeCluster.Lead(ctx)
}

func (c countingCluster) Gateways(ctx context.Context) ([]string, error) {
	c.calls.Add(1)
	return c.fakeCluster.Gateways(ctx)
}

// TestTickRoundTrips: a tick asks Redis as often for a thousand active apps as for
// one: fewer than five times, but for the first, which also recalls what was
// learned.
func TestTickRoundTrips(t *testing.T) {
	c, ahead, calls := crowd(t, 10, 2000, 1000)
	c.tick(t.Context(), true)
	for range 5 {
		ahead.Add(int64(time.Second))
		calls.Store(0)
		c.tick(t.Context(), true)
		if n := calls.Load(); n >= 5 {
			t.Errorf("a tick asked Redis %d times", n)
		}
	}
}

// A tick costs in proportion to the apps that are awake.
func BenchmarkTick(b *testing.B) {
	for _, apps := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%d apps, 1000 awake, 1000 nodes", apps), func(b *testing.B) {
			c, ahead, _ := crowd(b, 1000, apps, 1000)
			for range 70 { // until nothing is new any more
				ahead.Add(int64(time.Second))
				c.tick(b.Context(), true)
			}
			for b.Loop() {
				ahead.Add(int64(time.Second))
				c.tick(b.Context(), true)
			}
		})
	}
}

func BenchmarkPlacement(b *testing.B) {
	for _, nodes := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("%d nodes", nodes), func(b *testing.B) {
			c, _, _ := crowd(b, nodes, 1000, 1000)
			rel := router.Release{Number: 1, Run: router.DefaultRun()}
			for b.Loop() {
				if _, err := Place("app1", rel.Run.Placement, rel.Run.Reserve, c.candidates("app1", &rel)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
