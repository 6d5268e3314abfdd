package cli_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fleetNode is a machine of its own as far as the product can tell: a network
// namespace with its own address, SSH server, and Podman with its own storage.
type fleetNode struct {
	t     *testing.T
	name  string
	dir   string
	disk  string   // size of a disk of its own; empty: this machine's
	space string   // network namespace
	link  string   // this machine's end of the cable
	ip    string   // the node's address
	args  []string // of Podman
	print string   // fingerprint of the host key
	url   string

	service *exec.Cmd // Podman's
	sshd    *exec.Cmd
}

// newFleetNode starts a node that logs in whoever has the key in keyFile.
func newFleetNode(t *testing.T, number int, keyFile string) *fleetNode {
	t.Helper()
	return newFleetNodeWith(t, number, keyFile, "")
}

// newFleetNodeWith is newFleetNode with a disk of its own for its images and
// containers, of that size; empty: this machine's.
func newFleetNodeWith(t *testing.T, number int, keyFile, disk string) *fleetNode {
	t.Helper()
	dir, err := os.MkdirTemp("", "fgn")
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("fg%d%d", os.Getpid()%10000, number)
	n := &fleetNode{t: t, name: fmt.Sprintf("n%d", number), dir: dir, disk: disk, space: id, link: id + "a", ip: fmt.Sprintf("10.253.%d.2", number)}
	n.args = []string{
		"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"), "--cgroup-manager", "cgroupfs",
		"--network-config-dir", filepath.Join(dir, "networks"), "--volumepath", filepath.Join(dir, "volumes"),
	}
	t.Cleanup(func() {
		_ = n.inside(append(n.args, "rm", "--all", "--force", "--time", "0")...).Run()
		_ = exec.Command("umount", filepath.Join(dir, "root", "overlay")).Run()
		if disk != "" {
			_ = exec.Command("umount", "--lazy", filepath.Join(dir, "root")).Run()
		}
		_ = exec.Command("ip", "netns", "del", n.space).Run()
		_ = exec.Command("ip", "link", "del", n.link).Run()
		_ = os.RemoveAll(dir)
	})
	if disk != "" {
		if err := os.Mkdir(filepath.Join(dir, "root"), 0o700); err != nil {
			t.Fatal(err)
		}
		n.must(exec.Command("mount", "-t", "tmpfs", "-o", "size="+disk, "tmpfs", filepath.Join(dir, "root")))
	}
	n.plug()
	n.must(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host")))
	out, err := exec.Command("ssh-keygen", "-lf", filepath.Join(dir, "host.pub")).Output()
	if err != nil {
		t.Fatal(err)
	}
	n.print = strings.Fields(string(out))[1]
	pub, err := os.ReadFile(keyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	conf := "Port 22\nListenAddress " + n.ip + "\nHostKey " + filepath.Join(dir, "host") + "\nAuthorizedKeysFile " + filepath.Join(dir, "authorized") +
		"\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nAllowStreamLocalForwarding yes\nAllowTcpForwarding yes\nMaxStartups 100\n"
	for file, text := range map[string]string{"authorized": string(pub), "sshd.conf": conf} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd locks itself in
		t.Fatal(err)
	}
	n.startSSH()
	socket := filepath.Join(dir, "podman.sock")
	n.startPodman()
	n.url = "ssh://root@" + n.ip + socket
	return n
}

// plug makes the node's network and its cable.
func (n *fleetNode) plug() {
	n.t.Helper()
	for _, line := range []string{
		"netns add " + n.space,
		"link add " + n.link + " type veth peer name " + n.space + "b",
		"link set " + n.space + "b netns " + n.space,
		"addr add " + n.gateway() + "/24 dev " + n.link,
		"link set " + n.link + " up",
		"-n " + n.space + " addr add " + n.ip + "/24 dev " + n.space + "b",
		"-n " + n.space + " link set lo up",
		"-n " + n.space + " link set " + n.space + "b up",
		"-n " + n.space + " route add default via " + n.gateway(),
	} {
		n.must(exec.Command("ip", strings.Fields(line)...))
	}
}

// gateway is this machine's address on the node's cable.
func (n *fleetNode) gateway() string { return strings.TrimSuffix(n.ip, "2") + "1" }

