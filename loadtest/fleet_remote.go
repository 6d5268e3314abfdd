package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

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
