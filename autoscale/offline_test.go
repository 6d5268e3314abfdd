package autoscale

import (
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

var errAway = router.Errorf(router.CodeUnavailable, "Redis does not answer")

// settled waits until the record says that the app's only instance is ready and
// nobody claims it.
func (w *world) settled(app, id string) {
	w.t.Helper()
	w.c.group.Wait()
	w.c.saveUnsaved(w.t.Context())
	w.c.voidOwn(w.t.Context())
	st, err := w.store.Load(w.t.Context(), app)
	if err != nil {
		w.t.Fatal(err)
	}
	in, ok := st.Instance(id)
	if !ok || in.State != router.Ready || in.Claim.Holder != "" || in.Addr != w.rt.addr {
		w.t.Errorf("the record is %+v", in)
	}
	if in, _ := w.get(app).Instance(id); in.State != router.Ready {
		w.t.Errorf("the Catalog shows %s", in.State)
	}
	if w.c.working(id) || len(w.c.saving) > 0 {
		w.t.Errorf("still at work on it: %v, unsaved: %v", w.c.working(id), w.c.saving)
	}
}

// A wake does not wait for a store that hangs, whatever becomes of the claim
// that it asked for.
func TestWakeWhileTheStoreHangs(t *testing.T) {
	for name, after := range map[string]func(w *world, resume func()){
		"the claim is written late": func(_ *world, resume func()) { resume() },
		"it is never written": func(w *world, resume func()) {
			w.store.fail(errAway)
			resume()
			w.c.group.Wait()
			w.store.fail(nil)
		},
		"it is written and the answer is lost": func(w *world, resume func()) {
			w.store.lose(true)
			resume()
			w.c.group.Wait()
			w.store.lose(false)
			// The stream tells it.
			st, err := w.store.Load(w.t.Context(), "a")
			if err != nil {
				w.t.Fatal(err)
			}
			w.catalog.Apply(st)
		},
	} {
		for _, state := range []router.InstanceState{router.Frozen, router.Stopped, router.Draining} {
			t.Run(name+", "+string(state), func(t *testing.T) {
				w := newWorld(t)
				w.app("a")
				w.c.group.Wait()
				id := w.put("a", state)
				resume := w.store.pause()
				wake, err := w.c.Wake(t.Context(), "a")
				if err != nil {
					t.Fatal(err)
				}
				if in, _ := w.get("a").Instance(id); wake.Instance != id || in.State != router.Ready {
					t.Errorf("woke %s, which the Catalog shows as %s", wake.Instance, in.State)
				}
				after(w, resume)
				w.settled("a", id)
				if n := w.rt.count("create"); n != 1 {
					t.Errorf("%d containers were created", n)
				}
			})
		}
	}
}

// Where the instance does not thaw, the store's late answer says what to do.
func TestWakeWhileTheStoreHangsAndTheNodeFails(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	w.c.group.Wait()
	old := w.put("a", router.Frozen)
	w.rt.mu.Lock()
	w.rt.fail["thaw"] = router.Errorf(router.CodeFailed, "it does not thaw")
	w.rt.mu.Unlock()
	resume := w.store.pause()
	done := make(chan error, 1)
	var wake router.Wake
	go func() {
		var err error
		wake, err = w.c.Wake(t.Context(), "a")
		done <- err
	}()
	for w.rt.count("thaw") == 0 { // it was tried
		select {
		case err := <-done:
			t.Fatalf("ended: %v", err)
		default:
		}
	}
	resume()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if wake.Instance == old {
		t.Error("what cannot be thawed was woken")
	}
	w.settled("a", wake.Instance)
}

// A store that was found not to answer is not asked by the wakes that follow,
// until it answers again.
func TestWakeKnowsThatTheStoreIsAway(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	w.c.group.Wait()
	id := w.put("a", router.Frozen)
	w.store.fail(errAway)
	if _, err := w.c.Wake(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	asked := w.store.asked()
	w.catalog.Amend("a", func(st *router.AppState) { st.Instances[0].State = router.Frozen })
	w.rt.set(id, router.ContainerPaused)
	if _, err := w.c.Wake(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if now := w.store.asked(); now != asked {
		t.Errorf("the second wake asked %d times", now-asked)
	}
	w.store.fail(nil)
	w.c.tick(t.Context(), true)
	w.settled("a", id)
	w.put("a", router.Frozen)
	asked = w.store.asked()
	if _, err := w.c.Wake(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	w.c.group.Wait()
	if w.store.asked() == asked {
		t.Error("a store that is back was not asked")
	}
}

// A wake without a store that finds its instance broken ends; it does not try
// on and on.
func TestWakeWithoutAStoreGivesUp(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	w.put("a", router.Frozen)
	w.rt.mu.Lock()
	w.rt.fail["thaw"] = router.Errorf(router.CodeUnavailable, "the node does not answer")
	w.rt.mu.Unlock()
	w.store.fail(errAway)
	if _, err := w.c.Wake(t.Context(), "a"); router.CodeOf(err) != router.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	if n := w.rt.count("thaw"); n != 1 {
		t.Errorf("it was tried %d times", n)
	}
}

// A claim for a new instance whose answer was lost holds nobody up: nobody
// works for it.
func TestLostClaimIsVoid(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	in, _ := w.get("a").Instance(w.put("a", router.Stopped))
	w.c.remove(t.Context(), *in, nil)
	w.store.lose(true)
	if _, err := w.c.Wake(t.Context(), "a"); router.CodeOf(err) != router.CodeUnavailable {
		t.Fatalf("got %v", err)
	}
	w.c.group.Wait()
	w.store.lose(false)
	st, err := w.store.Load(t.Context(), "a")
	if err != nil || len(st.Instances) != 1 || st.Instances[0].Claim.Holder != "g1" {
		t.Fatalf("nothing was claimed: %+v, %v", st.Instances, err)
	}
	w.catalog.Apply(st)
	done := make(chan error, 1)
	go func() {
		_, err := w.c.Wake(t.Context(), "a")
		done <- err
	}()
	w.c.voidOwn(t.Context())
	if err := <-done; err != nil { // its deadline is shorter than the claim
		t.Error(err)
	}
	w.c.group.Wait()
	if n := w.rt.count("create"); n != 2 {
		t.Errorf("%d containers were created, want the one of the deploy and that of the wake", n)
	}
	for _, in := range w.get("a").Instances {
		if in.Claim.Holder != "" && w.c.Now().Before(in.Claim.Until) {
			t.Errorf("still claimed: %+v", in)
		}
	}
}

// What another gateway took down while this one could not ask is not written
// down as ready, unless its container runs.
func TestUnsavedAgainstAnothersWrite(t *testing.T) {
	for name, tt := range map[string]struct {
		container router.ContainerState
		want      router.InstanceState
	}{
		"it was stopped after":  {router.ContainerExited, router.Stopped},
		"it was stopped before": {router.ContainerRunning, router.Ready},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("a")
			w.c.group.Wait()
			id := w.put("a", router.Frozen)
			w.store.fail(errAway)
			if _, err := w.c.Wake(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			w.store.fail(nil)
			w.put("a", router.Stopped) // the other gateway
			w.rt.set(id, tt.container)
			w.c.saveUnsaved(t.Context())
			st, err := w.store.Load(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			if in, _ := st.Instance(id); in.State != tt.want {
				t.Errorf("the record shows %s, want %s", in.State, tt.want)
			}
		})
	}
}
