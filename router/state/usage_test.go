package state

import (
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

func TestUsage(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	full := filled[router.NodeUsage]()
	for range 2 {
		if err := s.PutUsage(ctx, "n1", full); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Usage(ctx, []string{"n1", "n2"})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, got, map[string]router.NodeUsage{"n1": full})
	if ttl := s.client.TTL(ctx, s.keys.usage("n1")).Val(); ttl <= 0 || ttl > usageTTL {
		t.Errorf("kept for %v", ttl)
	}
	if got, err := s.Usage(ctx, nil); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
}
