package main

import (
	"context"
	"fmt"
	"time"
)

// idleFor is how long an idle gateway is watched.
const idleFor = 30 * time.Second

// settle is how long a gateway is left alone before it is watched.
const settle = 10 * time.Second

// benchIdle registers many apps, lets all of them sleep until nothing of them
// is left, and watches the gateway do nothing: as it is then, and as it is
// after a restart.
func benchIdle(ctx context.Context, b *bench) error {
	names := numbered("idle", b.apps)
	start := time.Now()
	if err := b.push(ctx, hello{policy: dormant}, names...); err != nil {
		return err
	}
	b.say("pushed %d apps in %s", b.apps, time.Since(start).Round(time.Second))
	if err := b.await(ctx, "absent", names...); err != nil {
		return err
	}
	t := table{
		title: fmt.Sprintf("An idle gateway with %d sleeping apps", b.apps),
		note:  fmt.Sprintf("Over %s. The processes beside it are its private Redis and, where it started one, Podman's service.", idleFor),
		head:  []string{"", "CPU, % of a core", "memory", "CPU of the processes beside it", "their memory"},
	}
	for _, after := range []string{"after the pushes", "after a restart"} {
		if after == "after a restart" {
			if err := b.gw.stop(); err != nil {
				return err
			}
			if err := b.gw.start(ctx); err != nil {
				return err
			}
		}
		own, beside, err := b.watchIdle(ctx)
		if err != nil {
			return err
		}
		t.rows = append(t.rows, []string{after, percent(own.cpu), megabytes(own.memory), percent(beside.cpu), megabytes(beside.memory)})
		b.report.verdict(verdict{
			fmt.Sprintf("idle with %d sleeping apps, %s", b.apps, after), percent(own.cpu) + ", " + megabytes(own.memory),
			"-", "1 %, 150 MB", own.cpu < 0.01 && own.memory < 150e6,
		})
	}
	b.report.table(t)
	return nil
}

// use is what some processes use.
type use struct {
	cpu    float64 // cores
	memory int64   // bytes
}

// watchIdle measures the gateway, and the processes that it started.
func (b *bench) watchIdle(ctx context.Context) (own, beside use, err error) {
	if err := pause(ctx, settle); err != nil {
		return own, beside, err
	}
	pid := b.gw.pid()
	before, err := cpuTime(pid)
	if err != nil {
		return own, beside, err
	}
	allBefore := familyCPU(pid)
	start := time.Now()
	if err := pause(ctx, idleFor); err != nil {
		return own, beside, err
	}
	took := time.Since(start)
	after, err := cpuTime(pid)
	if err != nil {
		return own, beside, err
	}
	own.cpu = (after - before).Seconds() / took.Seconds()
	beside.cpu = (familyCPU(pid)-allBefore).Seconds()/took.Seconds() - own.cpu
	if own.memory, err = memory(pid); err != nil {
		return own, beside, err
	}
	for _, p := range family(pid)[1:] {
		m, _ := memory(p) // gone since
		beside.memory += m
	}
	return own, beside, nil
}

func percent(cores float64) string { return fmt.Sprintf("%.2f %%", 100*cores) }

func megabytes(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
