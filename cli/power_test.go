package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// powerOff ends everything on a node at once, and takes what a machine loses
// with its power: processes, mounts, networks, and what is below /run. powerOn
// starts it again, with nothing running.
func (n *fleetNode) powerOff() {
	n.t.Helper()
	n.cut()
	// The freezer keeps even SIGKILL from a process.
	_ = n.inside(append(n.args, "unpause", "--all")...).Run()
	spaces, _ := n.inside(append(n.args, "ps", "--all", "--quiet")...).Output()
	if ids := strings.Fields(string(spaces)); len(ids) > 0 {
		spaces, _ = n.inside(append(append(n.args, "inspect", "--format", "{{.State.Pid}} {{.NetworkSettings.SandboxKey}}"), ids...)...).Output()
	}
	n.stopSSH()
	_ = syscall.Kill(-n.service.Process.Pid, syscall.SIGKILL)
	_ = n.service.Wait()
	for _, pid := range n.processes() { // those that watch the containers, before they can tell of their end
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for line := range strings.Lines(string(spaces)) {
		pid, space, _ := strings.Cut(strings.TrimSpace(line), " ")
		if id, err := strconv.Atoi(pid); err == nil && id > 0 {
			_ = syscall.Kill(id, syscall.SIGKILL)
		}
		if strings.HasPrefix(space, "/run/netns/") {
			_ = syscall.Unmount(space, syscall.MNT_DETACH)
			_ = os.Remove(space)
		}
	}
	n.unmount()
	for _, dir := range []string{"run", "tmp"} {
		if err := os.RemoveAll(filepath.Join(n.dir, dir)); err != nil {
			n.t.Error(err)
		}
	}
	_ = exec.Command("ip", "link", "del", n.link).Run()
	n.must(exec.Command("ip", "netns", "del", n.space))
}

func (n *fleetNode) powerOn() {
	n.t.Helper()
	n.plug()
	n.startSSH()
	n.startPodman()
}

// processes are those that work in the node's folder.
func (n *fleetNode) processes() []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, f := range files {
		text, err := os.ReadFile(f)
		if pid, perr := strconv.Atoi(strings.Split(f, "/")[2]); err == nil && perr == nil && pid != os.Getpid() && strings.Contains(string(text), n.dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unmount takes away what is mounted in the node's folder, but its disk.
func (n *fleetNode) unmount() {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		n.t.Fatal(err)
	}
	mounts := strings.Split(string(text), "\n")
	for i := len(mounts) - 1; i >= 0; i-- {
		fields := strings.Fields(mounts[i])
		if len(fields) < 2 || !strings.HasPrefix(fields[1], n.dir+"/") || n.disk != "" && fields[1] == filepath.Join(n.dir, "root") {
			continue
		}
		_ = syscall.Unmount(fields[1], syscall.MNT_DETACH)
	}
}
