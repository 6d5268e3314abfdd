package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// scaleFigures is what was measured of one extent.
type scaleFigures struct {
	extent       extent
	add, restore time.Duration // one node; all apps
	starts       times         // of each gateway, to ready
	peak         int64         // the most memory that a gateway had while it started
	idle, busy   []use         // of each gateway
	leader       int
	redisIdle    use
	redisBusy    use
	wakes        times
	allAwake     time.Duration
	tick         tickFigures
	sent, failed int // under the steady load
	travel       times
	resync       time.Duration // after the stream was trimmed
	apps         time.Duration // `fluxgate apps`
	nodes        time.Duration // `fluxgate node ls`
	rack         rackFigures
	files        int     // most that a gateway has open
	others       float64 // cores that other programs of the machine used meanwhile
}

// tickFigures are what a gateway's doctor says of the autoscaler.
type tickFigures struct{ text string }

// measureExtent makes a fleet, measures everything and removes it.
func measureExtent(ctx context.Context, o options, e extent) (f scaleFigures, err error) {
	s, err := newSimulated(ctx, o, e)
	if err != nil {
		return f, err
	}
	defer func() { _ = s.close() }()
	f.extent = e
	began, busy, own := time.Now(), machineCPU(), familyCPU(os.Getpid())
	if f.add, f.restore, err = s.populate(ctx); err != nil {
		return f, err
	}
	s.say("a node is added in %s; %d apps and %d nodes are restored in %s", f.add.Round(time.Millisecond), e.apps, e.nodes, f.restore.Round(time.Millisecond))
	for _, step := range []struct {
		name string
		run  func(context.Context, *scaleFigures) error
	}{
		{"start", s.startAll},
		{"idle", s.watchAsleep},
		{"wake", s.wakeAll},
		{"load", s.watchBusy},
		{"travel", s.changeTravel},
		{"resync", s.trimmed},
		{"listings", s.listings},
		{"rack", s.loseRack},
	} {
		began := time.Now()
		if err := step.run(ctx, &f); err != nil {
			return f, fmt.Errorf("%s: %w", step.name, err)
		}
		s.say("%s took %s", step.name, time.Since(began).Round(time.Millisecond))
		for _, g := range s.gateways {
			open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", g.pid()))
			f.files = max(f.files, len(open))
		}
	}
	f.others = max(0, (machineCPU()-busy-(familyCPU(os.Getpid())-own)).Seconds()/time.Since(began).Seconds())
	s.say("other programs used %s of a core meanwhile", percent(f.others))
	return f, nil
}

// startAll starts the gateways, one after the other: each reads everything.
func (s *simulated) startAll(ctx context.Context, f *scaleFigures) error {
	for _, g := range s.gateways {
		began := time.Now()
		if err := g.start(ctx); err != nil {
			return err
		}
		f.starts = append(f.starts, time.Since(began))
		peak, err := memoryPeak(g.pid())
		if err != nil {
			return err
		}
		f.peak = max(f.peak, peak)
	}
	s.say("ready after %v, with up to %s", f.starts, megabytes(f.peak))
	return nil
}

const (
	settling  = 15 * time.Second
	watchTime = 20 * time.Second
)

// watch measures the gateways, and Redis, for a while.
func (s *simulated) watch(ctx context.Context, span time.Duration) (gateways []use, redis use, err error) {
	pids := []int{s.redis.Process.Pid}
	for _, g := range s.gateways {
		pids = append(pids, g.pid())
	}
	before := make([]time.Duration, len(pids))
	for i, pid := range pids {
		if before[i], err = cpuTime(pid); err != nil {
			return nil, redis, err
		}
	}
	began := time.Now()
	if err := pause(ctx, span); err != nil {
		return nil, redis, err
	}
	took := time.Since(began)
	uses := make([]use, len(pids))
	for i, pid := range pids {
		after, err := cpuTime(pid)
		if err != nil {
			return nil, redis, err
		}
		uses[i].cpu = (after - before[i]).Seconds() / took.Seconds()
		if uses[i].memory, err = memory(pid); err != nil {
			return nil, redis, err
		}
	}
	return uses[1:], uses[0], nil
}

func (s *simulated) watchAsleep(ctx context.Context, f *scaleFigures) (err error) {
	if err := pause(ctx, settling); err != nil {
		return err
	}
	if f.leader, err = s.leader(ctx); err != nil {
		return err
	}
	f.idle, f.redisIdle, err = s.watch(ctx, watchTime)
	s.say("asleep: %s; redis %s", useText(f.idle, f.leader), useText([]use{f.redisIdle}, -1))
	return err
}

func useText(list []use, leader int) string {
	parts := make([]string, len(list))
	for i, u := range list {
		parts[i] = percent(u.cpu) + " " + megabytes(u.memory)
		if i == leader {
			parts[i] += " (decides)"
		}
	}
	return strings.Join(parts, ", ")
}

