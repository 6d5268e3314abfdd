package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// benchImages carries an image of 100 MB, and one in which one layer is
// another.
func benchImages(ctx context.Context, f *fleetRun) error {
	layers := map[string][]byte{}
	for i := range 4 {
		data := make([]byte, 25<<20)
		_, _ = rand.Read(data) // does not compress: what travels is what there is
		layers[fmt.Sprintf("part%d", i)] = data
	}
	first, err := f.carry(ctx, "big", layers)
	if err != nil {
		return err
	}
	data := make([]byte, 25<<20)
	_, _ = rand.Read(data)
	layers["part3"] = data
	second, err := f.carry(ctx, "big", layers)
	if err != nil {
		return err
	}
	f.report.verdict(verdict{"a 100 MB image on two more nodes", fmt.Sprintf("%.2f s", first.took.Seconds()), fmt.Sprintf("%.2f s (the same layers over SSH into files)", first.raw.Seconds()), "x 1.3", first.took.Seconds() <= 1.3*first.raw.Seconds()})
	f.report.verdict(verdict{"of a release with one changed layer (25 MB of 100), bytes to each node", fmt.Sprintf("%.1f MB", second.moved/1e6), fmt.Sprintf("%.1f MB for the first", first.moved/1e6), "that layer (27 MB)", second.moved < 27.5e6})
	row := func(name string, c carried) []string {
		return []string{name, fmt.Sprintf("%.2f s", c.took.Seconds()), fmt.Sprintf("%.1f MB", c.moved/1e6), fmt.Sprintf("%.2f s", c.raw.Seconds())}
	}
	f.report.table(table{
		"Carrying images", "From the end of the push, which ran on one node, until the image is on the two others: into the registry, then over SSH to both at once. The raw copy is the same bytes by `ssh` into a file on each, at once.",
		[]string{"", "time", "bytes received by each node", "raw copy"},
		[][]string{row("first release, 100 MB", first), row("second, one layer of four changed", second)},
	})
	used := func(name string, c carried) []string {
		row := []string{name}
		for _, d := range []time.Duration{c.cpu.gateway, c.cpu.builder, c.cpu.podman, c.cpu.sshd, c.cpu.all(), c.rawCPU} {
			row = append(row, fmt.Sprintf("%.2f s", d.Seconds()))
		}
		return row
	}
	f.report.table(table{
		"What carrying them costs", "CPU time of all that takes part, the machine's two cores being one for all: the gateway, Podman on the node that built the image, Podman on the two others, and the SSH servers of all three; beside it that of the raw copy.",
		[]string{"", "gateway", "builder's Podman", "receivers' Podman", "SSH servers", "together", "raw copy"},
		[][]string{used("first release", first), used("second", second)},
	})
	return nil
}

// carried is how an image came to the hosts that had not built it.
type carried struct {
	took   time.Duration
	moved  float64       // bytes that each of them received, on average
	cpu    carryCPU      // while it took
	raw    time.Duration // as many bytes over SSH into files
	rawCPU time.Duration
}

// carryCPU is the CPU time that those used who take part.
type carryCPU struct{ gateway, builder, podman, sshd time.Duration }

func (c carryCPU) all() time.Duration { return c.gateway + c.builder + c.podman + c.sshd }

func (f *fleetRun) carryCPU(builder string) carryCPU {
	var c carryCPU
	for _, g := range f.gateways {
		used, _ := cpuTime(g.pid())
		c.gateway += used
	}
	for _, h := range f.hosts { // each runs its SSH server, then its Podman
		c.sshd += spentCPU(h.procs[0].Process.Pid)
		if used := spentCPU(h.procs[1].Process.Pid); h.name == builder {
			c.builder += used
		} else {
			c.podman += used
		}
	}
	return c
}

