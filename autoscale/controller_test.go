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

func TestWakeFromEachRung(t *testing.T) {
	tests := map[string]struct {
		state  router.InstanceState
		from   router.Rung
		phases string
	}{
		"ready":    {router.Ready, router.RungReady, ""},
		"draining": {router.Draining, router.RungReady, "claim"},
		"frozen":   {router.Frozen, router.RungFrozen, "claim thaw probe"},
		"stopped":  {router.Stopped, router.RungStopped, "claim start probe"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("a")
			id := w.put("a", tt.state)
			wake, err := w.c.Wake(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			var phases []string
			for _, p := range wake.Phases {
				phases = append(phases, p.Name)
			}
			if wake.From != tt.from || strings.Join(phases, " ") != tt.phases {
				t.Errorf("from %s by %v, want %s by %s", wake.From, phases, tt.from, tt.phases)
			}
			in, ok := w.get("a").Instance(id)
			if !ok || in.State != router.Ready || in.Addr == "" {
				t.Errorf("instance is %+v", in)
			}
			if n := w.rt.count("create"); n != 1 {
				t.Errorf("%d containers were created, want the deploy's one", n)
			}
		})
	}
}

func TestWakeFromAbsent(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Stopped)
	in, _ := w.get("a").Instance(id)
	w.c.remove(t.Context(), *in, nil)
	wake, err := w.c.Wake(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if wake.From != router.RungAbsent || wake.Instance == id {
		t.Errorf("wake %+v", wake)
	}
}

