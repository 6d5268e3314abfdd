package podman

import (
	"bufio"
	"context"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Measure is how full the node is, and what each of its instances has of it. The
// API tells of containers only, and of the machine no more than how much memory
// is not even page cache; so the machine is asked itself where that can be: this
// one, and one that is reached by SSH and lets commands be run.
func (n *Node) Measure(ctx context.Context) (router.NodeUse, error) {
	use := router.NodeUse{At: time.Now(), Instances: map[string]router.InstanceUse{}}
	list, err := n.stats(ctx, quickCall)
	if err != nil {
		return use, err
	}
	for _, s := range list {
		if instance, ours := strings.CutPrefix(s.Name, containerName("")); ours && s.MemUsage > 0 {
			use.Instances[instance] = router.InstanceUse{Memory: router.Bytes(s.MemUsage), CPU: time.Duration(s.CPUNano)}
		}
	}
	if text, ok := n.machine(ctx); ok {
		use.Machine = readMachine(text, &use)
	}
	return use, nil
}

// machineFiles are what tells how full a machine is.
var machineFiles = []string{"/proc/meminfo", "/proc/stat"}

// refusedFor is how long a node that runs no command is not asked to again.
const refusedFor = 10 * time.Minute

// machine reads machineFiles of the node's machine, where they can be had.
func (n *Node) machine(ctx context.Context) (string, bool) {
	if n.tunnel != nil {
		if time.Now().UnixNano() < n.mute.Load() {
			return "", false
		}
		ctx, cancel := context.WithTimeout(ctx, quickCall)
		defer cancel()
		out, err := n.tunnel.Output(ctx, "cat "+strings.Join(machineFiles, " "))
		if err != nil && ctx.Err() == nil {
			n.mute.Store(time.Now().Add(refusedFor).UnixNano())
		}
		return out, err == nil
	}
	if u, err := url.Parse(n.url); err != nil || u.Scheme != "unix" {
		return "", false
	}
	var text strings.Builder
	for _, name := range machineFiles {
		b, err := os.ReadFile(name)
		if err != nil {
			return "", false
		}
		text.Write(b)
	}
	return text.String(), true
}

// tick is the unit of /proc/stat: USER_HZ is 100 on all of Linux' machines.
const tick = 10 * time.Millisecond

// readMachine reads /proc/meminfo and /proc/stat into use; false where something
// is missing.
func readMachine(text string, use *router.NodeUse) bool {
	var total, available, busy bool
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		value, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			use.Total, total = router.Bytes(value)<<10, true
		case "MemAvailable:":
			use.Available, available = router.Bytes(value)<<10, true
		case "cpu": // user, nice, system, idle, iowait, irq, softirq; what guests use is in user
			for i, f := range fields[1:min(len(fields), 8)] {
				if v, err := strconv.ParseInt(f, 10, 64); err == nil && i != 3 && i != 4 {
					use.Busy += time.Duration(v) * tick
				}
			}
			busy = true
		}
	}
	return total && available && busy
}
