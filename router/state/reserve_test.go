package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

const mib = router.Bytes(1 << 20)

// start adds an instance of an app that counts for 10 MB.
func start(ctx context.Context, s *Store, app, id, node string) error {
	_, err := s.Update(ctx, app, func(st *router.AppState) error {
		if len(st.Releases) == 0 {
			st.AddRelease(router.Release{Run: router.Run{Reserve: 10 * mib}})
		}
		st.PutInstance(router.Instance{ID: id, App: app, Release: 1, Node: node, State: router.Starting})
		return nil
	})
	return err
}

func become(t *testing.T, s *Store, app, id string, state router.InstanceState) {
	t.Helper()
	update(t, s, app, func(st *router.AppState) error {
		in, ok := st.Instance(id)
		if !ok {
			return fmt.Errorf("no instance %s", id)
		}
		in.State = state
		return nil
	})
}

func wantReserved(t *testing.T, s *Store, node string, want router.Bytes) {
	t.Helper()
	all, err := s.Reserved(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if all[node] != want {
		t.Errorf("%d MB are reserved on %s, want %d", all[node]/mib, node, want/mib)
	}
}

func TestReservations(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	if err := s.PutNode(ctx, router.Node{Name: "n1", Facts: router.NodeFacts{Memory: 25 * mib}}); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(start(ctx, s, "a", "a1", "n1"))
	wantReserved(t, s, "n1", 10*mib)
	must(start(ctx, s, "a", "a1", "n1")) // the same again
	wantReserved(t, s, "n1", 10*mib)
	must(start(ctx, s, "b", "b1", "n1"))
	wantReserved(t, s, "n1", 20*mib)

	err := start(ctx, s, "c", "c1", "n1")
	var full *router.FullError
	if !errors.As(err, &full) || router.CodeOf(err) != router.CodeExhausted || *full != (router.FullError{Node: "n1", Reserved: 20 * mib, Capacity: 25 * mib}) {
		t.Fatalf("on a full node: %v", err)
	}
	if _, err := s.Load(ctx, "c"); router.CodeOf(err) != router.CodeNotFound {
		t.Errorf("something was written all the same: %v", err)
	}
	must(start(ctx, s, "c", "c1", "elsewhere")) // nothing is known of its size
	wantReserved(t, s, "elsewhere", 10*mib)

	become(t, s, "a", "a1", router.Ready)
	wantReserved(t, s, "n1", 20*mib)
	become(t, s, "a", "a1", router.Frozen)
	wantReserved(t, s, "n1", 10*mib)
	must(start(ctx, s, "d", "d1", "n1"))
	// A frozen instance is there already: it must wake where it is.
	become(t, s, "a", "a1", router.Starting)
	wantReserved(t, s, "n1", 30*mib)

	remove(t, s, "b")
	wantReserved(t, s, "n1", 20*mib)
	update(t, s, "a", func(st *router.AppState) error { st.DropInstance("a1"); return nil })
	remove(t, s, "d")
	wantReserved(t, s, "n1", 0)
}

// Two gateways place at once, and never more than there is room for.
func TestReservationsAtOnce(t *testing.T) {
	srv := startServer(t)
	stores := []*Store{openStore(t, srv), openStore(t, srv)}
	ctx := testContext(t)
	if err := stores[0].PutNode(ctx, router.Node{Name: "n1", Facts: router.NodeFacts{Memory: 105 * mib}}); err != nil {
		t.Fatal(err)
	}
	var placed, refused atomic.Int64
	var group sync.WaitGroup
	for i := range 60 {
		group.Go(func() {
			app := fmt.Sprintf("app%d", i%30) // two gateways at each
			err := start(ctx, stores[i/30], app, fmt.Sprintf("%s-%d", app, i), "n1")
			switch {
			case err == nil:
				placed.Add(1)
			case router.CodeOf(err) == router.CodeExhausted:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if placed.Load() != 10 || refused.Load() != 50 {
		t.Errorf("%d were placed and %d refused; there is room for 10", placed.Load(), refused.Load())
	}
	wantReserved(t, stores[0], "n1", 100*mib)
}
