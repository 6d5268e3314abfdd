package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func record(name string, version uint64) AppState {
	return AppState{Version: version, App: App{Name: name}}
}

func gone(name string, version uint64) AppState {
	return AppState{Version: version, App: App{Name: name}, Deleted: true}
}

func TestCatalogApply(t *testing.T) {
	tests := map[string]struct {
		apply   []AppState
		applied []bool
		version uint64 // held in the end; 0: not there
	}{
		"in order":                       {[]AppState{record("a", 1), record("a", 2)}, []bool{true, true}, 2},
		"an older one is too late":       {[]AppState{record("a", 2), record("a", 1)}, []bool{true, false}, 2},
		"the same again":                 {[]AppState{record("a", 2), record("a", 2)}, []bool{true, false}, 2},
		"deleted":                        {[]AppState{record("a", 1), gone("a", 2)}, []bool{true, true}, 0},
		"deleted twice":                  {[]AppState{record("a", 1), gone("a", 2), gone("a", 2)}, []bool{true, true, false}, 0},
		"not brought back by a late one": {[]AppState{record("a", 1), gone("a", 3), record("a", 2)}, []bool{true, true, false}, 0},
		"deleted before it was seen":     {[]AppState{gone("a", 3), record("a", 2)}, []bool{false, false}, 0},
		"made again":                     {[]AppState{record("a", 1), gone("a", 2), record("a", 3)}, []bool{true, true, true}, 3},
		"a late deletion of the earlier": {[]AppState{record("a", 5), gone("a", 2)}, []bool{true, false}, 5},
		"others do not matter":           {[]AppState{record("a", 1), record("b", 9), record("a", 2)}, []bool{true, true, true}, 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := NewCatalog()
			var got []bool
			for _, st := range test.apply {
				got = append(got, c.Apply(st))
			}
			st, ok := c.Get("a")
			if !slices.Equal(got, test.applied) || ok != (test.version > 0) || ok && st.Version != test.version {
				t.Errorf("applied %v, holds %+v", got, st)
			}
		})
	}
}

func TestCatalogHooks(t *testing.T) {
	c := NewCatalog()
	var seen []string
	version := func(st *AppState) uint64 {
		if st == nil {
			return 0
		}
		return st.Version
	}
	c.OnChange(func(prev, next *AppState) { seen = append(seen, fmt.Sprintf("%d-%d", version(prev), version(next))) })
	for _, st := range []AppState{record("a", 1), record("a", 1), record("a", 2), gone("a", 3), gone("a", 3), gone("b", 4)} {
		c.Apply(st)
	}
	if want := []string{"0-1", "1-2", "2-0"}; !slices.Equal(seen, want) {
		t.Errorf("saw %v, want %v", seen, want)
	}
}

func TestCatalogAll(t *testing.T) {
	c := NewCatalog()
	for i, name := range []string{"c", "a", "b"} {
		c.Apply(record(name, uint64(i+1)))
	}
	c.Apply(gone("b", 9))
	all := c.All()
	if len(all) != 2 || all[0].App.Name != "a" || all[1].App.Name != "c" {
		t.Errorf("%+v", all)
	}
}

func TestCatalogAwait(t *testing.T) {
	atLeast := func(version uint64) func(*AppState) bool {
		return func(st *AppState) bool { return st.Version >= version }
	}
	t.Run("is so already", func(t *testing.T) {
		c := NewCatalog()
		c.Apply(record("a", 2))
		if st, err := c.Await(t.Context(), "a", atLeast(2)); err != nil || st.Version != 2 {
			t.Errorf("%+v, %v", st, err)
		}
	})
	t.Run("no such app", func(t *testing.T) {
		if _, err := NewCatalog().Await(t.Context(), "a", atLeast(1)); CodeOf(err) != CodeNotFound {
			t.Error(err)
		}
	})
	t.Run("waits, and only for its own app", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := NewCatalog()
			c.Apply(record("a", 1))
			looks := 0
			result := make(chan uint64, 1)
			go func() {
				st, err := c.Await(t.Context(), "a", func(st *AppState) bool { looks++; return st.Version >= 4 })
				if err != nil {
					t.Error(err)
				}
				result <- st.Version
			}()
			synctest.Wait()
			c.Apply(record("b", 2))
			synctest.Wait()
			c.Apply(record("a", 3))
			synctest.Wait()
			c.Apply(record("a", 5))
			if v := <-result; v != 5 || looks != 3 {
				t.Errorf("version %d after %d looks", v, looks)
			}
		})
	})
	t.Run("the app is deleted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := NewCatalog()
			c.Apply(record("a", 1))
			result := make(chan error, 1)
			go func() { _, err := c.Await(t.Context(), "a", atLeast(9)); result <- err }()
			synctest.Wait()
			c.Apply(gone("a", 2))
			if err := <-result; CodeOf(err) != CodeNotFound {
				t.Error(err)
			}
		})
	})
	t.Run("given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := NewCatalog()
			c.Apply(record("a", 1))
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() { _, err := c.Await(ctx, "a", atLeast(9)); result <- err }()
			synctest.Wait()
			cancel()
			if err := <-result; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if len(c.waiters) != 0 {
				t.Error("its place in the queue is not given back")
			}
		})
	})
}

