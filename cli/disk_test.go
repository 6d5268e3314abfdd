package cli_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fill takes all room on a node's disk but for so many bytes; the function that
// it returns gives it back.
func (n *fleetNode) fill(leave int64) (free func()) {
	n.t.Helper()
	file := filepath.Join(n.dir, "root", "ballast")
	f, err := os.Create(file)
	if err != nil {
		n.t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	for {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(filepath.Dir(file), &fs); err != nil {
			n.t.Fatal(err)
		}
		room := int64(fs.Bavail) * fs.Bsize
		if room <= leave {
			break
		}
		if _, err := f.Write(chunk[:min(int64(len(chunk)), room-leave)]); err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			n.t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		n.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(file); err != nil {
			n.t.Error(err)
		}
	}
}

// TestDiskFull takes a node whose disk fills up through all that then happens:
// what runs and sleeps there is served, what is new goes elsewhere, and when
// there is room again the node is used again.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	m := newMachine(t)
	key := newKey(t, m.dir)
	small, big := newFleetNodeWith(t, 1, key, "800m"), newFleetNode(t, 2, key)
	m.ownPodman = true
	m.start("--no-local", "--ssh-key", key)

	free := small.fill(300 << 20)
	if out, code := m.try("node", "add", small.url, "--name", small.name, "--host-key", small.print); code != 1 || !strings.Contains(out, "300MB free") && !strings.Contains(out, "299MB free") || !strings.Contains(out, "free some space there") {
		t.Errorf("adding a node without room: exit code %d, %s", code, out)
	}
	free()
	m.run("node", "add", small.url, "--name", small.name, "--host-key", small.print)
	m.push("runs", "")
	m.push("sleeps", quickFreeze)
	m.push("gone", "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n")
	client := m.client()
	m.get(client, "runs", "/")
	m.run("node", "add", big.url, "--name", big.name, "--host-key", big.print)
	m.awaitState("sleeps", "frozen")
	m.awaitState("gone")

	free = small.fill(0)
	m.get(client, "runs", "/")
	m.get(client, "sleeps", "/")
	m.get(client, "gone", "/") // where its image is there is no room
	if at := m.where("gone"); at["n2"] != "ready" {
		t.Errorf("what was absent woke at %v", at)
	}
	for i := range 3 { // some of them would be built on the full node
		app := fmt.Sprintf("new%d", i)
		m.push(app, "")
		m.get(client, app, "/")
		if at := m.where(app); at["n2"] != "ready" {
			t.Errorf("%s is at %v", app, at)
		}
	}
	eventually(t, "the operator sees it", func() bool { return strings.Contains(m.run("node", "ls"), " full ") })
	if out, _ := m.try("doctor"); !strings.Contains(out, "its disk is full") {
		t.Errorf("doctor says nothing of it:\n%s", out)
	}

	free()
	eventually(t, "the node is well again", func() bool { return strings.Count(m.run("node", "ls"), " ok ") == 2 })
	m.run("node", "drain", big.name, "--timeout", "60s")
	m.get(client, "new0", "/")
	if at := m.where("new0"); !strings.Contains(at["n1"], "ready") {
		t.Errorf("after there is room again it is at %v", at)
	}
	for _, n := range []*fleetNode{small, big} {
		n.settles(m)
	}
}

// settles waits until Podman there has exactly the containers that are on
// record.
func (n *fleetNode) settles(m *machine) {
	n.t.Helper()
	last := ""
	eventually(n.t, "records and containers of "+n.name+" agree", func() bool {
		there, recorded := fmt.Sprint(n.containers()), fmt.Sprint(m.recorded(n.name))
		if now := there + " recorded: " + recorded; now != last {
			last = now
			n.t.Log(n.name, now)
		}
		return there == recorded
	})
}