func TestManyWakesStartOneContainer(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	in, _ := w.get("a").Instance(w.put("a", router.Stopped))
	w.c.remove(t.Context(), *in, nil)
	// A second gateway on the same store, with its own view of the claims.
	other := New(w.c.Options)
	other.Gateway = "g2"
	t.Cleanup(other.Close)
	before := w.rt.count("start")
	var group sync.WaitGroup
	for i := range 100 {
		c := w.c
		if i%2 == 0 {
			c = other
		}
		group.Go(func() {
			if _, err := c.Wake(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := w.rt.count("start") - before; n != 1 {
		t.Errorf("%d containers were started for one wake", n)
	}
}

func TestCrashBackoff(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	in, _ := w.get("a").Instance(w.put("a", router.Stopped))
	w.c.remove(t.Context(), *in, nil)
	w.rt.fail["start"] = router.Errorf(router.CodeFailed, "exited with code 1")
	started := w.rt.count("start")

	_, err := w.c.Wake(t.Context(), "a")
	var e *router.Error
	if !errors.As(err, &e) || e.Code != router.CodeUnavailable || e.RetryAfter <= 0 {
		t.Fatalf("got %v, want unavailable with Retry-After", err)
	}
	// The first death costs no delay, the second one a second.
	if n := w.rt.count("start") - started; n != 2 {
		t.Errorf("tried %d times, want 2", n)
	}
	if n := len(w.get("a").Instances); n != 0 {
		t.Errorf("%d records are left", n)
	}
	_, err = w.c.Wake(t.Context(), "a")
	if n := w.rt.count("start") - started; n != 2 || !errors.As(err, &e) || e.RetryAfter <= 0 {
		t.Errorf("within the backoff it was started again (%d): %v", n, err)
	}
	// After the backoff it is tried again, and works.
	w.ahead.Store(int64(time.Minute))
	delete(w.rt.fail, "start")
	if _, err := w.c.Wake(t.Context(), "a"); err != nil {
		t.Errorf("after the backoff: %v", err)
	}
}

func TestWakeGivesUpWithItsCaller(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	in, _ := w.get("a").Instance(w.put("a", router.Stopped))
	w.c.remove(t.Context(), *in, nil)
	w.rt.hold = make(chan struct{}) // the engine hangs
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := w.c.Wake(ctx, "a")
	if router.CodeOf(err) != router.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	close(w.rt.hold)
	if st := w.get("a"); st.App.Crash.Count != 0 || len(st.Instances) != 0 {
		t.Errorf("an engine that hangs is not the app's crash: %+v, %v", st.App.Crash, st.Instances)
	}
}

func TestWakeUnknownApp(t *testing.T) {
	w := newWorld(t)
	if _, err := w.c.Wake(t.Context(), "nobody"); router.CodeOf(err) != router.CodeNotFound {
		t.Errorf("got %v", err)
	}
	if len(w.store.apps) != 0 {
		t.Error("a wake made an app")
	}
}

func TestWakeWithoutRedis(t *testing.T) {
	for _, state := range []router.InstanceState{router.Frozen, router.Stopped} {
		t.Run(string(state), func(t *testing.T) {
			w := newWorld(t)
			w.app("a")
			id := w.put("a", state)
			w.store.fail(router.Errorf(router.CodeUnavailable, "Redis does not answer"))
			if _, err := w.c.Wake(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if in, _ := w.get("a").Instance(id); in.State != router.Ready {
				t.Errorf("the Catalog shows %s", in.State)
			}
			w.store.fail(nil)
			w.c.saveUnsaved(t.Context())
			st, err := w.store.Load(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			if in, _ := st.Instance(id); in.State != router.Ready {
				t.Errorf("the record shows %s after Redis is back", in.State)
			}
		})
	}
	t.Run("absent", func(t *testing.T) {
		w := newWorld(t)
		w.app("a")
		in, _ := w.get("a").Instance(w.put("a", router.Stopped))
		w.c.remove(t.Context(), *in, nil)
		w.store.fail(router.Errorf(router.CodeUnavailable, "Redis does not answer"))
		if _, err := w.c.Wake(t.Context(), "a"); router.CodeOf(err) != router.CodeUnavailable {
			t.Errorf("got %v", err)
		}
		if n := w.rt.count("create"); n != 1 {
			t.Errorf("a container was created without a claim")
		}
	})
}

func TestDrainWaitsForEveryGateway(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Ready)
	w.cluster.autoAck = false
	w.cluster.gateways = []string{"g1", "g2"}
	w.c.drain("a", id, w.c.Now(), "test")
	drain := w.awaitDrain("a", id)
	w.cluster.ack(drain, "g1")
	// Several looks at the acknowledgements later it must still run.
	for range 5 {
		<-w.cluster.asked
	}
	if n := w.rt.count("freeze"); n != 0 {
		t.Fatal("frozen although a gateway had not let go")
	}
	w.cluster.ack(drain, "g2")
	w.await("a", "it is frozen", func(st *router.AppState) bool { in, _ := st.Instance(id); return in.State == router.Frozen })
}

func TestWakeCancelsADrain(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Ready)
	w.cluster.autoAck = false
	w.c.drain("a", id, w.c.Now(), "test")
	drain := w.awaitDrain("a", id)
	if _, err := w.c.Wake(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	w.cluster.ack(drain, "g1")
	w.c.group.Wait()
	if in, _ := w.get("a").Instance(id); in.State != router.Ready || w.rt.count("freeze") != 0 {
		t.Errorf("the drain went on: %s", in.State)
	}
}

// What a gateway acknowledged of a drain that was cancelled must not count for
// the next one.
// A process that stood still between claiming an instance and freezing it was
// taken for dead meanwhile: what it claimed may serve again.
func TestStaleClaimIsNotActedOn(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	w.c.group.Wait()
	id := w.put("a", router.Ready)
	w.cluster.mu.Lock()
	w.cluster.cleared = func() {
		w.ahead.Store(int64(10 * time.Second))
		_, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error {
			in, _ := st.Instance(id)
			return in.To(router.Ready, w.c.Now())
		})
		if err != nil {
			t.Error(err)
		}
	}
	w.cluster.mu.Unlock()
	w.c.drain("a", id, w.c.Now(), "it is idle")
	w.c.group.Wait()
	if in, _ := w.get("a").Instance(id); in.State != router.Ready || w.rt.count("freeze") != 0 {
		t.Errorf("it is %s, frozen %d times", in.State, w.rt.count("freeze"))
	}
}

func TestOldAcksDoNotCount(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Ready)
	w.cluster.autoAck = false
	w.cluster.gateways = []string{"g1", "g2"}
	w.c.drain("a", id, w.c.Now(), "test")
	w.cluster.ack(w.awaitDrain("a", id), "g1")
	if _, err := w.c.Wake(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	w.c.group.Wait()
	w.c.drain("a", id, w.c.Now(), "test")
	w.cluster.ack(w.awaitDrain("a", id), "g2")
	for range 5 {
		<-w.cluster.asked
	}
	if n := w.rt.count("freeze"); n != 0 {
		t.Error("frozen although a gateway has let go only of an earlier drain")
	}
}

func TestDeathIsNoticedAndReplaced(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Ready)
	w.rt.set(id, router.ContainerExited)
	w.c.onEvent(t.Context(), router.ContainerEvent{Kind: router.ContainerDied, App: "a", Instance: id, Container: "c-" + id, ExitCode: 3})
	st := w.await("a", "its remains are gone", func(st *router.AppState) bool { _, ok := st.Instance(id); return !ok })
	if st.App.Crash.Count != 1 || !strings.Contains(st.App.Crash.Reason, "code 3") {
		t.Errorf("crash %+v", st.App.Crash)
	}
	wake, err := w.c.Wake(t.Context(), "a") // the first death costs no delay
	if err != nil || wake.Instance == id {
		t.Errorf("%+v, %v", wake, err)
	}
}

func TestSuspect(t *testing.T) {
	tests := map[string]struct {
		container router.ContainerState // empty: there is none
		dead      bool
	}{
		"it has exited":     {router.ContainerExited, true},
		"it is gone":        {"", true},
		"it runs after all": {router.ContainerRunning, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("a-b")
			id := w.put("a-b", router.Ready)
			w.rt.set(id, tt.container)
			if tt.container == "" {
				delete(w.rt.containers, id)
			}
			w.c.Suspect(id)
			w.c.group.Wait()
			in, ok := w.get("a-b").Instance(id)
			if alive := ok && in.State == router.Ready; alive == tt.dead {
				t.Errorf("alive: %v", alive)
			}
			if n := w.get("a-b").App.Crash.Count; (n == 1) != tt.dead {
				t.Errorf("%d crashes", n)
			}
		})
	}
}

func TestDeathOfAStoppedOneIsOurs(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Stopped)
	w.c.onEvent(t.Context(), router.ContainerEvent{Kind: router.ContainerDied, App: "a", Instance: id})
	if in, ok := w.get("a").Instance(id); !ok || in.State != router.Stopped || w.get("a").App.Crash.Count != 0 {
		t.Errorf("%+v", in)
	}
}

func TestDeploySwitchesOnlyWhenHealthy(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	old := w.put("a", router.Ready)

	good := w.rt.addr
	w.rt.addr = deadAddr(t)
	w.rt.tail = "listening on 3000\n"
	_, err := w.deploy("a", "img2")
	if router.CodeOf(err) != router.CodeFailed || !strings.Contains(err.Error(), "listening on 3000") || !strings.Contains(err.Error(), "v1 goes on serving") {
		t.Errorf("the error should hold the last lines and what serves: %v", err)
	}
	st := w.get("a")
	if st.App.Current != 1 || st.Count(1, router.Ready) != 1 || len(st.Instances) != 1 {
		t.Errorf("after a failed deploy: %+v", st)
	}
	if r, _ := st.Release(2); r.Failed == "" {
		t.Error("the failed release is not marked")
	}

	w.rt.addr = good
	st2, err := w.deploy("a", "img3")
	if err != nil || st2.App.Current != 3 {
		t.Fatalf("%+v, %v", st2.App, err)
	}
	w.await("a", "the old one is frozen for a rollback", func(st *router.AppState) bool {
		in, ok := st.Instance(old)
		return ok && in.State == router.Frozen
	})

	thaws := w.rt.count("thaw")
	st3, err := w.c.Rollback(t.Context(), "a", 0, "tester", func(router.DeployStep) {})
	if err != nil || st3.App.Current != 1 || w.rt.count("thaw") != thaws+1 {
		t.Errorf("rollback: current %d, %d thaws, %v", st3.App.Current, w.rt.count("thaw")-thaws, err)
	}
	if _, err := w.c.Rollback(t.Context(), "a", 2, "tester", func(router.DeployStep) {}); router.CodeOf(err) != router.CodeConflict {
		t.Errorf("rollback to a failed release: %v", err)
	}
}

func TestFailedFirstDeployLeavesNoApp(t *testing.T) {
	w := newWorld(t)
	w.rt.fail["start"] = router.Errorf(router.CodeFailed, "exec format error")
	if _, err := w.deploy("new", "img"); router.CodeOf(err) != router.CodeFailed {
		t.Errorf("got %v", err)
	}
	if _, ok := w.catalog.Get("new"); ok || len(w.rt.containers) != 0 {
		t.Error("something is left of it")
	}
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	if err := w.c.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.catalog.Get("a"); ok || len(w.rt.containers) != 0 {
		t.Error("something is left of it")
	}
	if err := w.c.Delete(t.Context(), "a"); router.CodeOf(err) != router.CodeNotFound {
		t.Errorf("deleting twice: %v", err)
	}
}

// A gateway that is killed during an app's first push, or while it removes one,
// leaves a record without a serving release.
func TestLeftBehindAppIsRemoved(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	if _, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error { st.App.Current = 0; return nil }); err != nil {
		t.Fatal(err)
	}
	w.c.tick(t.Context(), true)
	w.c.group.Wait()
	if _, ok := w.catalog.Get("a"); !ok {
		t.Fatal("removed while its push may still be under way")
	}
	w.ahead.Store(int64(10 * time.Minute))
	w.c.tick(t.Context(), true)
	w.c.group.Wait()
	if _, ok := w.catalog.Get("a"); ok || len(w.rt.containers) != 0 {
		t.Error("something is left of it")
	}
}

