package autoscale

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/fluxgate/fluxgate/router"
	"github.com/fluxgate/fluxgate/router/state"
)

// redisStore is the real Store as the gateway uses it: what was written is in
// the Catalog when Update returns.
type redisStore struct {
	*state.Store
	catalog *router.Catalog
}

func (s redisStore) Update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error) {
	st, err := s.Store.Update(ctx, app, fn)
	if err == nil {
		s.catalog.Apply(st)
	}
	return st, err
}

func openRedis(t *testing.T, catalog *router.Catalog) Store {
	t.Helper()
	dir := t.TempDir()
	server, err := state.StartServer(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	store, err := state.Open(t.Context(), state.Options{URL: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return redisStore{store, catalog}
}

// The store in memory that the Controller's tests stand on behaves as the real
// one does, in all that the Controller relies on.
func TestStores(t *testing.T) {
	for name, open := range map[string]func(*testing.T, *router.Catalog) Store{
		"in memory": func(_ *testing.T, c *router.Catalog) Store {
			return &memoryStore{catalog: c, apps: map[string]router.AppState{}}
		},
		"in Redis": openRedis,
	} {
		t.Run(name, func(t *testing.T) {
			catalog := router.NewCatalog()
			store := open(t, catalog)
			ctx := t.Context()

			if _, err := store.Load(ctx, "a"); router.CodeOf(err) != router.CodeNotFound {
				t.Errorf("loading what is not there: %v", err)
			}
			refused := errors.New("no")
			if _, err := store.Update(ctx, "a", func(*router.AppState) error { return refused }); !errors.Is(err, refused) {
				t.Errorf("an error of fn came back as %v", err)
			}
			first, err := store.Update(ctx, "a", func(st *router.AppState) error {
				if st.Version != 0 || st.App.Name != "a" {
					t.Errorf("a new app came as %+v", st)
				}
				st.App.Policy = router.DefaultPolicy()
				st.AddRelease(router.Release{Image: "i", Run: router.DefaultRun()})
				return nil
			})
			if err != nil || first.Version == 0 {
				t.Fatalf("%+v, %v", first, err)
			}
			if st, ok := catalog.Get("a"); !ok || st.Version != first.Version {
				t.Error("the Catalog does not have what was written")
			}
			if same, err := store.Update(ctx, "a", func(*router.AppState) error { return nil }); err != nil || same.Version != first.Version {
				t.Errorf("changing nothing made version %d of %d, %v", same.Version, first.Version, err)
			}

			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					_, err := store.Update(ctx, "a", func(st *router.AppState) error {
						st.PutInstance(router.Instance{ID: router.NewInstanceID("a", 1), App: "a", Release: 1, State: router.Ready})
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			st, err := store.Load(ctx, "a")
			if err != nil || len(st.Instances) != 8 || st.Version <= first.Version {
				t.Errorf("%d of 8 changes at once are there, version %d after %d, %v", len(st.Instances), st.Version, first.Version, err)
			}

			gone, err := store.Update(ctx, "a", func(st *router.AppState) error { st.Deleted = true; return nil })
			if _, ok := catalog.Get("a"); err != nil || gone.Version <= st.Version || ok {
				t.Errorf("after deleting: version %d, in the Catalog %v, %v", gone.Version, ok, err)
			}
			again, err := store.Update(ctx, "a", func(st *router.AppState) error { st.App.Policy = router.DefaultPolicy(); return nil })
			if _, ok := catalog.Get("a"); err != nil || again.Version <= gone.Version || !ok {
				t.Errorf("made again: version %d after %d, in the Catalog %v, %v", again.Version, gone.Version, ok, err)
			}
		})
	}
}
