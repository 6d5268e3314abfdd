package autoscale

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// fakeMeter says that each instance that runs or is frozen holds what it is told.
type fakeMeter struct {
	rt *fakeRuntime

	mu        sync.Mutex
	held      map[string]router.Bytes // by app
	cpu       map[string]float64      // by app: cores
	began     time.Time
	fail      error
	reclaimed []string
}

func (m *fakeMeter) Measure(_ context.Context, node string) (router.NodeUse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return router.NodeUse{}, m.fail
	}
	m.rt.mu.Lock()
	defer m.rt.mu.Unlock()
	use := router.NodeUse{At: time.Now(), Instances: map[string]router.InstanceUse{}}
	for id, k := range m.rt.containers {
		if k.Node == node && (k.State == router.ContainerRunning || k.State == router.ContainerPaused) {
			use.Instances[id] = router.InstanceUse{Memory: m.held[k.App], CPU: time.Duration(m.cpu[k.App] * float64(time.Since(m.began)))}
		}
	}
	return use, nil
}

func (m *fakeMeter) Reclaim(_ context.Context, in router.Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reclaimed = append(m.reclaimed, in.App)
	m.held[in.App] /= 2
	return nil
}

// tight is a world whose only node has little memory.
func tight(t *testing.T, capacity router.Bytes) (*world, *fakeMeter) {
	t.Helper()
	w := newWorld(t)
	m := &fakeMeter{rt: w.rt, held: map[string]router.Bytes{}, cpu: map[string]float64{}, began: time.Now()}
	w.c.Machines = m
	w.c.leads.Store(true)
	w.rt.nodes[0].Facts.Memory, w.rt.nodes[0].Facts.CPUs = capacity, 2
	return w, m
}

// idle makes an app's only instance one that has been idle for that long.
func (w *world) sleeps(app string, state router.InstanceState, idle time.Duration) string {
	w.t.Helper()
	id := w.put(app, state)
	_, err := w.store.Update(w.t.Context(), app, func(st *router.AppState) error {
		st.Instances[0].IdleSince, st.Instances[0].Since = w.c.Now().Add(-idle), w.c.Now().Add(-idle)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) state(app string) router.InstanceState {
	w.t.Helper()
	st := w.get(app)
	if len(st.Instances) != 1 {
		w.t.Fatalf("%s has %d instances, want 1", app, len(st.Instances))
	}
	return st.Instances[0].State
}

// look has the node looked at, as a tick does.
func (w *world) look() {
	w.t.Helper()
	w.c.strains.open("n1").next = time.Time{}
	w.c.lookAtNodes(w.t.Context())
}

func (r *fakeRuntime) index(call string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Index(r.calls, call)
}

// A start where frozen ones hold the memory goes on when the one that is
// regretted least has given it up.
func TestStartMakesRoom(t *testing.T) {
	for name, leads := range map[string]bool{"with the lease": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			w, m := tight(t, 400*megabyte)
			for _, app := range []string{"old", "young", "new"} {
				w.app(app)
			}
			old := w.sleeps("old", router.Frozen, time.Hour)
			w.sleeps("young", router.Frozen, time.Minute)
			id := w.sleeps("new", router.Stopped, time.Hour)
			m.held["old"], m.held["young"] = 180*megabyte, 160*megabyte
			w.c.leads.Store(leads)
			wake, err := w.c.Wake(t.Context(), "new")
			if err != nil {
				t.Fatal(err)
			}
			if got := w.state("old"); got != router.Stopped {
				t.Errorf("the one that has slept longest is %s", got)
			}
			if got := w.state("young"); got != router.Frozen {
				t.Errorf("the other one is %s", got)
			}
			stop, start := w.rt.index("stop "+old), slices.Index(w.rt.calls, "start "+id)
			if last := lastIndex(w.rt, "start "+id); stop < 0 || last < stop {
				t.Errorf("it was started before there was room: %v (%d, %d)", w.rt.calls, stop, start)
			}
			if !slices.ContainsFunc(wake.Phases, func(p router.Phase) bool { return p.Name == "room" }) {
				t.Errorf("the phases of the wake are %v", wake.Phases)
			}
		})
	}
}

func lastIndex(r *fakeRuntime, call string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range slices.Backward(r.calls) {
		if c == call {
			return i
		}
	}
	return -1
}

// A node that cannot be measured holds no start up.
func TestStartWithoutAMeasurement(t *testing.T) {
	w, m := tight(t, 400*megabyte)
	w.app("old")
	w.app("new")
	w.sleeps("old", router.Frozen, time.Hour)
	w.sleeps("new", router.Stopped, time.Hour)
	m.held["old"], m.fail = 390*megabyte, router.Errorf(router.CodeUnavailable, "no answer")
	if _, err := w.c.Wake(t.Context(), "new"); err != nil {
		t.Fatal(err)
	}
	if got := w.state("old"); got != router.Frozen {
		t.Errorf("without a measurement, another app's instance is %s", got)
	}
}