func TestReconcile(t *testing.T) {
	tests := map[string]struct {
		record    router.InstanceState
		container router.ContainerState
		want      router.InstanceState // empty: no record
	}{
		"both ready":                      {router.Ready, router.ContainerRunning, router.Ready},
		"stopped behind our back":         {router.Ready, router.ContainerExited, router.Stopped},
		"frozen, not yet written down":    {router.Ready, router.ContainerPaused, router.Frozen},
		"thawed, not yet written down":    {router.Frozen, router.ContainerRunning, router.Ready},
		"killed in the middle of a thaw":  {router.Starting, router.ContainerPaused, router.Frozen},
		"killed in the middle of a start": {router.Starting, router.ContainerRunning, router.Ready},
		"killed before the start":         {router.Starting, router.ContainerCreated, router.Failed},
		"its container is gone":           {router.Ready, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("a")
			id := w.put("a", tt.record)
			w.rt.set(id, tt.container)
			if tt.container == "" {
				delete(w.rt.containers, id)
			}
			if err := w.c.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.await("a", "adopted", func(st *router.AppState) bool {
				in, ok := st.Instance(id)
				return ok && in.State == tt.want || !ok && tt.want == ""
			})
			if n := w.rt.count("create"); n != 1 {
				t.Errorf("%d containers were created", n)
			}
		})
	}
	t.Run("a container without a record is removed", func(t *testing.T) {
		w := newWorld(t)
		w.rt.containers["ghost-1-aa"] = &router.Container{ID: "g", Node: "n1", Instance: "ghost-1-aa", App: "ghost", State: router.ContainerRunning}
		if err := w.c.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.c.group.Wait()
		if len(w.rt.containers) != 0 {
			t.Error("it is still there")
		}
	})
}

