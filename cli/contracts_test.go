package cli_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// load sends requests to an app from several clients until stop, and counts
// what was not 200.
type load struct {
	stop     chan struct{}
	group    sync.WaitGroup
	ok, bad  atomic.Int64
	mu       sync.Mutex
	examples []string
}

func (m *machine) load(app, path string, clients int) *load {
	m.t.Helper()
	l := &load{stop: make(chan struct{})}
	for range clients {
		client := m.client()
		l.group.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				a, err := fetch(client, m.app(app, path))
				if err == nil && a.status == http.StatusOK {
					l.ok.Add(1)
					continue
				}
				l.bad.Add(1)
				l.mu.Lock()
				if len(l.examples) < 5 {
					l.examples = append(l.examples, fmt.Sprintf("%d %v %.200s", a.status, err, a.body))
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.group.Wait()
	if l.ok.Load() == 0 {
		t.Error("no request succeeded")
	}
	if n := l.bad.Load(); n > 0 {
		t.Errorf("%d of %d requests failed: %s", n, n+l.ok.Load(), strings.Join(l.examples, "; "))
	}
}

// TestThousandRequestsOneStart is contract 1.
func TestThousandRequestsOneStart(t *testing.T) {
	m := upMachine(t)
	m.push("crowd", "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n")
	m.awaitState("crowd")
	m.run("policy", "crowd", "set", "remove_after=1h", "stop_after=1h", "freeze_after=1h")
	client := m.client()
	var ok atomic.Int64
	var group sync.WaitGroup
	for range 1000 {
		group.Go(func() {
			a, err := fetch(client, m.app("crowd", "/"))
			if err == nil && a.status == http.StatusOK {
				ok.Add(1)
			} else {
				t.Logf("%d %v", a.status, err)
			}
		})
	}
	group.Wait()
	if ok.Load() != 1000 {
		t.Errorf("%d of 1000 answers were 200", ok.Load())
	}
	if all := containers(t, "crowd"); len(all) != 1 {
		t.Errorf("%d containers were started: %v", len(all), all)
	}
}

// TestNoFailedRequestDuringSleep is contract 2: an app that is frozen and
// thawed all the time under a trickle of requests never fails one.
func TestNoFailedRequestDuringSleep(t *testing.T) {
	m := upMachine(t)
	m.push("nap", "[scale]\nfreeze_after = \"1s\"\n")
	client := m.client()
	var bad int
	for i := range 12 {
		// Around the moment at which it is frozen, a little earlier or later.
		time.Sleep(time.Duration(1500+i*200) * time.Millisecond)
		if a, err := fetch(client, m.app("nap", "/")); err != nil || a.status != http.StatusOK {
			bad++
			t.Logf("%d %v %.100s", a.status, err, a.body)
		}
	}
	if bad > 0 {
		t.Errorf("%d requests failed", bad)
	}
	if !strings.Contains(m.run("why", "nap"), "woken from frozen") {
		t.Error("it was never frozen: the test shows nothing")
	}
}

// TestNoFreezeUnderARequest is contract 2 for long requests: an instance of the
// old release is frozen after a deploy, but not before its last request ended.
func TestNoFreezeUnderARequest(t *testing.T) {
	m := upMachine(t)
	m.push("long", "[env]\nGREETING = \"one\"\n")
	client, watch := m.client(), m.client()
	m.get(client, "long", "/")
	done := make(chan answer, 1)
	go func() {
		a, err := fetch(client, m.app("long", "/slow?ms=5000"))
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	for strings.TrimSpace(m.get(watch, "long", "/most").body) != "1" {
	}
	m.push("long", "[env]\nGREETING = \"two\"\n")
	if a := m.get(watch, "long", "/"); !strings.HasPrefix(a.body, "two ") {
		t.Errorf("%q serves while the old release finishes", a.body)
	}
	m.awaitState("long", "draining", "ready")
	if a := <-done; a.status != http.StatusOK {
		t.Errorf("the request in flight got %d", a.status)
	}
	m.awaitState("long", "frozen", "ready")
}

// TestDeployUnderLoad is contract 7.
func TestDeployUnderLoad(t *testing.T) {
	m := upMachine(t)
	m.push("live", "[env]\nGREETING = \"v1\"\n")
	l := m.load("live", "/slow?ms=20", 8)
	for i := 2; i <= 4; i++ {
		m.push("live", fmt.Sprintf("[env]\nGREETING = \"v%d\"\n", i))
	}
	m.run("rollback", "live")
	l.end(t)
	if a := m.get(m.client(), "live", "/"); !strings.HasPrefix(a.body, "v3 ") {
		t.Errorf("serves %q", a.body)
	}
}

// TestScaleOutAndIn raises the load on an app and takes it away.
func TestScaleOutAndIn(t *testing.T) {
	m := upMachine(t)
	m.push("wide", "[scale]\nmax = 3\ntarget_concurrency = 4\nmax_concurrency = 5\nslow_window = \"6s\"\nfast_window = \"2s\"\nfreeze_after = \"2s\"\nstop_after = \"1h\"\n")
	// Requests that take long keep twelve in flight on a slow machine too.
	l := m.load("wide", "/slow?ms=400", 12)
	m.awaitState("wide", "ready", "ready", "ready")
	seen := map[string]bool{}
	client := m.client()
	for deadline := time.Now().Add(20 * time.Second); len(seen) < 3 && time.Now().Before(deadline); {
		seen[m.get(client, "wide", "/slow?ms=1").body] = true
	}
	if len(seen) != 3 {
		t.Errorf("%d of 3 instances answer", len(seen))
	}
	l.end(t)
	for range 10 {
		if most, _ := strconv.Atoi(strings.TrimSpace(m.get(client, "wide", "/most").body)); most > 5 {
			t.Errorf("an instance had %d requests at once, max_concurrency is 5", most)
		}
	}
	m.awaitState("wide", "frozen", "frozen", "frozen")
}

// TestQueueOverflow fills an app and its queue.
func TestQueueOverflow(t *testing.T) {
	m := upMachine(t)
	m.push("narrow", "[scale]\nmax = 1\nmax_concurrency = 1\ntarget_concurrency = 1\nqueue_depth = 2\n")
	client := m.client()
	var group sync.WaitGroup
	var full atomic.Int64
	for range 10 {
		group.Go(func() {
			a, err := fetch(client, m.app("narrow", "/slow?ms=1500"))
			if err == nil && a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "" {
				full.Add(1)
			}
		})
	}
	group.Wait()
	if full.Load() != 7 {
		t.Errorf("%d of 10 were refused with Retry-After; one is served and two wait", full.Load())
	}
}

// TestKilledGateway is contract 5: after kill -9 everything is there.
func TestKilledGateway(t *testing.T) {
	m := upMachine(t)
	m.push("warm", "")
	m.push("cold", quickFreeze)
	client := m.client()
	m.get(client, "warm", "/")
	m.awaitState("cold", "frozen")
	before, cold := containers(t, "warm"), containers(t, "cold")
	context, err := os.ReadFile(filepath.Join(m.dir, "config", "fluxgate", "contexts.json"))
	if err != nil {
		t.Fatal(err)
	}
	root, _ := os.ReadFile(filepath.Join(m.data, "ca.crt"))
	// A container that no record knows must not stay.
	ghost := exec.Command(podmanCmd[0], append(podmanCmd[1:], "ps", "--quiet")...)
	if _, err := ghost.Output(); err != nil {
		t.Fatal(err)
	}

	m.kill()
	m.start()
	if after := containers(t, "warm"); !sameIDs(before, after) {
		t.Errorf("containers %v became %v", before, after)
	}
	if after := containers(t, "cold"); !sameIDs(cold, after) {
		t.Errorf("containers %v became %v", cold, after)
	}
	if again, _ := os.ReadFile(filepath.Join(m.data, "ca.crt")); string(again) != string(root) {
		t.Error("the root certificate is another one")
	}
	_ = context
	client = m.client()
	m.get(client, "warm", "/")
	m.get(client, "cold", "/")
	if got := strings.Join(m.apps(), " "); got != "cold warm" {
		t.Errorf("apps: %s", got)
	}
	if n := len(containers(t, "warm")) + len(containers(t, "cold")); n != 2 {
		t.Errorf("%d containers, want 2", n)
	}
}

// TestKilledAnywhere is contract 5 at moments that chance chooses: pushes,
// wakes and freezes are under way when the gateway is killed. Afterwards Podman
// has the recorded containers and no others, and every app that was there
// answers.
func TestKilledAnywhere(t *testing.T) {
	seed := time.Now().UnixNano()
	if s := os.Getenv("FLUXGATE_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseInt(s, 10, 64)
	}
	t.Logf("FLUXGATE_TEST_SEED=%d", seed)
	chance := rand.New(rand.NewPCG(uint64(seed), 0))
	m := upMachine(t)
	m.push("one", quickFreeze)
	m.push("two", "[scale]\nfreeze_after = \"1s\"\nstop_after = \"2s\"\nremove_after = \"3s\"\n")
	for round := range 3 {
		m.restless(round, time.Duration(chance.IntN(2500))*time.Millisecond)
		m.start()
		client := m.client()
		m.get(client, "one", "/")
		m.get(client, "two", "/")
		for _, app := range []string{"one", "two"} {
			recorded := map[string]bool{}
			agree := func() bool {
				clear(recorded)
				for _, in := range m.ps(app) {
					recorded[in.ID] = true
				}
				there := containers(t, app)
				for id := range there {
					if !recorded[id] {
						return false
					}
				}
				return len(there) == len(recorded)
			}
			deadline := time.Now().Add(30 * time.Second)
			for !agree() && time.Now().Before(deadline) {
				time.Sleep(100 * time.Millisecond)
			}
			if !agree() {
				t.Fatalf("round %d: %s has the containers %v and the records %v", round, app, containers(t, app), recorded)
			}
		}
	}
}

// restless keeps the gateway busy with a push and requests, and kills it after
// a while.
func (m *machine) restless(round int, after time.Duration) {
	m.t.Helper()
	push := m.command("push", m.appFolder("one", fmt.Sprintf("[env]\nROUND = \"%d\"\n", round)+quickFreeze))
	if err := push.Start(); err != nil {
		m.t.Fatal(err)
	}
	client, stop := m.client(), make(chan struct{})
	var group sync.WaitGroup
	for _, app := range []string{"one", "two"} {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(1200 * time.Millisecond): // long enough to be frozen now and then
					_, _ = fetch(client, m.app(app, "/"))
				}
			}
		})
	}
	time.Sleep(after)
	m.kill()
	close(stop)
	group.Wait()
	_ = push.Wait()
}

