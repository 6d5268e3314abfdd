package state

import (
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// setMax changes max, as somebody.
func setMax(t *testing.T, s *Store, app string, most int, by string, at time.Time) {
	t.Helper()
	update(t, s, app, func(st *router.AppState) error {
		p := st.App.Policy
		p.Max = most
		st.App.SetPolicy(p, by, at)
		return nil
	})
}

func policyHistory(t *testing.T, s *Store, app string) []router.PolicyEdit {
	t.Helper()
	list, err := s.PolicyHistory(testContext(t), app)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestPolicyHistory(t *testing.T) {
	s := newStore(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	create(t, s, "hello")
	if list := policyHistory(t, s, "hello"); len(list) != 0 {
		t.Errorf("the default policy counts as a change: %+v", list)
	}
	setMax(t, s, "hello", 4, "ci", at)
	setMax(t, s, "hello", 4, "nobody", at.Add(time.Minute)) // changes nothing
	update(t, s, "hello", func(st *router.AppState) error { st.App.Next++; return nil })
	setMax(t, s, "hello", 5, "admin", at.Add(time.Hour))
	want := []router.PolicyEdit{
		{At: at.Add(time.Hour), By: "admin", Changes: []router.FieldChange{{Key: "max", From: "4", To: "5"}}},
		{At: at, By: "ci", Changes: []router.FieldChange{{Key: "max", From: "10", To: "4"}}},
	}
	if list := policyHistory(t, s, "hello"); !reflect.DeepEqual(list, want) {
		t.Errorf("%+v", list)
	}
	st, err := s.Load(testContext(t), "hello")
	if err != nil || st.App.PolicyBy != "admin" || !st.App.PolicyAt.Equal(at.Add(time.Hour)) {
		t.Errorf("%+v, %v", st.App, err)
	}
	t.Run("an app made with a policy of its own", func(t *testing.T) {
		update(t, s, "own", func(st *router.AppState) error {
			st.App.Policy = router.DefaultPolicy()
			p := st.App.Policy
			p.Min = 1
			st.App.SetPolicy(p, "ci", at)
			return nil
		})
		if list := policyHistory(t, s, "own"); len(list) != 1 || list[0].Changes[0] != (router.FieldChange{Key: "min", From: "0", To: "1"}) {
			t.Errorf("%+v", list)
		}
	})
	t.Run("bounded", func(t *testing.T) {
		for i := range keptEdits + 5 {
			setMax(t, s, "hello", 100+i, "ci", at)
		}
		list := policyHistory(t, s, "hello")
		if len(list) != keptEdits || list[0].Changes[0].To != fmt.Sprint(100+keptEdits+4) {
			t.Errorf("%d changes, the last %+v", len(list), list[0])
		}
		if n := s.client.LLen(testContext(t), s.keys.edits("hello")).Val(); n != keptEdits {
			t.Errorf("%d are stored", n)
		}
	})
	t.Run("removed with the app", func(t *testing.T) {
		update(t, s, "hello", func(st *router.AppState) error { st.Deleted = true; return nil })
		if n := s.client.Exists(testContext(t), s.keys.edits("hello")).Val(); n != 0 {
			t.Error("it is left behind")
		}
	})
}

// TestPolicyHistoryMissesNothing: every change is in the history once, whoever
// writes at the same time, and however often a write is sent.
func TestPolicyHistoryMissesNothing(t *testing.T) {
	srv := startServer(t)
	stores := []*Store{openStore(t, srv), openStore(t, srv)}
	stores[1].client.AddHook(&repeatHook{})
	create(t, stores[0], "hello")
	var all sync.WaitGroup
	const writers = 20
	for i := range writers {
		all.Go(func() {
			_, err := stores[i%2].Update(testContext(t), "hello", func(st *router.AppState) error {
				p := st.App.Policy
				p.Max++
				st.App.SetPolicy(p, "ci", time.Unix(int64(i), 0))
				return nil
			})
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	all.Wait()
	list := policyHistory(t, stores[0], "hello")
	if len(list) != writers {
		t.Fatalf("%d changes of %d", len(list), writers)
	}
	for i, e := range list { // newest first
		if want := (router.FieldChange{Key: "max", From: fmt.Sprint(10 + writers - 1 - i), To: fmt.Sprint(10 + writers - i)}); len(e.Changes) != 1 || e.Changes[0] != want {
			t.Errorf("change %d is %+v, want %+v", i, e.Changes, want)
		}
	}
}