func TestTickLowersAndRaises(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	id := w.put("a", router.Ready)
	w.ahead.Store(int64(time.Minute))
	w.c.tick(t.Context(), true)
	w.await("a", "the idle one is frozen", func(st *router.AppState) bool { in, _ := st.Instance(id); return in.State == router.Frozen })

	w.ahead.Store(int64(2 * time.Hour))
	w.c.group.Wait()
	w.c.tick(t.Context(), true)
	w.await("a", "it is stopped", func(st *router.AppState) bool { in, _ := st.Instance(id); return in.State == router.Stopped })

	w.ahead.Store(int64(48 * time.Hour))
	w.c.group.Wait()
	w.c.tick(t.Context(), true)
	w.await("a", "it is absent", func(st *router.AppState) bool { return len(st.Instances) == 0 })

	w.ahead.Store(0)
	if _, err := w.store.Update(t.Context(), "a", func(st *router.AppState) error { st.App.Policy.Min = 2; return nil }); err != nil {
		t.Fatal(err)
	}
	w.c.group.Wait()
	w.c.tick(t.Context(), true)
	w.await("a", "min is there", func(st *router.AppState) bool { return st.Count(1, router.Ready) == 2 })
}

// A node's event stream opens at any moment, and reconciles; what is being
// started then must be left alone.
func TestReconcileDuringAStart(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	in, _ := w.get("a").Instance(w.put("a", router.Stopped))
	w.c.remove(t.Context(), *in, nil)
	w.rt.hold = make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := w.c.Wake(t.Context(), "a")
		done <- err
	}()
	st := w.await("a", "it starts", func(st *router.AppState) bool { return st.Count(1, router.Starting) == 1 })
	w.rt.mu.Lock()
	w.rt.containers = map[string]*router.Container{} // listed before it was created
	w.rt.mu.Unlock()
	if err := w.c.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := w.get("a"); now.Version != st.Version {
		t.Errorf("the record was changed: %+v", now.Instances)
	}
	w.rt.mu.Lock()
	id := st.Instances[0].ID
	w.rt.containers[id] = &router.Container{ID: "c-" + id, Instance: id, App: "a", Addr: w.rt.addr}
	w.rt.mu.Unlock()
	close(w.rt.hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