// wakeAll wakes the apps that are to be active, many at once.
func (s *simulated) wakeAll(ctx context.Context, f *scaleFigures) error {
	var mu sync.Mutex
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	began := time.Now()
	for i := range s.extent.active {
		group.Go(func() error {
			client := plainClient(s.gateways[i%len(s.gateways)])
			defer client.CloseIdleConnections()
			at := time.Now()
			if err := askApp(gctx, client, fmt.Sprintf("app%d", i)); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			f.wakes = append(f.wakes, time.Since(at))
			return nil
		})
	}
	err := group.Wait()
	f.allAwake = time.Since(began)
	s.say("%d apps woke in %s, each in %s (p99 %s)", s.extent.active, f.allAwake.Round(time.Millisecond), ms(f.wakes.p50()), ms(f.wakes.p99()))
	return err
}

// watchBusy measures under a steady load.
func (s *simulated) watchBusy(ctx context.Context, f *scaleFigures) (err error) {
	h := hailOn(ctx, s.extent.active, s.gateways)
	if err := pause(ctx, settling); err != nil {
		return err
	}
	if f.leader, err = s.leader(ctx); err != nil {
		return err
	}
	f.busy, f.redisBusy, err = s.watch(ctx, watchTime)
	if err != nil {
		return err
	}
	f.tick.text, err = s.autoscaler(ctx, s.gateways[f.leader])
	var failed []failure
	f.sent, failed = h.end()
	f.failed = len(failed)
	s.say("under load: %s; redis %s; %d of %d requests failed; %s", useText(f.busy, f.leader), useText([]use{f.redisBusy}, -1), f.failed, f.sent, f.tick.text)
	if len(failed) > 0 {
		s.say("such as %s: %s", failed[0].app, failed[0].why)
	}
	return err
}

// autoscaler is what doctor says of the ticks.
func (s *simulated) autoscaler(ctx context.Context, g *gateway) (string, error) {
	var report struct {
		Checks []struct{ Name, Detail string }
	}
	if err := s.get(ctx, g, "v1/doctor", &report); err != nil {
		return "", err
	}
	for _, c := range report.Checks {
		if c.Name == "autoscaler" {
			return c.Detail, nil
		}
	}
	return "", nil
}

// changeTravel adds hostnames at one gateway and asks another for them until it
// knows them.
func (s *simulated) changeTravel(ctx context.Context, f *scaleFigures) error {
	from, to := s.gateways[0], s.gateways[len(s.gateways)-1]
	for i := range 100 {
		name := fmt.Sprintf("travel%d.test", i)
		known := make(chan time.Time, 1)
		lctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		go func() { known <- awaitHost(lctx, to, name) }()
		began := time.Now()
		_, err := s.call(lctx, from, "POST", fmt.Sprintf("v1/apps/app%d/domains", s.extent.apps-1-i%10), `{"host":"`+name+`"}`)
		if err != nil {
			cancel()
			return err
		}
		at := <-known
		cancel()
		if at.IsZero() {
			return fmt.Errorf("%s never reached the other gateway", name)
		}
		f.travel = append(f.travel, at.Sub(began))
	}
	s.say("a change travels in %s (p99 %s)", ms(f.travel.p50()), ms(f.travel.p99()))
	return nil
}

// trimmed stops a gateway, changes something and trims the stream of changes,
// so that the gateway has to look at everything when it goes on.
func (s *simulated) trimmed(ctx context.Context, f *scaleFigures) error {
	if len(s.gateways) < 2 {
		s.say("nothing is changed while the only gateway stands still")
		return nil
	}
	last := s.gateways[len(s.gateways)-1]
	if err := last.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for i := range 5 {
		if _, err := s.call(ctx, s.gateways[0], "POST", fmt.Sprintf("v1/apps/app%d/domains", s.extent.apps-1-i), fmt.Sprintf(`{"host":"trimmed%d.test"}`, i)); err != nil {
			return err
		}
	}
	s.ask(ctx, "xtrim", "{fluxgate}:changes", "MAXLEN", "1")
	if err := last.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	began := time.Now()
	lctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if at := awaitHost(lctx, last, "trimmed3.test"); at.IsZero() {
		return fmt.Errorf("the gateway never learned what it had missed")
	}
	f.resync = time.Since(began)
	s.say("after the stream was trimmed, all is known again in %s", f.resync.Round(time.Millisecond))
	return nil
}

// listings are what an operator waits for.
func (s *simulated) listings(ctx context.Context, f *scaleFigures) error {
	for _, l := range []struct {
		path string
		took *time.Duration
	}{{"v1/apps", &f.apps}, {"v1/nodes", &f.nodes}} {
		began := time.Now()
		text, err := s.call(ctx, s.gateways[0], "GET", l.path, "")
		if err != nil {
			return err
		}
		if !json.Valid(text) {
			return fmt.Errorf("%s is cut short", l.path)
		}
		*l.took = time.Since(began)
	}
	s.say("all apps are listed in %s, all nodes in %s", f.apps.Round(time.Millisecond), f.nodes.Round(time.Millisecond))
	return nil
}
