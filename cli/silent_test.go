package cli_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ends runs a command that must end by itself, whatever its outcome.
func (m *machine) ends(args ...string) (string, int) {
	m.t.Helper()
	type result struct {
		out  string
		code int
	}
	cmd := m.command(args...)
	var out lines
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	done := make(chan result, 1)
	go func() {
		_ = cmd.Wait()
		done <- result{out.String(), cmd.ProcessState.ExitCode()}
	}()
	select {
	case r := <-done:
		return r.out, r.code
	case <-time.After(2 * time.Minute):
		_ = cmd.Process.Kill()
		m.t.Fatalf("fluxgate %s hangs; so far it said:\n%s", strings.Join(args, " "), out.String())
		return "", 0
	}
}

// signalSSH sends a signal to the SSH server and to what serves its connections.
func (n *fleetNode) signalSSH(sig syscall.Signal) {
	n.t.Helper()
	tree := map[int]bool{n.sshd.Process.Pid: true}
	for grown := true; grown; {
		grown = false
		files, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, f := range files {
			text, _ := os.ReadFile(f)
			_, rest, ok := strings.Cut(string(text), ") ")
			fields := strings.Fields(rest)
			pid, err := strconv.Atoi(strings.Split(f, "/")[2])
			if !ok || err != nil || len(fields) < 2 || tree[pid] {
				continue
			}
			if parent, err := strconv.Atoi(fields[1]); err == nil && tree[parent] {
				tree[pid], grown = true, true
			}
		}
	}
	for pid := range tree {
		if err := syscall.Kill(pid, sig); err != nil {
			n.t.Error(err)
		}
	}
}

// TestSilentPodman has Podman accept calls and never answer: every command ends
// and says why, what runs is served, and what sleeps there wakes elsewhere.
func TestSilentPodman(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	m := newMachine(t)
	key := newKey(t, m.dir)
	one, two := newFleetNode(t, 1, key), newFleetNode(t, 2, key)
	p := newEngineProxy(t, one.dir, "unix://"+filepath.Join(one.dir, "podman.sock"))
	url := "ssh://root@" + one.ip + strings.TrimPrefix(p.url, "unix://")
	m.ownPodman = true
	m.start("--no-local", "--ssh-key", key)
	client := m.client()

	p.mute(true)
	for name, args := range map[string][]string{
		"by SSH": {"node", "add", url, "--name", one.name, "--host-key", one.print}, "by its socket": {"node", "add", p.url, "--name", one.name},
	} {
		if out, code := m.ends(args...); code != 1 || !strings.Contains(out, "Podman") {
			t.Errorf("adding a node that hangs, %s: exit code %d, %s", name, code, out)
		}
	}
	p.mute(false)
	m.run("node", "add", url, "--name", one.name, "--host-key", one.print)
	m.push("runs", "")
	m.push("sleeps", quickFreeze)
	m.push("gone", "[scale]\nwake_deadline = \"6s\"\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n")
	m.get(client, "runs", "/")
	m.awaitState("sleeps", "frozen")
	m.awaitState("gone")

	t.Run("the only node", func(t *testing.T) {
		m.t = t
		defer func() { m.t = nil }()
		p.mute(true)
		m.get(client, "runs", "/")
		if a, err := fetch(client, m.app("gone", "/")); err != nil || a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("a wake where nothing answers: %d, %v", a.status, err)
		}
		eventually(t, "it is found out", func() bool { return strings.Contains(m.run("node", "ls"), "silent") })
		for name, tt := range map[string]struct {
			args []string
			code int
			want string
		}{
			"doctor": {[]string{"doctor"}, 1, "node n1"},
			"ps":     {[]string{"ps"}, 0, "runs"},
			"logs":   {[]string{"logs", "runs"}, 1, "n1"},
			"push":   {[]string{"push", m.appFolder("other", "")}, 1, "no node answers"},
		} {
			if out, code := m.ends(tt.args...); code != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("%s: exit code %d, %s", name, code, out)
			}
		}
		p.mute(false)
		eventually(t, "it is well again", func() bool { return strings.Contains(m.run("node", "ls"), " ok ") })
		for _, app := range []string{"gone", "sleeps"} {
			eventually(t, app+" wakes", func() bool { // the gateway may not have noticed yet
				a, err := fetch(client, m.app(app, "/"))
				return err == nil && a.status == http.StatusOK
			})
		}
		m.awaitState("sleeps", "frozen")
	})
	m.t = t

	m.run("node", "add", two.url, "--name", two.name, "--host-key", two.print)
	hung := func(name string, begin, end func()) {
		t.Run(name, func(t *testing.T) {
			m.t = t
			defer func() { m.t = nil }()
			m.awaitWhere("sleeps", map[string]string{"n1": "frozen"})
			begin()
			m.get(client, "sleeps", "/")
			m.get(client, "runs", "/")
			if at := m.where("sleeps"); !strings.Contains(at["n2"], "ready") {
				t.Errorf("it was woken at %v", at)
			}
			if out := m.run("node", "ls"); !strings.Contains(out, "silent") {
				t.Errorf("node ls does not say that it is silent:\n%s", out)
			}
			if out, code := m.ends("push", m.appFolder("other", "[env]\nWHEN = \""+name+"\"\n")); code != 0 {
				t.Errorf("a push: exit code %d, %s", code, out)
			}
			m.get(client, "other", "/")
			end()
			eventually(t, "it is well again", func() bool { return strings.Count(m.run("node", "ls"), " ok ") == 2 })
			m.run("node", "drain", two.name, "--timeout", "60s")
			m.run("node", "drain", "--undo", two.name)
			m.get(client, "sleeps", "/")
			one.settles(m)
			two.settles(m)
		})
		m.t = t
	}
	hung("Podman hangs", func() { p.mute(true) }, func() { p.mute(false) })
	// Its kernel accepts connections, and nobody answers them.
	hung("the SSH server hangs", func() { one.signalSSH(syscall.SIGSTOP) }, func() { one.signalSSH(syscall.SIGCONT) })
}

