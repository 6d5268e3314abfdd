package cli_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sharedRedis is a server that several gateways share, and that a test may
// pause, restart and empty.
type sharedRedis struct {
	t      *testing.T
	dir    string
	socket string
	cmd    *exec.Cmd
}

func newSharedRedis(t *testing.T, dir string) *sharedRedis {
	t.Helper()
	r := &sharedRedis{t: t, dir: dir, socket: filepath.Join(dir, "redis.sock")}
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *sharedRedis) url() string { return "unix://" + r.socket }

func (r *sharedRedis) start() {
	r.t.Helper()
	r.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", r.socket, "--dir", r.dir, "--appendonly", "yes", "--save", "")
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); r.ask("ping") != "PONG"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal("redis-server does not answer")
		}
	}
}

func (r *sharedRedis) kill() {
	_ = r.cmd.Process.Signal(syscall.SIGCONT)
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// pause makes it hang until the function that it returns is called.
func (r *sharedRedis) pause() (resume func()) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
	return sync.OnceFunc(func() { _ = r.cmd.Process.Signal(syscall.SIGCONT) })
}

func (r *sharedRedis) ask(args ...string) string {
	out, _ := exec.Command("redis-cli", append([]string{"-s", r.socket}, args...)...).Output()
	return strings.TrimSpace(string(out))
}

// leader is the identity of the gateway that decides.
func (r *sharedRedis) leader() string {
	return r.ask("hget", "fluxgate:lease:{autoscaler}", "holder")
}

// twoGateways share a Redis and one node, n1: the Podman that all tests share.
func twoGateways(t *testing.T) (a, b *machine, redis *sharedRedis) {
	t.Helper()
	a, b = newMachine(t), newMachine(t)
	redis = newSharedRedis(t, a.dir)
	for _, m := range []*machine{a, b} {
		m.ownPodman = true
		m.start("--no-local", "--redis", redis.url())
	}
	a.run("node", "add", podmanURL, "--name", "n1")
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(b.run("node", "ls"), "ok"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the second gateway does not have the node:\n%s", b.run("node", "ls"))
		}
	}
	return a, b, redis
}

// eventually waits for something that other processes bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// knows waits until a gateway has heard of an app.
func (m *machine) knows(app string) {
	m.t.Helper()
	client := m.client()
	eventually(m.t, app+" is known", func() bool {
		a, err := fetch(client, m.app(app, "/"))
		return err == nil && a.status != http.StatusNotFound
	})
}

// TestTwoGateways has two of them serve, wake and answer for the same apps;
// then each thing that may die does.
func TestTwoGateways(t *testing.T) {
	a, b, redis := twoGateways(t)
	a.push("warm", "[scale]\nmax = 1\n")
	b.knows("warm")
	// The second knows of the first one's push, and the first of the second's.
	b.push("crowd", "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n")
	b.push("nap", quickFreeze)
	a.knows("nap")
	if got := strings.Join(a.apps(), " "); got != "crowd nap warm" {
		t.Fatalf("apps: %s", got)
	}

	t.Run("one start for both", func(t *testing.T) { // contract 1
		a.awaitState("crowd")
		b.run("policy", "crowd", "set", "remove_after=1h", "stop_after=1h", "freeze_after=1h")
		var ok atomic.Int64
		var group sync.WaitGroup
		for _, m := range []*machine{a, b} {
			client := m.client()
			for range 100 {
				group.Go(func() {
					got, err := fetch(client, m.app("crowd", "/"))
					if err == nil && got.status == http.StatusOK {
						ok.Add(1)
					} else {
						t.Logf("%d %v", got.status, err)
					}
				})
			}
		}
		group.Wait()
		if ok.Load() != 200 {
			t.Errorf("%d of 200 answers were 200", ok.Load())
		}
		if all := containers(t, "crowd"); len(all) != 1 {
			t.Errorf("%d containers were started: %v", len(all), all)
		}
	})

	t.Run("no request into a dying instance", func(t *testing.T) { // contract 2
		clients := map[*machine]*http.Client{a: a.client(), b: b.client()}
		for i := range 10 {
			time.Sleep(time.Duration(1500+i*150) * time.Millisecond) // around the moment at which it is frozen
			m := []*machine{a, b}[i%2]
			if got, err := fetch(clients[m], m.app("nap", "/")); err != nil || got.status != http.StatusOK {
				t.Errorf("%d %v %.100s", got.status, err, got.body)
			}
		}
		if why := a.run("why", "nap"); !strings.Contains(why, "woken from frozen") {
			t.Errorf("it was never frozen: the test shows nothing\n%s", why)
		}
	})

	t.Run("redis emptied", func(t *testing.T) {
		before := containers(t, "warm")
		la, lb := a.load("warm", "/", 1), b.load("warm", "/", 1)
		if got := redis.ask("flushall"); got != "OK" {
			t.Fatal(got)
		}
		eventually(t, "the apps are back", func() bool { return redis.ask("hlen", "{fluxgate}:apps") == "3" })
		eventually(t, "the commands work", func() bool {
			out, code := b.try("apps")
			return code == 0 && strings.Contains(out, "warm")
		})
		la.end(t)
		lb.end(t)
		if after := containers(t, "warm"); !sameIDs(before, after) {
			t.Errorf("containers %v became %v", before, after)
		}
		b.push("later", quickFreeze) // all works on
		if !strings.Contains(a.out.String(), "Redis was emptied") && !strings.Contains(b.out.String(), "Redis was emptied") {
			t.Error("no gateway said so")
		}
	})

	t.Run("redis hangs", func(t *testing.T) { // contract 4
		a.get(a.client(), "nap", "/")
		a.awaitState("nap", "frozen")
		resume := redis.pause()
		defer resume()
		la, lb := a.load("warm", "/", 1), b.load("warm", "/", 1)
		clients := map[*machine]*http.Client{a: a.client(), b: b.client()}
		for i := range 4 { // both wake it, which does no harm
			m := []*machine{a, b}[i%2]
			if got, err := fetch(clients[m], m.app("nap", "/")); err != nil || got.status != http.StatusOK {
				t.Errorf("%d %v %.100s", got.status, err, got.body)
			}
		}
		la.end(t)
		lb.end(t)
		resume()
		a.get(clients[a], "nap", "/")
		a.awaitState("nap", "frozen")
		b.get(clients[b], "nap", "/")
	})

	t.Run("redis restarted", func(t *testing.T) {
		l := b.load("warm", "/", 1)
		redis.kill()
		redis.start()
		eventually(t, "the commands work", func() bool { _, code := a.try("env", "warm", "set", "X=1"); return code == 0 })
		l.end(t)
	})

	t.Run("the leader is killed", func(t *testing.T) { // contract 5
		lead, other := a, b
		if !strings.Contains(redis.leader(), gatewayID(t, a)) {
			lead, other = b, a
		}
		l := other.load("warm", "/", 2)
		before := containers(t, "warm")
		lead.kill()
		killed := time.Now()
		was := redis.leader()
		eventually(t, "the lease has moved", func() bool { now := redis.leader(); return now != "" && now != was })
		t.Logf("the lease moved after %v", time.Since(killed))
		// It decides now, and it wakes.
		other.get(other.client(), "nap", "/")
		other.awaitState("nap", "frozen")
		other.get(other.client(), "nap", "/")
		l.end(t)
		lead.start("--no-local", "--redis", redis.url())
		lead.get(lead.client(), "warm", "/")
		if after := containers(t, "warm"); !sameIDs(before, after) {
			t.Errorf("containers %v became %v", before, after)
		}
	})
}

