package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// The step: load on one app goes from stepBase to stepFactor times that at once.
const (
	stepBase    = 12 // requests/s
	stepFactor  = 50
	stepLow     = 15 * time.Second
	stepHigh    = 10 * time.Second
	stepSlots   = 5  // requests that an instance serves at once
	stepService = 40 // ms that it takes for each
	stepSlow    = 250 * time.Millisecond
)

// stepEnough is how many instances carry the load.
const stepEnough = (stepBase*stepFactor*stepService + stepSlots*1000 - 1) / (stepSlots * 1000)

func benchStep(ctx context.Context, b *bench) error {
	const name = "step"
	if err := b.push(ctx, hello{policy: map[string]string{"max_concurrency": fmt.Sprint(stepSlots), "max": "40"}, cpu: 0.2}, name); err != nil {
		return err
	}
	if err := b.setPolicy(ctx, map[string]string{"freeze_after": "5s", "slow_window": "10s", "stop_after": "never", "remove_after": "never"}, name); err != nil {
		return err
	}
	var raw times
	raws, err := b.rawLike(ctx, name, 5)
	if err != nil {
		return err
	}
	for _, r := range raws {
		if err := r.remove(ctx); err != nil {
			return err
		}
		fresh := &rawContainer{podman: b.podman, spec: r.spec}
		start := time.Now()
		if err := errors.Join(fresh.create(ctx), fresh.startListening(ctx)); err != nil {
			return err
		}
		raw = append(raw, time.Since(start))
		if err := fresh.remove(ctx); err != nil {
			return err
		}
	}
	t := table{
		title: fmt.Sprintf("Load goes from %d to %d requests/s at once", stepBase, stepBase*stepFactor),
		note: fmt.Sprintf("%d ms a request, %d at once in an instance: %d instances carry it. Cold: there was one instance. Frozen: the same again, with what the first time left frozen. Of the first %s after the step.",
			stepService, stepSlots, stepEnough, stepHigh),
		head: []string{"", "requests", "not answered 200", "p50", "p99", "waited > 250 ms", "enough instances after"},
	}
	for _, from := range []string{"cold", "frozen"} {
		s, err := b.step(ctx, name)
		if err != nil {
			return err
		}
		slow := 0
		for _, took := range s.took {
			if took > stepSlow+stepService*time.Millisecond {
				slow++
			}
		}
		enough := "never"
		if s.enough > 0 {
			enough = ms(s.enough)
		}
		t.rows = append(t.rows, []string{from, fmt.Sprint(len(s.took)), fmt.Sprint(s.failed), ms(s.took.p50()), ms(s.took.p99()), fmt.Sprintf("%.2f %%", 100*float64(slow)/float64(max(1, len(s.took)))), enough})
		b.report.verdict(verdict{
			fmt.Sprintf("load x %d in one step, %s: p99 of the first %s", stepFactor, from, stepHigh), ms(s.took.p99()) + ", enough instances after " + enough,
			ms(raw.p50()) + " (create, start, listening)", "no request fails", s.failed == 0,
		})
		if err := b.await(ctx, "frozen", name); err != nil {
			return err
		}
	}
	b.report.table(t)
	return b.remove(ctx, name)
}

// stepped is what one step came to.
type stepped struct {
	took   times // of the requests of the first seconds after it
	failed int
	enough time.Duration // after it, until enough instances were ready; 0: never
}

// step loads an app lightly, and then much more at once. Requests come at their
// times, whatever became of those before.
func (b *bench) step(ctx context.Context, name string) (stepped, error) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 5000, MaxConnsPerHost: 0}}
	defer client.CloseIdleConnections()
	url := fmt.Sprintf("http://%s/slow?ms=%d", loopback(b.gw.http), stepService)
	var mu sync.Mutex
	var s stepped
	var requests sync.WaitGroup
	send := func(rate int, lasts time.Duration, counts bool) error {
		every := time.Second / time.Duration(rate)
		begin := time.Now()
		for i := range int(lasts / every) {
			if err := pause(ctx, time.Until(begin.Add(time.Duration(i)*every))); err != nil {
				return err
			}
			requests.Go(func() {
				took, ok := once(ctx, client, url, name+".localhost")
				mu.Lock()
				defer mu.Unlock()
				if !ok {
					s.failed++
				}
				if counts {
					s.took = append(s.took, took)
				}
			})
		}
		return nil
	}
	if err := send(stepBase, stepLow, false); err != nil {
		return s, err
	}
	at := time.Now()
	wctx, cancel := context.WithTimeout(ctx, stepHigh)
	defer cancel()
	var watch sync.WaitGroup
	watch.Go(func() {
		for wctx.Err() == nil {
			list, err := b.instances(wctx, name)
			ready := 0
			for _, in := range list {
				if in.State == "ready" {
					ready++
				}
			}
			if err == nil && ready >= stepEnough {
				s.enough = time.Since(at)
				return
			}
			_ = pause(wctx, 50*time.Millisecond) // it ends the loop
		}
	})
	err := send(stepBase*stepFactor, stepHigh, true)
	requests.Wait()
	cancel()
	watch.Wait()
	return s, err
}

// once is one request, and whether it was answered 200.
func once(ctx context.Context, client *http.Client, url, host string) (time.Duration, bool) {
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, false
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return time.Since(start), false
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return time.Since(start), err == nil && resp.StatusCode == http.StatusOK
}
