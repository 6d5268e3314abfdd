package state

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// freePort is a loopback port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// runServer runs the server program on loopback until the test ends.
func runServer(t *testing.T, port int, args ...string) *redis.Client {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	args = append(args, "--bind", "127.0.0.1", "--port", fmt.Sprint(port), "--dir", t.TempDir(), "--save", "", "--appendonly", "no")
	cmd := exec.Command(path, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", port), DialerRetries: 1})
	t.Cleanup(func() {
		_ = client.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	eventually(t, "the server answers", func() bool { return client.Ping(testContext(t)).Err() == nil })
	return client
}

// walk touches every kind of key.
func walk(t *testing.T, url string) {
	t.Helper()
	ctx := testContext(t)
	open := func() *Store {
		s, err := Open(ctx, Options{URL: url, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s.block = 100 * time.Millisecond
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s := open()
	create(t, s, "one", "one.example.com")
	f := watch(t, open())
	for i := range 20 {
		own(t, s, fmt.Sprintf("app-%d", i), "a")
	}
	f.await(t, "app-19", "a")
	_, err := s.Update(ctx, "two", func(st *router.AppState) error {
		st.App.Domains = []string{"one.example.com"}
		return nil
	})
	wantCode(t, err, router.CodeConflict)
	remove(t, s, "one")
	f.awaitGone(t, "one")

	storage := s.Certificates()
	_, ok, err := s.Acquire(ctx, "tick", "g", time.Minute)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for name, err := range map[string]error{
		"Announce":      s.Announce(ctx, "g", time.Minute),
		"AckDrain":      s.AckDrain(ctx, "g", "i"),
		"FlushRates":    s.FlushRates(ctx, "g", time.Now(), map[string]router.Sample{"app-1": {Requests: 1}, "app-2": {Requests: 1}}),
		"Record":        s.Record(ctx, "app-1", router.Event{At: time.Now(), Text: "x"}),
		"RecordMinute":  s.RecordMinute(ctx, time.Now().Add(-3*time.Minute).Truncate(time.Minute), map[string][]router.Sample{"app-1": {{Requests: 1}}, "app-2": {{Requests: 1}}}),
		"RecordTraffic": s.RecordTraffic(ctx, time.Now(), func(string) bool { return true }),
		"PutToken":      s.PutToken(ctx, router.Token{ID: "t"}),
		"PutNode":       s.PutNode(ctx, router.Node{Name: "n"}),
		"Lock":          storage.Lock(ctx, "a.com"),
		"Store":         storage.Store(ctx, "a/b", []byte("x")),
		"Unlock":        storage.Unlock(ctx, "a.com"),
		"Delete":        storage.Delete(ctx, "a"),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	rates, err := s.Rates(ctx, time.Now().Add(-time.Minute), time.Now())
	if err != nil || len(rates) == 0 {
		t.Errorf("rates %v, %v", rates, err)
	}
	seconds, err := s.Traffic(ctx, "app-1", time.Now().Add(-5*time.Minute), time.Now())
	if sum := router.SumUp(seconds); err != nil || sum.Requests != 2 {
		t.Errorf("traffic %+v, %v", sum, err)
	}
	minutes, err := s.TrafficMinutes(ctx, "app-2", time.Now().Add(-29*24*time.Hour), time.Now())
	if err != nil || len(minutes) != 29*24*60+1 || minutes[len(minutes)-1].Requests+minutes[len(minutes)-2].Requests != 1 {
		t.Errorf("%d minutes of traffic, %v", len(minutes), err)
	}
}

func TestCluster(t *testing.T) {
	port := freePort(t)
	node := runServer(t, port, "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(freePort(t)))
	if err := node.ClusterAddSlotsRange(testContext(t), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster is up", func() bool {
		text, err := node.ClusterInfo(testContext(t)).Result()
		return err == nil && parseInfo(text)["cluster_state"] == "ok"
	})
	t.Run("several hosts", func(t *testing.T) { walk(t, fmt.Sprintf("redis://127.0.0.1:%d,127.0.0.1:%d", port, port)) })
	if err := node.FlushAll(testContext(t)).Err(); err != nil {
		t.Fatal(err)
	}
	t.Run("one host", func(t *testing.T) { walk(t, fmt.Sprintf("redis://127.0.0.1:%d", port)) })
}

func TestSentinel(t *testing.T) {
	port, sentinel := freePort(t), freePort(t)
	runServer(t, port)
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, "sentinel monitor main 127.0.0.1 %d 1\n", port), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, config, "--sentinel", "--bind", "127.0.0.1", "--port", fmt.Sprint(sentinel))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	eventually(t, "the Sentinel knows the master", func() bool {
		c := redis.NewSentinelClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", sentinel), DialerRetries: 1})
		defer c.Close()
		return c.GetMasterAddrByName(testContext(t), "main").Err() == nil
	})
	walk(t, fmt.Sprintf("redis+sentinel://127.0.0.1:%d/main", sentinel))
}
