package autoscale

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// fakeMeters tell and keep what they are told to.
type fakeMeters struct {
	mu    sync.Mutex
	stats map[string]router.Usage
	asked int
	kept  map[string]router.NodeUsage
}

func (f *fakeMeters) Stats(ctx context.Context, _ string) (map[string]router.Usage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("no deadline")
	}
	f.asked++
	return f.stats, nil
}

func (f *fakeMeters) PutUsage(_ context.Context, node string, u router.NodeUsage) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept[node] = u
	return nil
}

func (f *fakeMeters) Usage(context.Context, []string) (map[string]router.NodeUsage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kept, nil
}

// What instances use is asked for where some are ready, by one gateway, and a
// shortage that lasts is told once.
func TestLookAtUsage(t *testing.T) {
	w := newWorld(t)
	m := &fakeMeters{kept: map[string]router.NodeUsage{}}
	w.c.Meters, w.c.Usages = m, m
	watch := watchman{last: map[string]router.Usage{}, short: map[string]int{}, told: map[string]time.Time{}}
	told := func() (events []router.Event) {
		for {
			select {
			case e := <-w.c.journal:
				if e.event.Kind == "resources" {
					events = append(events, e.event)
				}
			default:
				return events
			}
		}
	}
	start := time.Unix(1e9, 0)
	look := func(second int, cpu time.Duration, memory router.Bytes) {
		t.Helper()
		id := w.get("a").Instances[0].ID
		m.stats = map[string]router.Usage{
			id:         {At: start.Add(time.Duration(second) * time.Second), CPUTime: cpu, Memory: memory},
			"a-1-else": {Memory: 1 << 30}, // of another installation
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w.c.lookAtUsage(ctx, &watch)
	}
	w.c.leads.Store(true)
	w.app("a")
	id := w.put("a", router.Frozen)
	look(0, 0, 1<<20)
	if m.asked != 0 {
		t.Error("a node on which nothing is ready was asked")
	}
	w.put("a", router.Ready)
	for i := range 5 {
		look(10*i, time.Duration(9900*i)*time.Millisecond, 100<<20)
	}
	node := w.get("a").Instances[0].Node
	if u := m.kept[node]; u.By != "g1" || len(u.Instances) != 1 || u.Instances[id].CPU < 0.98 || u.Instances[id].CPULimit != 1 || u.Instances[id].MemoryLimit != 512<<20 {
		t.Errorf("kept: %+v", u)
	}
	if got := told(); len(got) != 1 || got[0].Fields["short_of"] != "cpu" || !strings.Contains(got[0].Fields["advice"], "resources.cpu") {
		t.Errorf("told of the CPU: %+v", got)
	}
	for i := range 5 {
		look(60+10*i, 50*time.Second, 500<<20)
	}
	if got := told(); len(got) != 1 || got[0].Fields["short_of"] != "memory" {
		t.Errorf("told of the memory: %+v", got)
	}

	// Another gateway leads: where it tells of the node, nobody else asks.
	w.c.leads.Store(false)
	asked := m.asked
	m.kept[node] = router.NodeUsage{By: "g2"}
	look(120, 50*time.Second, 1<<20)
	if m.asked != asked {
		t.Error("two gateways ask the same node")
	}
	delete(m.kept, node)
	look(130, 50*time.Second, 1<<20)
	look(140, 50*time.Second, 1<<20)
	if m.asked != asked+2 || m.kept[node].By != "g1" {
		t.Error("nobody asks a node that this gateway alone reaches")
	}
}

// A death says what to do: more memory where that ran out, with what was used.
func TestAdviceOnDeath(t *testing.T) {
	for name, c := range map[string]struct {
		event router.ContainerEvent
		want  string
	}{
		"for memory": {router.ContainerEvent{ExitCode: 137, OOM: true}, "raise resources.memory above 512MB: it used 400MB"},
		"killed":     {router.ContainerEvent{ExitCode: 137}, "if nobody else killed it, memory ran out: raise"},
		"by itself":  {router.ContainerEvent{ExitCode: 1}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := &fakeMeters{kept: map[string]router.NodeUsage{}}
			w.c.Usages = m
			w.app("a")
			id := w.put("a", router.Ready)
			w.rt.set(id, router.ContainerExited)
			m.kept[w.get("a").Instances[0].Node] = router.NodeUsage{Instances: map[string]router.Usage{id: {MemoryPeak: 400 << 20}}}
			for len(w.c.journal) > 0 {
				<-w.c.journal
			}
			c.event.App, c.event.Instance = "a", id
			w.c.onDeath(t.Context(), c.event)
			e := <-w.c.journal
			if got := e.event.Fields["advice"]; e.event.Kind != "crash" || !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
				t.Errorf("%+v, want advice %q", e.event, c.want)
			}
		})
	}
}