// startSSH starts the node's SSH server, also after it was killed; conf is added
// to its configuration.
func (n *fleetNode) startSSH(conf ...string) {
	n.t.Helper()
	file := filepath.Join(n.dir, "sshd.conf")
	if len(conf) > 0 {
		text, err := os.ReadFile(file)
		if err != nil {
			n.t.Fatal(err)
		}
		file += ".more"
		if err := os.WriteFile(file, []byte(string(text)+strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
	n.sshd = n.inside("/usr/sbin/sshd", "-D", "-e", "-f", file)
	n.serve(n.sshd, "tcp", n.ip+":22")
}

// stopSSH ends the SSH server and all its connections.
func (n *fleetNode) stopSSH() {
	_ = syscall.Kill(-n.sshd.Process.Pid, syscall.SIGKILL)
	_ = n.sshd.Wait()
}

// startPodman starts the node's Podman service, also after it was killed.
func (n *fleetNode) startPodman() {
	n.t.Helper()
	socket := filepath.Join(n.dir, "podman.sock")
	_ = os.Remove(socket)
	n.service = n.inside(append(n.args, "system", "service", "--time", "0", "unix://"+socket)...)
	n.serve(n.service, "unix", socket)
}

// inside is a command in the node's network. Unlike `ip netns exec`, nsenter
// leaves the cgroup mounts in sight.
func (n *fleetNode) inside(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + n.space}, args...)...)
}

func (n *fleetNode) must(cmd *exec.Cmd) {
	n.t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// serve starts a server that ends with the test, and waits until it listens.
func (n *fleetNode) serve(cmd *exec.Cmd, network, addr string) {
	n.t.Helper()
	said := &lines{}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // what it started may hold its output open
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.DialTimeout(network, addr, time.Second); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s does not listen: %s", cmd.Args[1], said)
		}
	}
}

// cut and mend are the node's cable, pulled out at its own end.
func (n *fleetNode) cut() {
	n.must(exec.Command("ip", "-n", n.space, "link", "set", n.space+"b", "down"))
}

func (n *fleetNode) mend() {
	n.must(exec.Command("ip", "-n", n.space, "link", "set", n.space+"b", "up"))
}

// containers are the instances that Podman itself has there.
func (n *fleetNode) containers() []string {
	n.t.Helper()
	out, err := n.inside(append(n.args, "ps", "--all", "--format", "{{.Names}}")...).Output()
	if err != nil {
		n.t.Fatal(err)
	}
	var ids []string
	for _, name := range strings.Fields(string(out)) {
		ids = append(ids, strings.TrimPrefix(name, "fluxgate-"))
	}
	sort.Strings(ids)
	return ids
}

// fleetMachine is a gateway without a node of its own, and nodes 1 to n.
func fleetMachine(t *testing.T, count int) (*machine, []*fleetNode) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	m := newMachine(t)
	key := newKey(t, m.dir)
	var nodes []*fleetNode
	for i := range count {
		nodes = append(nodes, newFleetNode(t, i+1, key))
	}
	m.ownPodman = true
	m.start("--no-local", "--ssh-key", key)
	return m, nodes
}

// newKey makes an SSH key and returns its file.
func newKey(t *testing.T, dir string) string {
	t.Helper()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	return key
}

// where counts an app's instances by node and state.
func (m *machine) where(app string) map[string]string {
	m.t.Helper()
	var list []struct{ Node, State string }
	if err := json.Unmarshal([]byte(m.run("ps", app, "--json")), &list); err != nil {
		m.t.Fatal(err)
	}
	at := map[string][]string{}
	for _, in := range list {
		at[in.Node] = append(at[in.Node], in.State)
	}
	text := map[string]string{}
	for node, states := range at {
		sort.Strings(states)
		text[node] = strings.Join(states, " ")
	}
	return text
}

func (m *machine) awaitWhere(app string, want map[string]string) {
	m.t.Helper()
	var got map[string]string
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got = m.where(app); fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
	}
	m.t.Fatalf("%s is at %v, want %v\n%s\n%s", app, got, want, m.run("why", app), m.run("node", "ls"))
}

