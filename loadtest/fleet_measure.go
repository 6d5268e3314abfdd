package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// benchTravel adds hostnames at one gateway and asks the other for them, again
// and again, until it knows them.
func benchTravel(ctx context.Context, f *fleetRun) error {
	from, to := f.gateways[0], f.gateways[1]
	token, err := from.token()
	if err != nil {
		return err
	}
	api := aimAt(from, loopback(from.https), false)
	var whole, after times
	for i := range 200 {
		name := fmt.Sprintf("travel%d.test", i)
		known := make(chan time.Time, 1)
		lctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		go func() { known <- awaitHost(lctx, to, name) }()
		began := time.Now()
		req, err := http.NewRequestWithContext(lctx, http.MethodPost, api.url("fluxgate")+"v1/apps/hello/domains", strings.NewReader(`{"host":"`+name+`"}`))
		if err != nil {
			cancel()
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := api.client.Do(req)
		if err != nil {
			cancel()
			return err
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		answered := time.Now()
		if resp.StatusCode >= 300 {
			cancel()
			return fmt.Errorf("adding %s: %s %s", name, resp.Status, text)
		}
		at := <-known
		cancel()
		if at.IsZero() {
			return fmt.Errorf("%s never reached the other gateway", name)
		}
		whole = append(whole, at.Sub(began))
		after = append(after, max(0, at.Sub(answered)))
	}
	const allowed = 50 * time.Millisecond
	f.report.verdict(verdict{"a change from one gateway's API to another's routing, p99", ms(whole.p99()), "-", "50 ms", whole.p99() < allowed})
	f.report.table(table{
		"Change travel", "200 hostnames added at one gateway; the other is asked for each until it knows it. The first row begins with the request to the API, the second with its answer.",
		[]string{"", "p50", "p99", "max"},
		[][]string{{"from the request", ms(whole.p50()), ms(whole.p99()), ms(whole.max())}, {"from the answer", ms(after.p50()), ms(after.p99()), ms(after.max())}},
	})
	return nil
}

// awaitHost asks a gateway for a hostname until it is known, over plain HTTP.
func awaitHost(ctx context.Context, g *gateway, host string) time.Time {
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(g.http)+"/", nil)
		if err != nil {
			return time.Time{}
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			return time.Now()
		}
	}
	return time.Time{}
}

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

const absentSoon = "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n"