// gatewayID is what a gateway calls itself.
func gatewayID(t *testing.T, m *machine) string {
	t.Helper()
	out, err := exec.Command("cat", filepath.Join(m.data, "gateway-id")).Output()
	if err != nil {
		t.Fatal(fmt.Errorf("the gateway's identity: %w", err))
	}
	return strings.TrimSpace(string(out))
}

// TestBackupRestore saves what a gateway serves while it serves, and brings it
// back after all of its state is gone.
func TestBackupRestore(t *testing.T) {
	m := upMachine(t)
	m.push("app", "[env]\nGREETING = \"saved\"\n")
	m.run("domains", "app", "add", "app.example.com")
	m.run("policy", "app", "set", "max=3")
	l := m.load("app", "/", 1)
	file := filepath.Join(m.dir, "saved.backup")
	if out := m.run("backup", file); !strings.Contains(out, "1 apps") {
		t.Errorf("backup says %q", out)
	}
	l.end(t)
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; it holds secrets", info.Mode(), err)
	}
	before := containers(t, "app")

	// The state is lost while the gateway is away; what runs runs on.
	m.kill()
	redis := redisPID(t, m)
	if err := syscall.Kill(redis, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Redis is gone", func() bool { return syscall.Kill(redis, 0) != nil || !running(redis) })
	if err := os.RemoveAll(filepath.Join(m.data, "redis")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(m.dir, "half.backup")
	if err := os.WriteFile(half, text[:len(text)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := m.try("restore", half); code != 1 || !strings.Contains(out, "cut short") {
		t.Errorf("half a backup: exit code %d, %s", code, out)
	}
	if out := m.run("restore", file); !strings.Contains(out, "restored 1 apps") {
		t.Errorf("restore says %q", out)
	}
	m.start()
	if a := m.get(m.client(), "app", "/"); !strings.Contains(a.body, "saved") {
		t.Errorf("it answers %q", a.body)
	}
	if out := m.run("domains", "app"); !strings.Contains(out, "app.example.com") {
		t.Errorf("domains: %s", out)
	}
	if out := m.run("policy", "app", "--json"); !strings.Contains(strings.Join(strings.Fields(out), ""), `"key":"max","value":"3"`) {
		t.Errorf("policy: %s", out)
	}
	if after := containers(t, "app"); !sameIDs(before, after) {
		t.Errorf("what runs was not taken back: %v became %v", before, after)
	}
	if out := m.run("restore", file); !strings.Contains(out, "were there already") { // while it serves
		t.Errorf("again: %s", out)
	}
}

// running reports whether a process is there and no zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
