package state

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

func TestUpdate(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)

	t.Run("an app that is not there", func(t *testing.T) {
		_, err := s.Load(ctx, "none")
		wantCode(t, err, router.CodeNotFound)
		var got router.AppState
		boom := errors.New("boom")
		_, err = s.Update(ctx, "none", func(st *router.AppState) error { got = *st; return boom })
		if !errors.Is(err, boom) || got.Version != 0 || got.App.Name != "none" {
			t.Fatalf("fn got %+v, Update gave %v", got, err)
		}
		_, err = s.Load(ctx, "none")
		wantCode(t, err, router.CodeNotFound)
	})

	t.Run("what is stored comes back", func(t *testing.T) {
		want := fullState()
		stored := update(t, s, want.App.Name, func(st *router.AppState) error {
			st.App, st.Releases, st.Instances = want.App, want.Releases, want.Instances
			return nil
		})
		if stored.Version == 0 {
			t.Fatal("the result has no version")
		}
		got, err := s.Load(ctx, want.App.Name)
		if err != nil {
			t.Fatal(err)
		}
		want.Version = stored.Version
		wantEqual(t, got, want)
	})

	t.Run("every write has a higher version", func(t *testing.T) {
		a := create(t, s, "rise-a")
		b := create(t, s, "rise-b")
		a2 := update(t, s, "rise-a", func(st *router.AppState) error { st.App.Owner = "x"; return nil })
		if a.Version >= b.Version || b.Version >= a2.Version {
			t.Fatalf("versions %d, %d, %d", a.Version, b.Version, a2.Version)
		}
	})

	t.Run("no change is no write", func(t *testing.T) {
		create(t, s, "same")
		put := func(st *router.AppState) error {
			st.PutInstance(router.Instance{ID: "same-1-x", App: "same", Release: 1, State: router.Ready})
			return nil
		}
		before := update(t, s, "same", put)
		after := update(t, s, "same", put)
		if after.Version != before.Version {
			t.Fatalf("version %d became %d", before.Version, after.Version)
		}
	})

	t.Run("only changed fields are sent", func(t *testing.T) {
		update(t, s, "fields", func(st *router.AppState) error {
			st.AddRelease(router.Release{Image: "sha256:1"})
			st.PutInstance(router.Instance{ID: "fields-1-a", State: router.Starting})
			st.PutInstance(router.Instance{ID: "fields-1-b", State: router.Starting})
			return nil
		})
		prev, err := s.Load(ctx, "fields")
		if err != nil {
			t.Fatal(err)
		}
		next := prev.Clone()
		next.Instances[1].State = router.Ready
		next.DropInstance("fields-1-a")
		set, drop := diff(prev, next)
		if len(set) != 2 || set[0] != "ins:fields-1-b" || len(drop) != 1 || drop[0] != "ins:fields-1-a" {
			t.Fatalf("set %q, drop %q", set, drop)
		}
		update(t, s, "fields", func(st *router.AppState) error { *st = next; return nil })
		got, err := s.Load(ctx, "fields")
		if err != nil || len(got.Instances) != 1 || got.Instances[0].State != router.Ready || len(got.Releases) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
	})

	t.Run("a release that failed is told as such", func(t *testing.T) {
		update(t, s, "failing", func(st *router.AppState) error {
			st.AddRelease(router.Release{Image: "sha256:1"})
			return nil
		})
		update(t, s, "failing", func(st *router.AppState) error { st.Releases[0].Failed = "exit 1"; return nil })
		got, err := s.Load(ctx, "failing")
		if err != nil || len(got.Releases) != 1 || got.Releases[0].Failed != "exit 1" {
			t.Fatalf("%+v, %v", got, err)
		}
	})

	t.Run("deleting", func(t *testing.T) {
		create(t, s, "doomed", "doomed.example.com")
		remove := func(st *router.AppState) error { st.Deleted = true; return nil }
		gone := update(t, s, "doomed", remove)
		if !gone.Deleted || gone.App.Name != "doomed" {
			t.Fatalf("%+v", gone)
		}
		_, err := s.Load(ctx, "doomed")
		wantCode(t, err, router.CodeNotFound)
		update(t, s, "doomed", remove) // again is fine
		create(t, s, "heir", "doomed.example.com")
		if again := create(t, s, "doomed"); again.Version <= gone.Version {
			t.Fatalf("made again with version %d after %d", again.Version, gone.Version)
		}
	})
}