const quickFreeze = "[scale]\nfreeze_after = \"1s\"\n"

// TestTermDrains stops the gateway while requests are in flight.
func TestTermDrains(t *testing.T) {
	m := upMachine(t)
	m.push("drain", "")
	var group sync.WaitGroup
	var ok atomic.Int64
	arrived := make(chan struct{}, 8)
	for range 8 {
		client := m.client()
		m.get(client, "drain", "/") // the connection is open
		group.Go(func() {
			arrived <- struct{}{}
			if a, err := fetch(client, m.app("drain", "/slow?ms=2000")); err == nil && a.status == http.StatusOK {
				ok.Add(1)
			} else {
				t.Logf("%d %v", a.status, err)
			}
		})
	}
	for range 8 {
		<-arrived
	}
	watch := m.client()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		if strings.TrimSpace(m.get(watch, "drain", "/most").body) == "8" {
			break
		}
	}
	m.term()
	group.Wait()
	if ok.Load() != 8 {
		t.Errorf("%d of 8 requests in flight were answered", ok.Load())
	}
	if left := containers(t, "drain"); len(left) != 1 {
		t.Errorf("the app's container should go on: %v", left)
	}
	m.start()
	m.get(m.client(), "drain", "/")
}

// TestCrash kills an app by a request and looks at the backoff.
func TestCrash(t *testing.T) {
	m := upMachine(t)
	m.push("bomb", "")
	client := m.client()
	first := containers(t, "bomb")
	if a, err := fetch(client, m.app("bomb", "/crash")); err != nil || a.status != http.StatusBadGateway {
		t.Errorf("the request that kills it: %d, %v", a.status, err)
	}
	// The first death costs no delay: the next request gets an answer.
	m.get(client, "bomb", "/")
	if after := containers(t, "bomb"); sameIDs(first, after) {
		t.Error("it was not replaced")
	}
	_, _ = fetch(client, m.app("bomb", "/crash"))
	var refused answer
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && refused.status != http.StatusServiceUnavailable; {
		_, _ = fetch(client, m.app("bomb", "/crash"))
		refused, _ = fetch(client, m.app("bomb", "/"))
	}
	if refused.status != http.StatusServiceUnavailable || refused.header.Get("Retry-After") == "" {
		t.Fatalf("within the backoff: %d %v", refused.status, refused.header)
	}
	for _, word := range []string{"podman", "Podman", "redis", "Redis", "container", "instance", "127.0.0.1", "exit code"} {
		if strings.Contains(refused.body, word) {
			t.Errorf("the page shows %q to a browser:\n%s", word, refused.body)
		}
	}
	if out := m.run("why", "bomb"); !strings.Contains(out, "exited with code 7") {
		t.Errorf("why:\n%s", out)
	}
	if out := m.run("logs", "bomb"); !strings.Contains(out, "crashing as asked") {
		t.Errorf("logs of the dead:\n%s", out)
	}
}

