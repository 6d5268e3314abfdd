package main

import (
	"context"
	"fmt"
	"time"
)

// clones is how many apps are woken in turn: while one is measured the others
// fall asleep.
const clones = 10

// quiet is how long the machine is left alone before a round is measured.
const quiet = 300 * time.Millisecond

// rung is one way of sleeping, how to bring an app there, and the raw calls
// that wake from it.
type rung struct {
	state  string            // as `apps` shows it
	policy map[string]string // leads there
	phase  string            // in the Server-Timing of a wake from there
	wakes  int
	sleep  func(context.Context, *rawContainer) error // brings the raw container there
	wake   func(context.Context, *rawContainer) error // what is timed
}

// slept are the times of waking from one rung.
type slept struct {
	fluxgate times // request to first byte, HTTPS, kept-alive connection
	raw      times // the raw calls
	warm     times // the same request to the app once awake
}

func benchFrozen(ctx context.Context, b *bench) error {
	r := rung{
		state: "frozen", phase: "thaw", wakes: b.wakes,
		policy: map[string]string{"freeze_after": "1s", "stop_after": "never", "remove_after": "never"},
		sleep:  func(ctx context.Context, c *rawContainer) error { return c.do(ctx, "pause") },
		wake:   func(ctx context.Context, c *rawContainer) error { return c.do(ctx, "unpause") },
	}
	s, err := b.wakeFrom(ctx, r)
	if err != nil {
		return err
	}
	p50, p99 := s.raw.p50()+3*time.Millisecond, s.raw.p99()+15*time.Millisecond
	b.report.verdict(verdict{"frozen app to first byte, p50", ms(s.fluxgate.p50()), ms(s.raw.p50()) + " (unpause)", ms(p50) + " (+ 3 ms)", s.fluxgate.p50() <= p50})
	b.report.verdict(verdict{"frozen app to first byte, p99", ms(s.fluxgate.p99()), ms(s.raw.p99()) + " (unpause)", ms(p99) + " (+ 15 ms)", s.fluxgate.p99() <= p99})
	b.report.table(s.table("Waking from frozen", "one unpause call"))
	return nil
}

func benchCold(ctx context.Context, b *bench) error {
	again := func(ctx context.Context, c *rawContainer) error { return c.startListening(ctx) }
	rungs := []struct {
		rung
		reference string
	}{
		{rung{
			state: "stopped", phase: "start", wakes: b.colds,
			policy: map[string]string{"freeze_after": "5s", "stop_after": "5s", "remove_after": "never"},
			sleep:  func(ctx context.Context, c *rawContainer) error { return c.do(ctx, "stop") },
			wake:   again,
		}, "start, inspect, listening"},
		{rung{
			state: "absent", phase: "create", wakes: b.colds,
			policy: map[string]string{"freeze_after": "5s", "stop_after": "5s", "remove_after": "5s"},
			sleep:  func(ctx context.Context, c *rawContainer) error { return c.remove(ctx) },
			wake: func(ctx context.Context, c *rawContainer) error {
				if err := c.create(ctx); err != nil {
					return err
				}
				return c.startListening(ctx)
			},
		}, "create, start, inspect, listening"},
	}
	for _, r := range rungs {
		s, err := b.wakeFrom(ctx, r.rung)
		if err != nil {
			return err
		}
		allowed := s.raw.p50() * 110 / 100
		b.report.verdict(verdict{r.state + " app to first byte, p50", ms(s.fluxgate.p50()), ms(s.raw.p50()) + " (" + r.reference + ")", ms(allowed) + " (x 1.10)", s.fluxgate.p50() <= allowed})
		b.report.table(s.table("Waking from "+r.state, r.reference))
	}
	return nil
}

// wakeFrom measures wakes from one rung. Apps and raw containers take turns, so
// that both meet the same machine.
func (b *bench) wakeFrom(ctx context.Context, r rung) (s slept, err error) {
	names := numbered("wake-"+r.state, clones)
	if err := b.push(ctx, hello{policy: map[string]string{"max": "1", "freeze_after": "1h", "stop_after": "1h", "remove_after": "1h"}}, names...); err != nil {
		return s, err
	}
	raws, err := b.rawLike(ctx, names[0], clones)
	if err != nil {
		return s, err
	}
	defer func() {
		for _, c := range raws {
			if e := c.remove(context.WithoutCancel(ctx)); err == nil {
				err = e
			}
		}
	}()
	clients := make([]*client, clones)
	for i, name := range names {
		clients[i] = b.gw.client(name)
		defer clients[i].close()
	}
	// Once awake: opens the connections, and is the floor of what a wake can be.
	for range 3 {
		for i := range clients {
			a, err := clients[i].get(ctx)
			if err != nil {
				return s, err
			}
			if a.reused {
				s.warm = append(s.warm, a.firstByte)
			}
		}
	}
	if err := b.setPolicy(ctx, r.policy, names...); err != nil {
		return s, err
	}
	for len(s.fluxgate) < r.wakes {
		for _, c := range raws {
			if err := r.sleep(ctx, c); err != nil {
				return s, err
			}
		}
		if err := b.await(ctx, r.state, names...); err != nil {
			return s, err
		}
		if err := pause(ctx, quiet); err != nil {
			return s, err
		}
		for i := range clones {
			a, err := clients[i].woken(ctx, r.phase)
			if err != nil {
				return s, err
			}
			if !a.reused {
				return s, fmt.Errorf("the connection to %s was not kept alive over its sleep", names[i])
			}
			s.fluxgate = append(s.fluxgate, a.firstByte)
			start := time.Now()
			if err := r.wake(ctx, raws[i]); err != nil {
				return s, err
			}
			s.raw = append(s.raw, time.Since(start))
		}
	}
	return s, b.remove(ctx, names...)
}

// rawLike makes running containers like the app's own.
func (b *bench) rawLike(ctx context.Context, app string, count int) ([]*rawContainer, error) {
	ids, err := b.podman.labelled(ctx, "fluxgate.app="+app)
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("podman at %s has no container of app %s: name the gateway's own socket with -podman", b.podman.socket, app)
	}
	spec, err := b.podman.like(ctx, ids[0], b.image)
	if err != nil {
		return nil, err
	}
	raws := make([]*rawContainer, count)
	for i := range raws {
		raws[i] = &rawContainer{podman: b.podman, spec: spec}
		if err := raws[i].create(ctx); err != nil {
			return nil, err
		}
		if err := raws[i].startListening(ctx); err != nil {
			return nil, err
		}
	}
	return raws, nil
}

func (s slept) table(title, reference string) table {
	row := func(what string, t times) []string {
		return []string{what, fmt.Sprint(len(t)), ms(t.p50()), ms(t.p99()), ms(t.max())}
	}
	return table{
		title: title,
		note:  "HTTPS request to first byte on a kept-alive connection; apps and raw containers take turns.",
		head:  []string{"", "count", "p50", "p99", "max"},
		rows: [][]string{
			row("request that wakes", s.fluxgate),
			row("raw: "+reference, s.raw),
			row("request to the app awake", s.warm),
		},
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
