package autoscale

import (
	"slices"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestSurplusSparesTheBusy(t *testing.T) {
	now := time.Now()
	in := func(id string, release int, age time.Duration, busy time.Duration) router.Instance {
		i := router.Instance{ID: id, Release: release, Node: "n", State: router.Ready, Since: now.Add(-age)}
		if busy != 0 {
			i.BusyUntil = now.Add(busy)
		}
		return i
	}
	for name, tc := range map[string]struct {
		instances []router.Instance
		keep      int
		leaving   map[string]bool
		want      []string
	}{
		"another goes": {
			instances: []router.Instance{in("old", 2, time.Hour, 0), in("new", 2, time.Minute, time.Minute)}, keep: 1, want: []string{"old"},
		},
		"all are": {
			instances: []router.Instance{in("a", 2, time.Hour, time.Minute), in("b", 2, time.Minute, time.Minute)}, keep: 0,
		},
		"more are than are kept": {
			instances: []router.Instance{in("a", 2, 3*time.Hour, time.Minute), in("b", 2, 2*time.Hour, time.Minute), in("c", 2, time.Hour, 0)}, keep: 1, want: []string{"c"},
		},
		"it was": {
			instances: []router.Instance{in("a", 2, time.Hour, 0), in("b", 2, time.Minute, -time.Second)}, keep: 1, want: []string{"b"},
		},
		"of another release": {
			instances: []router.Instance{in("old", 1, time.Hour, time.Minute), in("idle", 1, time.Hour, 0), in("new", 2, time.Minute, 0)}, keep: 1, want: []string{"idle"},
		},
		"it leaves: its replacement stays": {
			instances: []router.Instance{in("a", 2, time.Hour, time.Minute), in("b", 2, time.Minute, 0)}, keep: 1, leaving: map[string]bool{"a": true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := &router.AppState{App: router.App{Current: 2}, Instances: tc.instances}
			if got := surplus(st, tc.keep, tc.leaving, nil, now); !slices.Equal(got, tc.want) {
				t.Errorf("drained %v, want %v", got, tc.want)
			}
		})
	}
}

// ask has an instance ask for a lease and waits until the record says so.
func (w *world) ask(app, id string, until time.Time, want bool) {
	w.t.Helper()
	w.c.Busy(app, id, until)
	w.await(app, "the lease is written", func(st *router.AppState) bool {
		in, ok := st.Instance(id)
		return ok && in.Busy(w.c.Now()) == want
	})
}

// A busy instance is not drained; when the lease is over, it is.
func TestBusyIsNotDrained(t *testing.T) {
	w := newWorld(t)
	id := w.app("a").Instances[0].ID
	w.ask("a", id, w.c.Now().Add(time.Minute), true)
	w.c.drain("a", id, w.c.Now(), "test")
	w.quiet(id)
	if in, _ := w.get("a").Instance(id); in.State != router.Ready {
		t.Fatalf("it is %s although it is busy", in.State)
	}
	w.ask("a", id, w.c.Now(), false) // it is done
	w.c.drain("a", id, w.c.Now(), "test")
	w.await("a", "it sleeps", func(st *router.AppState) bool {
		in, _ := st.Instance(id)
		return in.State == router.Frozen
	})
}

// quiet waits until nothing here works on an instance.
func (w *world) quiet(id string) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for w.c.working(id) {
		if time.Now().After(deadline) {
			w.t.Fatal("never settled")
		}
		time.Sleep(time.Millisecond)
	}
}

// What the last request of a draining instance leaves it to do is done, too.
func TestBusyEndsADrain(t *testing.T) {
	w := newWorld(t)
	id := w.app("a").Instances[0].ID
	w.cluster.autoAck = false
	w.c.drain("a", id, w.c.Now(), "test")
	drain := w.awaitDrain("a", id)
	w.ask("a", id, w.c.Now().Add(time.Minute), true)
	w.cluster.ack(drain, "g1")
	w.await("a", "it serves again", func(st *router.AppState) bool {
		in, _ := st.Instance(id)
		return in.State == router.Ready
	})
	w.quiet(id)
	if n := w.rt.count("freeze") + w.rt.count("stop"); n != 0 {
		t.Error("its container was frozen or stopped")
	}
}

func TestLeaseIsCapped(t *testing.T) {
	w := newWorld(t)
	id := w.app("a").Instances[0].ID
	longest := w.get("a").App.Policy.BusyMax.D()
	w.ask("a", id, w.c.Now().Add(1000*time.Hour), true)
	if in, _ := w.get("a").Instance(id); in.BusyUntil.After(w.c.Now().Add(longest)) {
		t.Errorf("it is busy until %v, longer than %s", in.BusyUntil, longest)
	}
}

// The old release of a deploy keeps the lease that it has and gets no longer
// one; a removal waits for nobody.
func TestBusyAcrossDeployAndRemoval(t *testing.T) {
	w := newWorld(t)
	id := w.app("a").Instances[0].ID
	w.ask("a", id, w.c.Now().Add(time.Minute), true)
	if _, err := w.deploy("a", "img2"); err != nil {
		t.Fatal(err)
	}
	w.quiet(id)
	before, _ := w.get("a").Instance(id)
	if before.State != router.Ready {
		t.Fatalf("the old release's busy instance is %s", before.State)
	}
	until := before.BusyUntil
	if err := w.c.grantLease("a", id, w.c.Now().Add(5*time.Minute)); err == nil {
		t.Error("a release that does not serve got a longer lease")
	}
	if in, _ := w.get("a").Instance(id); !in.BusyUntil.Equal(until) {
		t.Errorf("busy until %v, was %v", in.BusyUntil, until)
	}
	if err := w.c.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.catalog.Get("a"); ok {
		t.Error("the app is still there")
	}
}

// A lease that cannot be written is written when Redis is back.
func TestLeaseOutlastsRedis(t *testing.T) {
	w := newWorld(t)
	id := w.app("a").Instances[0].ID
	w.store.fail(router.Errorf(router.CodeUnavailable, "Redis is away"))
	w.c.Busy("a", id, w.c.Now().Add(time.Minute))
	w.store.fail(nil)
	w.await("a", "the lease is written", func(st *router.AppState) bool {
		in, _ := st.Instance(id)
		return in.Busy(w.c.Now())
	})
}

// Lease tells what was granted, and refuses where nothing was.
func TestLeaseAnswers(t *testing.T) {
	w := newWorld(t)
	id := w.app("a").Instances[0].ID
	until := w.c.Now().Add(time.Minute)
	if got, err := w.c.Lease(t.Context(), "a", id, until); err != nil || got.Before(until) {
		t.Errorf("%v, %v; want %v at least", got, err, until)
	}
	if got, err := w.c.Lease(t.Context(), "a", id, w.c.Now()); err != nil || !got.IsZero() {
		t.Errorf("%v, %v after its end", got, err)
	}
	if _, err := w.c.Lease(t.Context(), "a", "a-1-none", until); router.CodeOf(err) != router.CodeConflict {
		t.Errorf("for an instance that is not: %v", err)
	}
	if _, err := w.c.Lease(t.Context(), "b", id, until); router.CodeOf(err) != router.CodeNotFound {
		t.Errorf("for an app that is not: %v", err)
	}
	w.store.fail(router.Errorf(router.CodeUnavailable, "Redis is away"))
	if _, err := w.c.Lease(t.Context(), "a", id, until); router.CodeOf(err) != router.CodeUnavailable {
		t.Errorf("without Redis: %v", err)
	}
}