// TestCatalogUnderChange: many writers in any order, and all agree in the end.
func TestCatalogUnderChange(t *testing.T) {
	c := NewCatalog()
	var last uint64
	var mu sync.Mutex
	c.OnChange(func(prev, next *AppState) {
		mu.Lock()
		defer mu.Unlock()
		if prev != nil && prev.Version >= next.Version || next.Version <= last {
			t.Errorf("from %v to %v after %d", prev, next, last)
		}
		last = next.Version
	})
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 200 {
				c.Apply(record("a", uint64(i*8+w+1)))
				if st, ok := c.Get("a"); !ok || st.App.Name != "a" {
					t.Error("lost")
				}
				_ = c.All()
			}
		})
	}
	waited, err := c.Await(t.Context(), "a", func(*AppState) bool { return true })
	if CodeOf(err) != CodeNotFound && (err != nil || waited == nil) {
		t.Error(err)
	}
	writers.Wait()
	if st, _ := c.Get("a"); st.Version != 1600 || last != 1600 {
		t.Errorf("holds %d, the hooks saw %d", st.Version, last)
	}
}

func TestCatalogLiving(t *testing.T) {
	c := NewCatalog()
	version := uint64(0)
	put := func(name string, change func(*AppState)) {
		version++
		st := AppState{Version: version, App: App{Name: name, Current: 1}}
		if change != nil {
			change(&st)
		}
		c.Apply(st)
	}
	want := func(what string, names ...string) {
		t.Helper()
		var got []string
		for _, st := range c.Living() {
			got = append(got, st.App.Name)
		}
		if !slices.Equal(got, names) {
			t.Errorf("%s: living are %v, want %v", what, got, names)
		}
	}
	put("sleeper", nil)
	put("runs", func(st *AppState) { st.Instances = []Instance{{ID: "a"}} })
	put("min", func(st *AppState) { st.App.Policy.Min = 1 })
	put("fresh", func(st *AppState) { st.App.Current = 0 })
	want("at first", "fresh", "min", "runs")
	put("runs", nil)
	c.Amend("sleeper", func(st *AppState) { st.Instances = []Instance{{ID: "b"}} })
	want("after one went to sleep and one woke", "fresh", "min", "sleeper")
	put("min", func(st *AppState) { st.Deleted = true })
	want("after a removal", "fresh", "sleeper")
}

func TestCatalogOwner(t *testing.T) {
	c := NewCatalog()
	version := uint64(0)
	put := func(name string, deleted bool, domains ...string) {
		version++
		c.Apply(AppState{Version: version, App: App{Name: name, Domains: domains}, Deleted: deleted})
	}
	want := func(what, domain, owner string) {
		t.Helper()
		if got, ok := c.Owner(domain); got != owner || ok != (owner != "") {
			t.Errorf("%s: %s belongs to %q, want %q", what, domain, got, owner)
		}
	}
	put("one", false, "a.test", "b.test")
	want("at first", "a.test", "one")
	put("two", false, "b.test") // the news that one has let go of it comes later
	put("one", false, "a.test")
	want("moved", "b.test", "two")
	put("one", false)
	want("let go", "a.test", "")
	put("two", true)
	want("removed with its app", "b.test", "")
}