// carry pushes an app and waits until its image is on all hosts.
func (f *fleetRun) carry(ctx context.Context, app string, layers map[string][]byte) (c carried, err error) {
	dir, err := f.folder(app, "[scale]\nprefetch = 3\n", layers)
	if err != nil {
		return c, err
	}
	before := f.received(ctx)
	if _, err := f.gw.cli(ctx, "push", dir); err != nil {
		return c, err
	}
	began := time.Now()
	list, err := f.instances(ctx, f.gw, app)
	if err != nil {
		return c, err
	}
	builder := list[len(list)-1].Node
	cpu := f.carryCPU(builder)
	var image string
	for _, h := range f.hosts {
		if h.name == builder {
			if image, err = h.newestImage(ctx); err != nil {
				return c, err
			}
		}
	}
	for _, h := range f.hosts {
		for {
			if _, err := h.engine.send(ctx, http.MethodGet, "/images/"+image+"/exists", "", nil); err == nil {
				break
			}
			if time.Since(began) > 3*time.Minute {
				return c, fmt.Errorf("the image never came to %s", h.name)
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return c, err
			}
		}
	}
	c.took = time.Since(began)
	end := f.carryCPU(builder)
	c.cpu = carryCPU{end.gateway - cpu.gateway, end.builder - cpu.builder, end.podman - cpu.podman, end.sshd - cpu.sshd}
	after := f.received(ctx)
	// The one that received most is where it was built: the folder went there.
	var came []float64
	for _, h := range f.hosts {
		came = append(came, after[h.name]-before[h.name])
	}
	slices.Sort(came)
	c.moved = (came[0] + came[1]) / 2
	sshd := f.carryCPU(builder).sshd
	var clients time.Duration
	c.raw, clients, err = f.rawCopy(ctx, int(c.moved), builder)
	c.rawCPU = clients + f.carryCPU(builder).sshd - sshd
	return c, err
}

// received is what came over each host's cable, in bytes.
func (f *fleetRun) received(context.Context) map[string]float64 {
	sum := map[string]float64{}
	for _, h := range f.hosts {
		text, err := os.ReadFile("/sys/class/net/" + h.link + "/statistics/tx_bytes")
		if err != nil {
			continue
		}
		var n float64
		_, _ = fmt.Sscan(string(text), &n)
		sum[h.name] = n
	}
	return sum
}

func (h *host) newestImage(ctx context.Context) (string, error) {
	var list []struct {
		ID      string `json:"Id"`
		Created int64  `json:"Created"`
	}
	if err := h.engine.get(ctx, "/images/json", url.Values{}, &list); err != nil {
		return "", err
	}
	best := 0
	for i := range list {
		if list[i].Created > list[best].Created {
			best = i
		}
	}
	if len(list) == 0 {
		return "", errors.New("no image on " + h.name)
	}
	return list[best].ID, nil
}

// rawCopy sends bytes into a file on each host but one, at once. clients is the
// CPU time of this end of it.
func (f *fleetRun) rawCopy(ctx context.Context, size int, not string) (took, clients time.Duration, err error) {
	file := filepath.Join(f.dir, "raw")
	data := make([]byte, size)
	_, _ = rand.Read(data)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return 0, 0, err
	}
	defer os.Remove(file)
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	began := time.Now()
	for _, h := range f.hosts {
		if h.name == not {
			continue
		}
		group.Go(func() {
			var cmd *exec.Cmd
			in, err := os.Open(file)
			if err == nil {
				defer in.Close()
				cmd = exec.CommandContext(ctx, "ssh", "-i", filepath.Join(f.dir, "key"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@"+h.ip, "cat > "+filepath.Join(h.dir, "raw")+" && sync -f "+filepath.Join(h.dir, "raw"))
				cmd.Stdin = in
				var out []byte
				if out, err = cmd.CombinedOutput(); err != nil {
					err = fmt.Errorf("%w %s", err, out)
				}
			}
			mu.Lock()
			if cmd != nil && cmd.ProcessState != nil {
				clients += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			}
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	group.Wait()
	return time.Since(began), clients, errors.Join(errs...)
}