func TestHostnames(t *testing.T) {
	srv := startServer(t)
	s, other := openStore(t, srv), openStore(t, srv)
	ctx := testContext(t)
	first := create(t, s, "first", "a.example.com", "b.example.com")

	_, err := other.Update(ctx, "second", func(st *router.AppState) error {
		st.App.Domains = []string{"free.example.com", "b.example.com"}
		return nil
	})
	wantCode(t, err, router.CodeConflict)
	for _, word := range []string{"b.example.com", "first"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not name %s: %v", word, err)
		}
	}
	_, err = s.Load(ctx, "second")
	wantCode(t, err, router.CodeNotFound)
	create(t, s, "third", "free.example.com") // the refused write claimed nothing

	update(t, s, "first", func(st *router.AppState) error { st.App.Domains = []string{"a.example.com"}; return nil })
	create(t, other, "second", "b.example.com") // given up by first

	// Two gateways want the same one at the same time: one gets it.
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			store := []*Store{s, other}[i%2]
			_, errs[i] = store.Update(ctx, fmt.Sprintf("rival-%d", i), func(st *router.AppState) error {
				st.App.Domains = []string{"prize.example.com"}
				return nil
			})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantCode(t, err, router.CodeConflict)
		}
	}
	if won != 1 {
		t.Fatalf("%d apps got the hostname", won)
	}
	if st, err := s.Load(ctx, "first"); err != nil || st.Version <= first.Version {
		t.Fatalf("%+v %v", st, err)
	}
}

func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	srv := startServer(t)
	stores := []*Store{openStore(t, srv), openStore(t, srv), openStore(t, srv)}
	ctx := testContext(t)
	const writers, rounds = 24, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for r := range rounds {
				_, err := stores[w%len(stores)].Update(ctx, "busy", func(st *router.AppState) error {
					st.App.Next++
					st.PutInstance(router.Instance{ID: fmt.Sprintf("busy-%d-%d", w, r), State: router.Starting})
					return nil
				})
				if err != nil {
					t.Errorf("writer %d, round %d: %v", w, r, err)
				}
			}
		})
	}
	wg.Wait()
	st, err := stores[0].Load(ctx, "busy")
	if err != nil || st.App.Next != writers*rounds || len(st.Instances) != writers*rounds {
		t.Fatalf("counted %d, %d instances, want %d; %v", st.App.Next, len(st.Instances), writers*rounds, err)
	}
}

// A write whose answer was lost is sent again by the client library. It must
// count once.
func TestRepeatedWriteCountsOnce(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	s.client.AddHook(&repeatHook{})
	for i := range 3 {
		st := update(t, s, "twice", func(st *router.AppState) error { st.App.Next++; return nil })
		if st.App.Next != i+1 {
			t.Fatalf("%d after %d updates", st.App.Next, i+1)
		}
	}
	st, err := s.Load(ctx, "twice")
	if err != nil || st.App.Next != 3 {
		t.Fatalf("%+v %v", st, err)
	}
	n, err := s.client.XLen(ctx, s.keys.changes()).Result()
	if err != nil || n != 3 {
		t.Fatalf("%d entries in the stream, %v", n, err)
	}
	gone := update(t, s, "twice", func(st *router.AppState) error {
		if st.Version == 0 {
			return router.Errorf(router.CodeNotFound, "no such app")
		}
		st.Deleted = true
		return nil
	})
	if !gone.Deleted {
		t.Fatal("not deleted")
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	create(t, s, "future")
	newer := fmt.Sprintf(`{"schema":%d,"name":["another type"]}`, router.SchemaVersion+1)
	if err := s.client.HSet(ctx, s.keys.app("future"), fieldApp, newer).Err(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Load(ctx, "future")
	wantCode(t, err, router.CodeInternal)
	if !strings.Contains(err.Error(), "newer Fluxgate") {
		t.Fatal(err)
	}
	_, err = s.Update(ctx, "future", func(st *router.AppState) error { st.App.Owner = "x"; return nil })
	wantCode(t, err, router.CodeInternal)
	if raw, _ := s.client.HGet(ctx, s.keys.app("future"), fieldApp).Result(); raw != newer {
		t.Fatalf("the newer record was overwritten with %s", raw)
	}
}

var _ redis.Hook = (*repeatHook)(nil)