// The lease holder's look frees page cache first, instances then, and says why.
func TestLookMakesRoom(t *testing.T) {
	w, m := tight(t, 1000*megabyte)
	w.rt.nodes[0].Facts.Reclaim = router.ReclaimLimit
	for _, app := range []string{"old", "young", "awake"} {
		w.app(app)
	}
	old := w.sleeps("old", router.Frozen, time.Hour)
	w.sleeps("young", router.Frozen, time.Minute)
	w.sleeps("awake", router.Ready, time.Hour)
	m.held["old"], m.held["young"], m.held["awake"] = 300*megabyte, 300*megabyte, 320*megabyte
	w.look() // 920 MB are in use: 120 too many, 150 of them perhaps page cache
	if m.mu.Lock(); !slices.Contains(m.reclaimed, "old") || w.state("old") != router.Frozen {
		t.Errorf("page cache was taken from %v, and the oldest is %s", m.reclaimed, w.state("old"))
	}
	m.held["old"] = 300 * megabyte // it had none
	m.mu.Unlock()
	for w.state("old") == router.Frozen {
		w.look()
	}
	if got := w.state("young"); got != router.Frozen {
		t.Errorf("the younger one is %s", got)
	}
	if got := w.state("awake"); got != router.Ready {
		t.Errorf("the one that is ready is %s", got)
	}
	var told []string
	for {
		select {
		case e := <-w.c.journal:
			if e.event.Fields["instance"] == old && e.event.Fields["node"] == "n1" {
				told = append(told, e.event.Text)
			}
			continue
		default:
		}
		break
	}
	if len(told) != 2 || !strings.Contains(told[0], "page cache") || !strings.Contains(told[1], "is stopped") || !strings.Contains(told[1], "its node runs short") {
		t.Errorf("history says %q", told)
	}
}

// An instance that is ready and idle goes for memory where nothing sleeps; it is
// not given back until somebody asks for it.
func TestReadyOnesMakeRoom(t *testing.T) {
	w, m := tight(t, 1000*megabyte)
	w.app("idle")
	w.app("flight")
	id := w.sleeps("idle", router.Ready, time.Hour)
	w.sleeps("flight", router.Ready, time.Hour)
	m.held["idle"], m.held["flight"] = 300*megabyte, 700*megabyte
	k := w.c.minds.open("flight")
	k.mu.Lock()
	k.open, k.openAt = 1, w.c.Now()
	k.mu.Unlock()
	w.look()
	w.await("idle", "it is stopped", func(st *router.AppState) bool {
		in, ok := st.Instance(id)
		return ok && in.State == router.Stopped
	})
	if got := w.state("flight"); got != router.Ready {
		t.Errorf("the app with a request in flight is %s", got)
	}
	st := w.get("idle")
	now := w.c.Now()
	if got := w.c.strains.yielded(st, 1, 0, time.Hour, now); got != 0 {
		t.Errorf("%d instances are raised again although nobody asks", got)
	}
	if got := w.c.strains.yielded(st, 1, 0, -time.Second, now); got != 1 {
		t.Errorf("after a request, %d instances are raised", got)
	}
}

// Where everything is reserved, one that is idle is frozen for a start that
// found no place; one with requests is not, and then the start is refused.
func TestPlaceIsMade(t *testing.T) {
	for name, tt := range map[string]struct {
		flight int64
		want   router.InstanceState
	}{
		"by one that is idle":       {0, router.Frozen},
		"not by one with a request": {1, router.Ready},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := tight(t, 50*megabyte) // room for one
			w.app("idle")
			w.sleeps("idle", router.Ready, time.Hour)
			k := w.c.minds.open("idle")
			k.mu.Lock()
			k.open, k.openAt = tt.flight, w.c.Now()
			k.mu.Unlock()
			_, err := w.deploy("new", "img1")
			if (err != nil) != (tt.flight > 0) {
				t.Errorf("deploy: %v", err)
			}
			if got := w.state("idle"); got != tt.want {
				t.Errorf("the idle one is %s, want %s", got, tt.want)
			}
		})
	}
}

// An idle instance that burns the CPU is frozen when nothing is left of it.
func TestLookFreesCPU(t *testing.T) {
	w, m := tight(t, 8000*megabyte)
	w.app("burns")
	w.app("rests")
	w.sleeps("burns", router.Ready, time.Hour)
	w.sleeps("rests", router.Ready, time.Hour)
	m.cpu["burns"] = 2
	w.look()
	s := w.c.strains.open("n1")
	s.use.At = s.use.At.Add(-2 * time.Second) // two seconds ago, when nothing had been used
	s.use.Instances = map[string]router.InstanceUse{}
	for _, app := range []string{"burns", "rests"} {
		s.use.Instances[w.get(app).Instances[0].ID] = router.InstanceUse{}
	}
	m.began = s.use.At
	w.look()
	if got := w.state("burns"); got != router.Frozen {
		t.Errorf("the one that burns is %s", got)
	}
	if got := w.state("rests"); got != router.Ready {
		t.Errorf("the one that rests is %s", got)
	}
}
