package autoscale

import (
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// A wake or a deploy that is at a node whose engine hangs goes on at another as
// soon as that is known, and leaves nothing claimed.
func TestSilentNode(t *testing.T) {
	for name, tt := range map[string]struct {
		state router.InstanceState // before; empty: absent
		left  router.InstanceState
	}{
		"frozen":  {router.Frozen, router.Frozen},
		"stopped": {router.Stopped, router.Stopped},
		"absent":  {"", router.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("a")
			w.c.group.Wait()
			id := ""
			if tt.state != "" {
				id = w.put("a", tt.state)
			} else {
				in, _ := w.get("a").Instance(w.put("a", router.Stopped))
				w.c.remove(t.Context(), *in, nil)
			}
			asked := w.rt.mute("n1")
			done := make(chan router.Wake, 1)
			go func() {
				wake, err := w.c.Wake(t.Context(), "a")
				if err != nil {
					t.Error(err)
				}
				done <- wake
			}()
			<-asked
			w.rt.mu.Lock()
			w.rt.nodes = append(w.rt.nodes, fakeNode("n2"))
			w.rt.mu.Unlock()
			w.rt.down("n1")
			w.c.onEvent(t.Context(), router.ContainerEvent{Node: "n1", Kind: router.NodeUnanswered})
			wake := <-done
			w.c.group.Wait()
			st := w.get("a")
			if in, ok := st.Instance(wake.Instance); !ok || in.Node != "n2" || in.State != router.Ready {
				t.Errorf("woke %+v", in)
			}
			left := 0
			for _, in := range st.Instances {
				if in.Node != "n1" {
					continue
				}
				left++
				if in.State != tt.left || in.Claim.Holder != "" || id != "" && in.ID != id {
					t.Errorf("left behind: %+v", in)
				}
			}
			if left != 1 {
				t.Errorf("%d instances are on record at the silent node", left)
			}
			// Now that it is known, nothing more is asked there.
			w.freeze("a", wake.Instance)
			if again, err := w.c.Wake(t.Context(), "a"); err != nil || again.Instance != wake.Instance {
				t.Errorf("woke %s, %v", again.Instance, err)
			}
			if len(asked) != 0 {
				t.Errorf("%d more calls went to the silent node", len(asked))
			}
		})
	}
	t.Run("deploy", func(t *testing.T) {
		w := newWorld(t)
		asked := w.rt.mute("n1")
		done := make(chan error, 1)
		go func() {
			_, err := w.deploy("a", "img1")
			done <- err
		}()
		<-asked
		w.rt.mu.Lock()
		w.rt.nodes = append(w.rt.nodes, fakeNode("n2"))
		w.rt.mu.Unlock()
		w.rt.down("n1")
		w.c.onEvent(t.Context(), router.ContainerEvent{Node: "n1", Kind: router.NodeUnanswered})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if st := w.get("a"); st.Count(1, router.Ready) != 1 {
			t.Errorf("instances: %+v", st.Instances)
		}
	})
	t.Run("no other node", func(t *testing.T) {
		w := newWorld(t)
		w.app("a")
		id := w.put("a", router.Frozen)
		w.rt.fail["thaw"] = router.Errorf(router.CodeUnavailable, "node n1 did not answer within 10s")
		if _, err := w.c.Wake(t.Context(), "a"); router.CodeOf(err) != router.CodeUnavailable {
			t.Errorf("got %v", err)
		}
		// It is kept: when the node answers again, it is only a thaw away.
		if in, ok := w.get("a").Instance(id); !ok || in.State != router.Frozen || in.Claim.Holder != "" {
			t.Errorf("left: %+v", in)
		}
		delete(w.rt.fail, "thaw")
		if wake, err := w.c.Wake(t.Context(), "a"); err != nil || wake.Instance != id {
			t.Errorf("woke %s, %v", wake.Instance, err)
		}
	})
}

// What runs on a node that does not answer goes on serving although it is idle,
// and is lowered once the node answers.
func TestNothingIsLoweredOnASilentNode(t *testing.T) {
	w := newWorld(t)
	w.app("a")
	w.c.group.Wait()
	id := w.put("a", router.Ready)
	w.rt.down("n1")
	w.c.drain("a", id, w.c.Now(), "it is idle")
	w.c.group.Wait()
	if in, _ := w.get("a").Instance(id); in.State != router.Ready {
		t.Fatalf("it is %s", in.State)
	}
	w.rt.back("n1")

	// It is found out only by the call itself.
	w.rt.fail["freeze"] = router.Errorf(router.CodeUnavailable, "node n1 did not answer within 10s")
	w.c.drain("a", id, w.c.Now(), "it is idle")
	w.c.group.Wait()
	if in, _ := w.get("a").Instance(id); in.State != router.Draining || in.Claim.Holder != "" || w.rt.count("stop")+w.rt.count("remove") != 0 {
		t.Fatalf("it is %+v, stopped %d times, removed %d times", in, w.rt.count("stop"), w.rt.count("remove"))
	}
	w.rt.down("n1")
	w.c.resumeDrain("a", id)
	w.c.group.Wait()
	if n := w.rt.count("freeze"); n != 1 {
		t.Errorf("it was tried %d times", n)
	}
	w.rt.back("n1")
	delete(w.rt.fail, "freeze")
	w.c.resumeDrain("a", id)
	w.c.group.Wait()
	if in, _ := w.get("a").Instance(id); in.State != router.Frozen {
		t.Errorf("it is %s", in.State)
	}
}

// freeze puts one of an app's instances to sleep, container and record.
func (w *world) freeze(app, id string) {
	w.t.Helper()
	_, err := w.store.Update(w.t.Context(), app, func(st *router.AppState) error {
		in, _ := st.Instance(id)
		in.State, in.Claim = router.Frozen, router.Claim{}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.rt.set(id, router.ContainerPaused)
}