// recorded are the instances of a node that the gateway has on record.
func (m *machine) recorded(node string) []string {
	m.t.Helper()
	var list []struct{ ID, Node string }
	if err := json.Unmarshal([]byte(m.run("ps", "--json")), &list); err != nil {
		m.t.Fatal(err)
	}
	var ids []string
	for _, in := range list {
		if in.Node == node {
			ids = append(ids, in.ID)
		}
	}
	sort.Strings(ids)
	return ids
}

// TestFleet takes two machines on, moves an app between them under load, and
// loses one of them.
func TestFleet(t *testing.T) {
	m, nodes := fleetMachine(t, 2)
	near, far := nodes[0], nodes[1]

	refusals := map[string]struct {
		args []string
		want string
	}{
		"another host key":   {[]string{"node", "add", near.url, "--host-key", far.print}, "somebody is in between"},
		"not asked about":    {[]string{"node", "add", near.url}, near.print},
		"no Podman there":    {[]string{"node", "add", near.url + "x", "--host-key", near.print}, "systemctl enable --now podman.socket"},
		"a password":         {[]string{"node", "add", "ssh://root:secret@" + near.ip}, "no password"},
		"a bad label":        {[]string{"node", "add", near.url, "--label", "zone"}, "KEY=VALUE"},
		"nobody is there":    {[]string{"node", "add", "ssh://root@10.253.1.77"}, "cannot be reached"},
		"no such node drain": {[]string{"node", "drain", "n9"}, "there is no node"},
	}
	for name, tt := range refusals {
		out, code := m.try(tt.args...)
		if code == 0 || !strings.Contains(out, tt.want) || strings.Contains(out, "secret") {
			t.Errorf("%s: exit code %d, %s", name, code, out)
		}
	}

	m.run("node", "add", near.url, "--name", near.name, "--host-key", near.print, "--label", "zone=a")
	if out, code := m.try("node", "add", near.url, "--name", "again", "--host-key", near.print); code == 0 || !strings.Contains(out, "is a node already") {
		t.Errorf("the same node twice: exit code %d, %s", code, out)
	}
	m.push("app", "[scale]\nmin = 2\n")
	m.awaitWhere("app", map[string]string{"n1": "ready ready"})

	// The second one is reached through SSH alone, and gets the image by itself.
	m.run("node", "add", far.url, "--name", far.name, "--host-key", far.print, "--tunnel")
	l := m.load("app", "/slow?ms=50", 4)
	if out := m.run("node", "drain", near.name, "--timeout", "60s"); !strings.Contains(out, "node n1 is drained") {
		t.Errorf("drain says %q", out)
	}
	m.awaitWhere("app", map[string]string{"n2": "ready ready"})
	if ports := strings.TrimSpace(far.enginePodman("ps", "--format", "{{.Ports}}")); ports != "" {
		t.Errorf("the tunnelled node publishes %s", ports)
	}
	if ids := near.containers(); len(ids) != 0 {
		t.Errorf("the drained node still has %v", ids)
	}
	m.run("node", "drain", "--undo", near.name)
	m.run("node", "drain", far.name, "--timeout", "60s")
	m.run("node", "drain", "--undo", far.name)
	l.end(t)
	m.awaitWhere("app", map[string]string{"n1": "ready ready"})

	// What cannot be reached is replaced, and does not come back beside it.
	near.cut()
	m.awaitWhere("app", map[string]string{"n2": "ready ready"})
	client := m.client()
	if a := m.get(client, "app", "/"); !strings.Contains(a.body, "app") {
		t.Errorf("after the loss it answers %q", a.body)
	}
	if out := m.run("node", "ls"); !strings.Contains(out, "lost") {
		t.Errorf("node ls does not say that it is lost:\n%s", out)
	}
	near.mend()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if slices.Equal(near.containers(), m.recorded(near.name)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node has %v, recorded are %v", near.containers(), m.recorded(near.name))
		}
	}

	// After kill -9 the gateway finds its nodes and adopts what runs there.
	before := far.containers()
	m.kill()
	m.start("--no-local", "--ssh-key", filepath.Join(m.dir, "key"))
	m.get(m.client(), "app", "/")
	if after := far.containers(); !slices.Equal(before, after) {
		t.Errorf("containers %v became %v", before, after)
	}
}
