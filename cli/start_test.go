package cli_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStartErrors shows that what stands in the way of a start is said in one
// line, with what to do, and that nothing is left running.
func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	tests := map[string]struct {
		args []string
		prep func(t *testing.T, m *machine)
		says []string
	}{
		"a taken HTTP port":     {args: []string{"--http", taken.Addr().String()}, says: []string{taken.Addr().String(), "taken", "--http"}},
		"a taken HTTPS port":    {args: []string{"--https", taken.Addr().String()}, says: []string{"taken", "--https"}},
		"an unreachable Redis":  {args: []string{"--redis", "redis://user:hidden@127.0.0.1:1/0"}, says: []string{"127.0.0.1:1", "Redis"}},
		"an unreachable Podman": {args: []string{"--node", "unix:///nowhere/podman.sock"}, says: []string{"/nowhere/podman.sock", "podman system service"}},
		"a file in the way": {prep: func(t *testing.T, m *machine) {
			if err := os.WriteFile(m.data, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, says: []string{"data folder", "--data"}},
		"a full disk":           {prep: func(t *testing.T, m *machine) { mount(t, m.data, "size=64k") }, says: []string{"full", "--data"}},
		"a read-only disk":      {prep: func(t *testing.T, m *machine) { mount(t, m.data, "ro") }, says: []string{"read-only", "--data"}},
		"no Redis binary":       {prep: func(_ *testing.T, m *machine) { m.path = "/nonexistent" }, says: []string{"redis-server", "install"}},
		"a domain that is none": {args: []string{"--domain", "not a domain"}, says: []string{"--domain"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			if tt.prep != nil {
				tt.prep(t, m)
			}
			err := m.tryStart(tt.args...)
			if err == nil {
				m.term()
				t.Fatal("it started")
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it does not say %q: %v", want, err)
				}
			}
			if !strings.Contains(err.Error(), "exit status 1") || strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), "goroutine") {
				t.Errorf("%v", err)
			}
			if left := processes(m.dir); len(left) > 0 {
				t.Errorf("left running: %v", left)
			}
		})
	}
}

// TestNoPodmanBinary needs a machine whose PATH has Redis alone.
func TestNoPodmanBinary(t *testing.T) {
	m := newMachine(t)
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		if redis, err = exec.LookPath("valkey-server"); err != nil {
			t.Fatal(err)
		}
	}
	m.path = filepath.Join(m.dir, "bin")
	if err := os.MkdirAll(m.path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(redis, filepath.Join(m.path, filepath.Base(redis))); err != nil {
		t.Fatal(err)
	}
	m.ownPodman = true
	// Another user's view of the machine: its own Podman socket is not there.
	m.wrap = []string{"unshare", "--mount", "/bin/sh", "-c", "/bin/mount -t tmpfs tmpfs /run && exec \"$@\"", "sh"}
	err = m.tryStart()
	if err == nil {
		m.term()
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "podman") || !strings.Contains(err.Error(), "install") {
		t.Errorf("%v", err)
	}
	if left := processes(m.dir); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

// TestDoctorWithoutGateway examines the machine instead.
func TestDoctorWithoutGateway(t *testing.T) {
	m := newMachine(t)
	out, code := m.try("doctor")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"fluxgate up", "podman version", "OCI runtime", "Redis", m.data} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	m.path = "/nonexistent"
	if out, _ := m.try("doctor"); strings.Count(out, "install ") < 3 {
		t.Errorf("without any program:\n%s", out)
	}
	if _, err := os.Stat(m.data); err == nil {
		t.Error("it made the data folder")
	}
}

// TestSecondUp starts two gateways on one data folder.
func TestSecondUp(t *testing.T) {
	m := upMachine(t)
	second := *m
	second.t, second.up = t, nil
	err := second.tryStart()
	if err == nil {
		second.term()
		t.Fatal("a second gateway started on the same data folder")
	}
	if !strings.Contains(err.Error(), "another fluxgate") || !strings.Contains(err.Error(), "--data") {
		t.Errorf("%v", err)
	}
	m.run("apps") // the first one goes on
}

// mount puts a small file system at dir, for as long as the test runs.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
}

// processes lists the command lines of processes that have to do with a folder.
func processes(dir string) []string {
	var found []string
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err == nil && (strings.Contains(string(text), dir) || strings.HasPrefix(linkOf(name), dir)) {
			found = append(found, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}
