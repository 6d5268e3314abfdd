package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

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
