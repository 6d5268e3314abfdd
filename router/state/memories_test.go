package state

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestMemories(t *testing.T) {
	s := newStore(t)
	now := time.Unix(1_800_000_000, 0)
	err := s.Keep(t.Context(), map[string]router.Learned{
		"a": {Memory: []byte("one"), Next: now.Add(-time.Second)},
		"b": {Memory: []byte("two"), Next: now.Add(time.Hour)},
		"c": {Memory: []byte("three")},
	})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := s.Recall(t.Context(), []string{"a", "c", "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(kept)); !slices.Equal(names, []string{"a", "c"}) || string(kept["a"]) != "one" {
		t.Errorf("recalled %q", kept)
	}
	due := func(at time.Time, want ...string) {
		t.Helper()
		got, err := s.Due(t.Context(), at, 10)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("at %s due are %v, want %v", at, got, want)
		}
	}
	due(now, "a")
	due(now)                    // it was told
	due(now.Add(dueAgain), "a") // and nobody has kept anything since
	if err := s.Keep(t.Context(), map[string]router.Learned{"a": {Memory: []byte("four"), Next: now.Add(2 * time.Hour)}, "b": {Memory: []byte("two")}}); err != nil {
		t.Fatal(err)
	}
	due(now.Add(time.Hour))
	due(now.Add(2*time.Hour), "a")
}