// TestRedisAway is contract 4, as far as one machine goes.
func TestRedisAway(t *testing.T) {
	m := upMachine(t)
	m.push("runs", "")
	m.push("sleeps", quickFreeze)
	m.push("rests", "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\n")
	client := m.client()
	m.get(client, "runs", "/")
	m.awaitState("sleeps", "frozen")
	m.awaitState("rests", "stopped")

	pid := redisPID(t, m)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resumed := false
	resume := func() {
		if !resumed {
			resumed = true
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	defer resume()
	l := m.load("runs", "/", 2)
	for _, app := range []string{"sleeps", "rests", "sleeps"} {
		began := time.Now()
		a, err := fetch(client, m.app(app, "/"))
		if err != nil || a.status != http.StatusOK {
			t.Errorf("%s while Redis hangs: %d, %v %.200s", app, a.status, err, a.body)
		}
		t.Logf("%s answered after %v", app, time.Since(began).Round(time.Millisecond))
	}
	l.end(t)
	resume()
	// Afterwards records and containers agree again.
	m.get(client, "sleeps", "/")
	m.awaitState("sleeps", "frozen")
	m.awaitState("rests", "stopped")
	m.settles("sleeps")
	m.settles("rests")
	m.get(client, "sleeps", "/")
	m.get(client, "rests", "/")
}

func redisPID(t *testing.T, m *machine) int {
	t.Helper()
	matches, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range matches {
		text, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(text), m.data) && !strings.Contains(linkOf(name), m.data) {
			continue
		}
		if strings.Contains(string(text), "redis-server") || strings.Contains(string(text), "valkey-server") {
			pid, err := strconv.Atoi(strings.Split(name, "/")[2])
			if err == nil {
				return pid
			}
		}
	}
	t.Fatal("no private Redis found")
	return 0
}

// linkOf is the working folder of a process.
func linkOf(cmdline string) string {
	dir, _ := os.Readlink(filepath.Join(filepath.Dir(cmdline), "cwd"))
	return dir
}