// benchRemote wakes absent apps on a host over SSH and on this machine, in
// turns, through the same gateway.
func benchRemote(ctx context.Context, f *fleetRun) error {
	local := filepath.Join(f.dir, "local.sock")
	podman := []string{
		"podman", "--root", filepath.Join(f.dir, "local", "root"), "--runroot", filepath.Join(f.dir, "local", "run"), "--tmpdir", filepath.Join(f.dir, "local", "tmp"), "--cgroup-manager", "cgroupfs",
		"--network-config-dir", filepath.Join(f.dir, "local", "networks"), "--volumepath", filepath.Join(f.dir, "local", "volumes"),
	}
	near := &host{name: "here", dir: filepath.Join(f.dir, "local"), podman: podman}
	service := exec.Command(podman[0], append(podman[1:], "system", "service", "--time", "0", "unix://"+local)...)
	service.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := service.Start(); err != nil {
		return err
	}
	defer func() {
		_ = exec.Command(podman[0], append(podman[1:], "rm", "--all", "--force", "--time", "0")...).Run()
		_ = syscall.Kill(-service.Process.Pid, syscall.SIGKILL)
		_ = service.Wait()
		_ = command(context.Background(), "umount", filepath.Join(near.dir, "root", "overlay"))
	}()
	for {
		if _, err := newPodman(local).send(ctx, http.MethodGet, "/_ping", "", nil); err == nil {
			break
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	if _, err := f.gw.cli(ctx, "node", "add", "unix://"+local, "--name", near.name); err != nil {
		return err
	}
	took := map[string]times{}
	where := map[string]string{"wakehere": near.name, "wakethere": f.hosts[0].name}
	for app, node := range where {
		if err := f.deploy(ctx, app, absentSoon+"[placement]\nnodes = [\""+node+"\"]\n"); err != nil {
			return err
		}
	}
	for i := range 11 {
		for app := range where {
			if err := f.await(ctx, app); err != nil {
				return err
			}
			if err := pause(ctx, quiet); err != nil {
				return err
			}
			c := f.gw.client(app)
			if _, err := c.get(ctx); err != nil { // opens the connection, and wakes the first time
				return err
			}
			if err := f.await(ctx, app); err != nil {
				return err
			}
			a, err := c.woken(ctx, "create")
			c.close()
			if err != nil {
				return err
			}
			if i > 0 { // the first is of a cold cache
				took[app] = append(took[app], a.firstByte)
			}
		}
	}
	trip := roundTrip(ctx, f.hosts[0].ip)
	here, there := took["wakehere"], took["wakethere"]
	allowed := here.p50() + 2*trip + 10*time.Millisecond
	f.report.verdict(verdict{"wake on a remote node, absent, image present, p50", ms(there.p50()), ms(here.p50()) + " (on this machine)", ms(allowed) + " (+ 2 round trips + 10 ms)", there.p50() <= allowed})
	f.report.table(table{
		"Waking remotely", "Request to first byte; the same gateway, in turns. The round trip is " + ms(trip) + ". On the remote node a port is published on its data address, which Podman's networking takes its time for; on this machine the container's own address is used.",
		[]string{"", "count", "p50", "p99"},
		[][]string{{"on this machine", fmt.Sprint(len(here)), ms(here.p50()), ms(here.p99())}, {"over SSH", fmt.Sprint(len(there)), ms(there.p50()), ms(there.p99())}},
	})
	for app := range where {
		if _, err := f.gw.cli(ctx, "rm", "--yes", app); err != nil {
			return err
		}
	}
	_, err := f.gw.cli(ctx, "node", "rm", near.name, "--force")
	return err
}

// roundTrip is the time of a TCP handshake.
func roundTrip(ctx context.Context, ip string) time.Duration {
	var t times
	for range 20 {
		began := time.Now()
		if c, err := new(net.Dialer).DialContext(ctx, "tcp", ip+":22"); err == nil {
			t = append(t, time.Since(began))
			_ = c.Close()
		}
	}
	return t.p50()
}

// benchPause has Redis hang for 30 s under load on apps that run, while others
// are asleep.
func benchPause(ctx context.Context, f *fleetRun) error {
	sleepers := []string{"asleep0", "asleep1", "asleep2", "asleep3", "asleep4"}
	for _, app := range sleepers {
		if err := f.deploy(ctx, app, "[scale]\nfreeze_after = \"1s\"\n"); err != nil {
			return err
		}
		if err := f.await(ctx, app, "frozen"); err != nil {
			return err
		}
		c := f.gw.client(app) // its certificate is made, and kept in Redis, at the first request
		if _, err := c.get(ctx); err != nil {
			return err
		}
		c.close()
	}
	if _, err := f.gw.cli(ctx, "policy", "hello", "set", "min=2"); err != nil {
		return err
	}
	if err := f.await(ctx, "hello", "ready", "ready"); err != nil {
		return err
	}
	for _, app := range sleepers {
		if err := f.await(ctx, app, "frozen"); err != nil {
			return err
		}
	}
	b := fire(ctx, 100, []string{"hello"}, aimAt(f.gateways[0], loopback(f.gateways[0].https), false), aimAt(f.gateways[1], loopback(f.gateways[1].https), false))
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	from := time.Now()
	_ = f.redis.Process.Signal(syscall.SIGSTOP)
	var woken times
	for _, app := range sleepers {
		if err := pause(ctx, 4*time.Second); err != nil {
			return err
		}
		c := f.gateways[len(woken)%2].client(app)
		a, err := c.get(ctx)
		c.close()
		if err != nil || a.status != http.StatusOK {
			f.say("%s: %d %v", app, a.status, err)
			continue
		}
		woken = append(woken, a.firstByte)
	}
	if err := pause(ctx, max(0, 30*time.Second-time.Since(from))); err != nil {
		return err
	}
	_ = f.redis.Process.Signal(syscall.SIGCONT)
	to := time.Now()
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	shots := b.end()
	failed := failures(shots, from, time.Now())
	f.report.verdict(verdict{"Redis paused for 30 s: failed requests to running apps", fmt.Sprintf("%d of %d", failed, len(shots)), "-", "0", failed == 0})
	f.report.verdict(verdict{"Redis paused: frozen apps that woke", fmt.Sprintf("%d of %d, p50 %s", len(woken), len(sleepers), ms(woken.p50())), "-", "all", len(woken) == len(sleepers)})
	_ = to
	return nil
}

// benchKill kills the gateway that decides, behind a load balancer, under load.
func benchKill(ctx context.Context, f *fleetRun) error {
	lb, err := newBalancer(loopback(f.gateways[0].https), loopback(f.gateways[1].https))
	if err != nil {
		return err
	}
	defer lb.ln.Close()
	was := f.ask(ctx, "hget", "fluxgate:lease:{autoscaler}", "holder")
	victim := 0
	for i, g := range f.gateways {
		id, err := os.ReadFile(filepath.Join(g.data, "gateway-id"))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(id)) == was {
			victim = i
		}
	}
	g := f.gateways[victim]
	b := fire(ctx, 100, []string{"hello"}, aimAt(f.gateways[1-victim], lb.ln.Addr().String(), true))
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	_ = g.cmd.Process.Kill()
	killed := time.Now()
	<-g.exited
	for {
		if now := f.ask(ctx, "hget", "fluxgate:lease:{autoscaler}", "holder"); now != "" && now != was {
			break
		}
		if time.Since(killed) > 30*time.Second {
			break
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	moved := time.Since(killed)
	if err := pause(ctx, max(0, 8*time.Second-moved)); err != nil {
		return err
	}
	shots := b.end()
	inFlight := failures(shots, killed.Add(-time.Minute), killed)
	after := failures(shots, killed, time.Now())
	f.report.verdict(verdict{"gateway killed: failed requests begun after that, at the load balancer", fmt.Sprintf("%d of %d", after, len(shots)), fmt.Sprintf("%d were in flight there", inFlight), "0", after == 0})
	f.report.verdict(verdict{"gateway killed: the autoscaler's lease moved after", fmt.Sprintf("%.1f s", moved.Seconds()), "-", "5 s", moved < 5*time.Second})
	return g.start(ctx)
}

// benchCut pulls one of three nodes' cables, under 200 requests a second on 20
// apps.
func benchCut(ctx context.Context, f *fleetRun) error {
	var apps []string
	for i := range 20 {
		name := fmt.Sprintf("cut%d", i)
		if err := f.deploy(ctx, name, "[scale]\nmin = 1\n"); err != nil {
			return err
		}
		apps = append(apps, name)
	}
	if err := pause(ctx, 5*time.Second); err != nil { // images travel ahead
		return err
	}
	list, err := f.instances(ctx, f.gw)
	if err != nil {
		return err
	}
	count := map[string]int{}
	for _, in := range list {
		if strings.HasPrefix(in.App, "cut") && in.State == "ready" {
			count[in.Node]++
		}
	}
	victim := f.hosts[0]
	for _, h := range f.hosts {
		if count[h.name] > count[victim.name] {
			victim = h
		}
	}
	aims := []aim{aimAt(f.gateways[0], loopback(f.gateways[0].https), false), aimAt(f.gateways[1], loopback(f.gateways[1].https), false)}
	b := fire(ctx, 200, apps, aims...)
	if err := pause(ctx, 4*time.Second); err != nil {
		return err
	}
	if err := victim.cut(ctx); err != nil {
		return err
	}
	cut := time.Now()
	gone, replaced := time.Duration(0), time.Duration(0)
	for time.Since(cut) < 30*time.Second && replaced == 0 {
		list, err := f.instances(ctx, f.gw)
		if err != nil {
			return err
		}
		there, ready := 0, map[string]bool{}
		for _, in := range list {
			if in.Node == victim.name {
				there++
			} else if in.State == "ready" {
				ready[in.App] = true
			}
		}
		if there == 0 && gone == 0 {
			gone = time.Since(cut)
		}
		all := true
		for _, app := range apps {
			all = all && ready[app]
		}
		if there == 0 && all {
			replaced = time.Since(cut)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	shots := b.end()
	failed := failures(shots, cut.Add(-time.Second), cut.Add(2*time.Second))
	late := failures(shots, cut.Add(2*time.Second), time.Now())
	var lastBad, longest time.Duration
	for _, s := range shots {
		if s.at.Add(s.took).After(cut) {
			longest = max(longest, s.took)
			if !s.ok() {
				lastBad = max(lastBad, s.at.Sub(cut))
			}
		}
	}
	f.report.verdict(verdict{fmt.Sprintf("node cut off (%d of 20 apps there, 200 requests/s): out of the records after", count[victim.name]), fmt.Sprintf("%.2f s", gone.Seconds()), "-", "2 s", gone > 0 && gone < 2*time.Second})
	f.report.verdict(verdict{"node cut off: every app ready elsewhere after", fmt.Sprintf("%.2f s", replaced.Seconds()), "-", "5 s + start", replaced > 0 && replaced < 6*time.Second})
	f.report.verdict(verdict{"node cut off: failed requests begun later than 2 s after", fmt.Sprintf("%d of %d", late, len(shots)), fmt.Sprintf("%d within the 2 s", failed), "0", late == 0})
	f.report.table(table{
		"A node cut off", "Its cable is pulled under load. A request that waits for a connection to it is tried elsewhere, unless it was written already.",
		[]string{"", ""},
		[][]string{
			{"requests", fmt.Sprint(len(shots))},
			{"failed", fmt.Sprint(failed + late)},
			{"the last that failed was begun", fmt.Sprintf("%.2f s after the cut", lastBad.Seconds())},
			{"longest request", fmt.Sprintf("%.2f s", longest.Seconds())},
		},
	})
	return victim.mend(ctx)
}
