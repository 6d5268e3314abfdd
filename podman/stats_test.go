package podman

import (
	"context"
	"net/http"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// One that burns all the CPU that it may is told apart from one that idles, and
// a frozen one still holds its memory.
func TestStats(t *testing.T) {
	n := connect(t)
	rel := release(appImage(t, n))
	rel.Run.CPU = 0.2
	lazy, _ := running(t, n, rel)
	busy, addr := running(t, n, rel)
	burn, stop := context.WithCancel(t.Context())
	defer stop()
	req, err := http.NewRequestWithContext(burn, http.MethodGet, "http://"+addr+"/burn", http.NoBody)
	must(t, err)
	go func() {
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	must(t, n.Freeze(t.Context(), lazy))
	last := map[string]router.Usage{}
	look := func() map[string]router.Usage {
		got, err := NewPool(n).Stats(t.Context(), "n1")
		must(t, err)
		for id, u := range got {
			u.CPULimit, u.MemoryLimit = rel.Run.CPU, rel.Run.Memory
			got[id] = u.Since(last[id])
		}
		return got
	}
	last = look()
	eventually(t, "the busy one is seen at its limit", func() bool {
		got := look()
		if u := got[lazy.ID]; u.Memory == 0 || u.Throttled() || u.Short() {
			t.Errorf("the frozen one: %+v", u)
		}
		// Of a longer and longer time, for an average that says something.
		return got[busy.ID].At.Sub(last[busy.ID].At).Seconds() > 1 && got[busy.ID].Throttled()
	})
	u := look()[busy.ID]
	if u.Memory == 0 || u.Memory > rel.Run.Memory || u.CPUTime == 0 {
		t.Errorf("the busy one: %+v", u)
	}
	if _, err := NewPool(n).Stats(t.Context(), "n2"); !isCode(err, router.CodeNotFound) {
		t.Errorf("a node that there is not: %v", err)
	}
}
