package cli_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// redisProcess is a server or a Sentinel on loopback.
type redisProcess struct {
	t    *testing.T
	port int
	cmd  *exec.Cmd
	args []string
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func startRedis(t *testing.T, args ...string) *redisProcess {
	t.Helper()
	port := freePort(t)
	args = append(args, "--bind", "127.0.0.1", "--port", fmt.Sprint(port), "--dir", t.TempDir())
	r := &redisProcess{t: t, port: port, args: args}
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *redisProcess) start() {
	r.t.Helper()
	r.cmd = exec.Command("redis-server", r.args...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "the server answers", func() bool { return r.ask("ping") == "PONG" })
}

func (r *redisProcess) kill() {
	_ = r.cmd.Process.Signal(syscall.SIGCONT)
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

func (r *redisProcess) ask(args ...string) string {
	out, _ := exec.Command("redis-cli", append([]string{"-h", "127.0.0.1", "-p", fmt.Sprint(r.port)}, args...)...).Output()
	return strings.TrimSpace(string(out))
}

// TestSentinelFailover kills the primary under load, with writes on it that no
// replica has: running apps are served without a failed request, and when a
// replica has taken over, wakes and pushes work and records and containers agree.
func TestSentinelFailover(t *testing.T) {
	primary := startRedis(t, "--save", "", "--appendonly", "no")
	replica := startRedis(t, "--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", fmt.Sprint(primary.port))
	var hosts []string
	for range 3 {
		config := filepath.Join(t.TempDir(), "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %d 2\nsentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n", primary.port)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := startRedis(t, config, "--sentinel")
		hosts = append(hosts, fmt.Sprintf("127.0.0.1:%d", s.port))
		eventually(t, "the Sentinel knows the replica", func() bool {
			return strings.Contains(s.ask("sentinel", "replicas", "main"), fmt.Sprint(replica.port))
		})
	}
	url := "redis+sentinel://" + strings.Join(hosts, ",") + "/main"
	a, b := newMachine(t), newMachine(t)
	for _, m := range []*machine{a, b} {
		m.ownPodman = true
		m.start("--no-local", "--redis", url)
	}
	a.run("node", "add", podmanURL, "--name", "n1")
	eventually(t, "the second gateway has the node", func() bool { return strings.Contains(b.run("node", "ls"), " ok ") })
	a.push("runs", "[scale]\nmin = 1\n")
	a.push("sleeps", quickFreeze)
	a.push("gone", "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n")
	for _, app := range []string{"runs", "sleeps", "gone"} {
		b.knows(app)
	}
	a.awaitState("sleeps", "frozen")
	a.awaitState("gone")
	eventually(t, "the replica is in step", func() bool { return strings.Contains(replica.ask("info", "replication"), "master_link_status:up") })
	la, lb := a.load("runs", "/", 2), b.load("runs", "/", 2)

	// The replica hears no more: what is written from here on is lost.
	if err := replica.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	client := a.client()
	a.get(client, "gone", "/")
	a.get(client, "sleeps", "/")
	a.run("env", "runs", "set", "LOST=1")
	primary.kill()
	if err := replica.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	a.get(client, "sleeps", "/") // frozen or not, it is served all the while
	eventually(t, "the replica has taken over", func() bool { return strings.Contains(replica.ask("role"), "master") })
	eventually(t, "the commands work", func() bool { _, code := b.try("env", "runs", "set", "KEPT=1"); return code == 0 })
	la.end(t)
	lb.end(t)
	for _, m := range []*machine{a, b} {
		client := m.client()
		for _, app := range []string{"runs", "sleeps", "gone"} {
			eventually(t, app+" answers at both", func() bool {
				got, err := fetch(client, m.app(app, "/"))
				return err == nil && got.status == http.StatusOK
			})
		}
	}
	b.push("later", "")
	a.knows("later")
	for _, app := range []string{"runs", "sleeps", "gone", "later"} {
		a.settles(app)
		b.settles(app)
	}
	a.awaitState("sleeps", "frozen")
	a.get(a.client(), "sleeps", "/")
}

// TestRedisCluster walks through the product on a Cluster of three primaries.
func TestRedisCluster(t *testing.T) {
	var servers []*redisProcess
	var hosts []string
	for range 3 {
		s := startRedis(t, "--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(freePort(t)), "--cluster-node-timeout", "2000")
		servers = append(servers, s)
		hosts = append(hosts, fmt.Sprintf("127.0.0.1:%d", s.port))
	}
	slots := []string{"0", "5460", "5461", "10922", "10923", "16383"}
	for i, s := range servers {
		if got := s.ask("cluster", "addslotsrange", slots[2*i], slots[2*i+1]); got != "OK" {
			t.Fatal(got)
		}
		bus := s.args[slices.Index(s.args, "--cluster-port")+1]
		servers[0].ask("cluster", "meet", "127.0.0.1", fmt.Sprint(s.port), bus)
	}
	for _, s := range servers {
		eventually(t, "the Cluster is whole", func() bool {
			info := s.ask("cluster", "info")
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_size:3")
		})
	}
	url := "redis://" + strings.Join(hosts, ",")
	a, b := newMachine(t), newMachine(t)
	for _, m := range []*machine{a, b} {
		m.ownPodman = true
		m.start("--no-local", "--redis", url)
	}
	a.run("node", "add", podmanURL, "--name", "n1")
	eventually(t, "the second gateway has the node", func() bool { return strings.Contains(b.run("node", "ls"), " ok ") })
	const sleepy = "[scale]\nmax = 2\ntarget_concurrency = 2\nmax_concurrency = 3\nslow_window = \"6s\"\nfast_window = \"2s\"\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n"
	var apps []string
	for i := range 3 { // their names fall into different slots
		apps = append(apps, fmt.Sprintf("app%d", i))
		a.push(apps[i], sleepy)
	}
	used := 0
	for _, s := range servers {
		if s.ask("dbsize") != "0" {
			used++
		}
	}
	if used != 3 {
		t.Errorf("%d of 3 servers hold something: the test shows little", used)
	}
	client := b.client()
	for _, app := range apps {
		b.knows(app)
		b.awaitState(app)
		b.get(client, app, "/")
	}
	l := b.load("app0", "/slow?ms=400", 6)
	a.awaitState("app0", "ready", "ready")
	b.push("app1", sleepy+"[env]\nGREETING = \"again\"\n")
	if got := a.get(a.client(), "app1", "/"); !strings.HasPrefix(got.body, "again ") {
		eventually(t, "the other gateway serves the new release", func() bool {
			return strings.HasPrefix(a.get(a.client(), "app1", "/").body, "again ")
		})
	}
	a.run("rollback", "app1")
	a.run("domains", "app2", "add", "two.example.com")
	if out, code := b.try("domains", "app0", "add", "two.example.com"); code == 0 || !strings.Contains(out, "app2") {
		t.Errorf("a domain was given twice: %s", out)
	}
	l.end(t)
	if out := b.run("why", "app0"); !strings.Contains(out, "woken from") {
		t.Errorf("why says nothing of the wake:\n%s", out)
	}
	file := filepath.Join(a.dir, "saved.backup")
	if out := a.run("backup", "--redis", url, file); !strings.Contains(out, "3 apps") {
		t.Errorf("backup says %q", out)
	}
	a.run("rm", "--yes", "app2")
	for _, app := range apps[:2] {
		a.awaitState(app)
		a.settles(app)
	}

	// One of the three is away for a while: what runs is served.
	b.get(client, "app0", "/")
	b.run("policy", "app0", "set", "remove_after=1h", "stop_after=1h", "freeze_after=1h")
	b.get(client, "app0", "/")
	l = b.load("app0", "/", 2)
	for _, s := range servers {
		if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		_ = s.cmd.Process.Signal(syscall.SIGCONT)
		eventually(t, "the commands work", func() bool { _, code := a.try("env", "app1", "set", "X="+fmt.Sprint(s.port)); return code == 0 })
	}
	l.end(t)
	a.get(a.client(), "app1", "/")
	a.settles("app1")
}
