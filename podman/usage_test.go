package podman

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

const megabyte = router.Bytes(1 << 20)

// A frozen container gives its page cache back, and only that; it keeps its
// limits, and goes on where it was.
func TestReclaim(t *testing.T) {
	n := connect(t)
	rel := release(appImage(t, n))
	rel.Run.Memory = 400 << 20
	in, addr := running(t, n, rel)
	if got := get(addr, "/keep/200"); got != "kept" {
		t.Fatalf("the app kept nothing: %q", got)
	}
	limits := func() [3]int64 {
		c, err := n.inspect(t.Context(), containerName(in.ID))
		must(t, err)
		return [3]int64{c.HostConfig.Memory, c.HostConfig.CpuQuota, c.HostConfig.PidsLimit}
	}
	asked := limits()
	enforced := get(addr, "/file?name=/sys/fs/cgroup/memory/memory.limit_in_bytes") + get(addr, "/file?name=/sys/fs/cgroup/memory.max")
	must(t, n.Reclaim(t.Context(), in)) // it runs: nothing happens
	before := held(t, n, in)
	if before < 190*megabyte {
		t.Fatalf("it holds %v, want the 200 MB that it was told to keep", before)
	}
	must(t, n.Freeze(t.Context(), in))
	started := time.Now()
	must(t, n.Reclaim(t.Context(), in))
	took := time.Since(started)
	after := held(t, n, in)
	must(t, n.Reclaim(t.Context(), in)) // it is safe to repeat
	started = time.Now()
	must(t, n.Thaw(t.Context(), in))
	thaw := time.Since(started)
	host := get(addr, "/")
	t.Logf("%v before, %v after, given back in %v; thawed in %v, the first answer %v later", before, after, took, thaw, time.Since(started)-thaw)
	if before-after < 90*megabyte || after < 95*megabyte {
		t.Errorf("it held %v, and %v after it gave back 100 MB of page cache", before, after)
	}
	if host != in.App {
		t.Errorf("after it was thawed it answers %q", host)
	}
	if got := limits(); got != asked {
		t.Errorf("its limits are %v, want %v", got, asked)
	}
	if got := get(addr, "/file?name=/sys/fs/cgroup/memory/memory.limit_in_bytes") + get(addr, "/file?name=/sys/fs/cgroup/memory.max"); got != enforced {
		t.Errorf("its memory is limited to %q, want %q", got, enforced)
	}
	wantCode(t, n.Reclaim(t.Context(), instance()), router.CodeNotFound)
}

func held(t *testing.T, n *Node, in router.Instance) router.Bytes {
	t.Helper()
	use, err := n.Measure(t.Context())
	must(t, err)
	return use.Instances[in.ID].Memory
}

func TestMeasure(t *testing.T) {
	n := connect(t)
	in, addr := running(t, n, release(appImage(t, n)))
	first, err := n.Measure(t.Context())
	must(t, err)
	if !first.Machine || first.Total != n.Node().Facts.Memory || first.Available <= 0 || first.Available > first.Total || first.Busy <= 0 {
		t.Errorf("of this machine, what is known is %+v", first)
	}
	if use := first.Instances[in.ID]; use.Memory <= 0 || use.CPU <= 0 {
		t.Errorf("what runs uses %+v", use)
	}
	for range 50 {
		get(addr, "/")
	}
	second, err := n.Measure(t.Context())
	must(t, err)
	if second.Busy < first.Busy || second.Instances[in.ID].CPU <= first.Instances[in.ID].CPU {
		t.Errorf("after 50 requests: %+v, before: %+v", second, first)
	}
	must(t, n.Stop(t.Context(), in, 0))
	third, err := n.Measure(t.Context())
	must(t, err)
	if use, ok := third.Instances[in.ID]; ok {
		t.Errorf("stopped, it uses %+v", use)
	}
}

func TestReadMachine(t *testing.T) {
	const text = `MemTotal:       24684084 kB
MemFree:        12445816 kB
MemAvailable:   22774000 kB
cpu  100 20 30 4000 50 6 7 0 0 0
cpu0 50 10 15 2000 25 3 3 0 0 0
`
	tests := map[string]struct {
		text string
		want router.NodeUse
		ok   bool
	}{
		"all of it":             {text, router.NodeUse{Total: 24684084 << 10, Available: 22774000 << 10, Busy: 1630 * time.Millisecond}, true},
		"a kernel before 3.14":  {strings.ReplaceAll(text, "MemAvailable", "MemWhatever"), router.NodeUse{Total: 24684084 << 10, Busy: 1630 * time.Millisecond}, false},
		"a login with a banner": {"this account is disabled\n", router.NodeUse{}, false},
		"nothing":               {"", router.NodeUse{}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got router.NodeUse
			ok := readMachine(tt.text, &got)
			if ok != tt.ok || got.Total != tt.want.Total || got.Available != tt.want.Available || got.Busy != tt.want.Busy {
				t.Errorf("got %+v, %v; want %+v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

// What a node is asked for to give page cache back, by the way that works there.
func TestReclaimWays(t *testing.T) {
	tests := map[string]struct {
		way     router.Reclaim
		refuses bool
		want    []string
	}{
		"version 2": {router.ReclaimAsk, true, []string{`{"unified":{"memory.reclaim":"1099511627776"}}`}},
		"version 1": {router.ReclaimLimit, true, []string{`{"memory":{"limit":4096}}`}},
		"version 1, the limit was lowered indeed": {router.ReclaimLimit, false, []string{`{"memory":{"limit":4096}}`, `{"memory":{"limit":67108864}}`}},
		"none": {router.ReclaimNone, false, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			url := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
				pong(w)
				switch {
				case strings.HasSuffix(r.URL.Path, "/json"):
					_, _ = w.Write([]byte(`{"State":{"Status":"paused"},"Config":{},"NetworkSettings":{},"HostConfig":{"Memory":67108864}}`))
				case strings.HasSuffix(r.URL.Path, "/update"):
					body := make([]byte, 1000)
					k, _ := r.Body.Read(body)
					got = append(got, string(body[:k]))
					if tt.refuses {
						w.WriteHeader(http.StatusInternalServerError)
						_, _ = w.Write([]byte(`{"cause":"runc update failed","message":"runc update failed","response":500}`))
					}
				}
			})
			n, err := Connect(t.Context(), Options{URL: url})
			must(t, err)
			n.facts.Store(&router.NodeFacts{Reclaim: tt.way})
			must(t, n.Reclaim(context.Background(), instance()))
			if strings.Join(got, " ") != strings.Join(tt.want, " ") {
				t.Errorf("asked for %q, want %q", got, tt.want)
			}
		})
	}
}