// TestRefusedNodes has `node add` meet machines that cannot be used.
func TestRefusedNodes(t *testing.T) {
	m, nodes := fleetMachine(t, 1)
	n := nodes[0]
	refused := func(what string, want []string, args ...string) {
		t.Helper()
		out, code := m.ends(append([]string{"node", "add"}, args...)...)
		if code == 0 {
			t.Errorf("%s was taken: %s", what, out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q is missing in: %s", what, w, out)
			}
		}
		if list := m.run("node", "ls"); strings.Contains(list, n.name) {
			t.Errorf("%s is listed:\n%s", what, list)
		}
	}
	ssh := []string{n.url, "--name", n.name, "--host-key", n.print}

	// A clock that is off, as `date` there tells it.
	bin := filepath.Join(n.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "date"), []byte("#!/bin/sh\nexec /bin/date --date '90 seconds' \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.stopSSH()
	n.startSSH("SetEnv PATH=" + bin + ":/usr/bin:/bin")
	refused("a clock that is off", []string{"clock", "1m30s", "timedatectl"}, ssh...)
	n.stopSSH()
	n.startSSH()

	// A Podman that is too old.
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Libpod-API-Version", "4.1.0")
		if strings.HasSuffix(r.URL.Path, "/info") {
			_, _ = w.Write([]byte(`{"host":{"cpus":2},"store":{},"version":{"Version":"4.1.0"}}`))
		}
	}))
	defer old.Close()
	refused("an old Podman", []string{"4.1.0", "4.3.0 or later"}, "tcp://"+strings.TrimPrefix(old.URL, "http://"), "--name", n.name)

	// A key that the machine does not know.
	if err := os.Rename(filepath.Join(n.dir, "authorized"), filepath.Join(n.dir, "away")); err != nil {
		t.Fatal(err)
	}
	refused("a machine that does not know the key", []string{"refuses the login of root", "authorized_keys"}, ssh...)
	if err := os.Rename(filepath.Join(n.dir, "away"), filepath.Join(n.dir, "authorized")); err != nil {
		t.Fatal(err)
	}

	out := m.run(append([]string{"node", "add"}, append(ssh, "--label", "zone=a", "--label", "disk=ssd")...)...)
	if !strings.Contains(out, n.name) {
		t.Errorf("added: %s", out)
	}
	if list := m.run("node", "ls"); !strings.Contains(list, "disk=ssd,zone=a") {
		t.Errorf("the labels are not listed:\n%s", list)
	}
	list := m.run("node", "ls", "--json")
	for _, want := range []string{`"name":"n1"`, `"health":"ok"`, `"latency_ms":`, `"memory_bytes":`, `"reserved_bytes":`, `"instances":`, `"zone":"a"`} {
		if !strings.Contains(strings.Join(strings.Fields(list), ""), want) {
			t.Errorf("node ls --json lacks %s: %s", want, list)
		}
	}

	// The same machine by another way: it is known by what it is.
	port := "8899"
	n.serve(n.inside(append(n.args, "system", "service", "--time", "0", "tcp://"+n.ip+":"+port)...), "tcp", n.ip+":"+port)
	if out, code := m.ends("node", "add", "tcp://"+n.ip+":"+port, "--name", "again"); code == 0 || !strings.Contains(out, "is a node already") {
		t.Errorf("the same node by TCP: exit code %d, %s", code, out)
	}

	// Where an app cannot be placed, each node says why.
	out, code := m.ends("push", m.appFolder("picky", "[placement]\nrequire = { zone = \"b\" }\n"))
	if code != 1 || !strings.Contains(out, "n1: ") || !strings.Contains(out, "zone") {
		t.Errorf("an app for another zone: exit code %d, %s", code, out)
	}
	m.push("app", "")
	if out := m.run("node", "drain", n.name, "--undo"); !strings.Contains(out, "takes instances again") {
		t.Errorf("drain --undo says %q", out)
	}
}
