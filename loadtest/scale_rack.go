package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// rackFigures are what became of a rack of nodes that was lost at once.
type rackFigures struct {
	instances   int           // that were there
	gone        time.Duration // until no record names one
	replaced    time.Duration // until as many apps are ready as before
	sent        int           // requests meanwhile
	failed      int           // of these
	failedLater int           // of these, those begun later than 2 s after
	restart     time.Duration // of a gateway, while the rack is away
	back        time.Duration // from its return until all its nodes are used again
	leftovers   int           // containers there that no record names, afterwards
}

// loseRack pulls the cable of the rack that has the most instances, under load,
// and puts it back.
func (s *simulated) loseRack(ctx context.Context, f *scaleFigures) (err error) {
	list, err := s.placements(ctx, s.gateways[0])
	if err != nil {
		return err
	}
	asked := map[string]bool{} // others that are awake may go to sleep meanwhile
	for i := range s.extent.active {
		asked[fmt.Sprintf("app%d", i)] = true
	}
	count, ready, rack := map[int]int{}, map[string]bool{}, 0
	for _, in := range list {
		count[rackOf(in.Node)]++
		if count[rackOf(in.Node)] > count[rack] {
			rack = rackOf(in.Node)
		}
		if in.State == "ready" && asked[in.App] {
			ready[in.App] = true
		}
	}
	r := &f.rack
	r.instances = count[rack]
	h := hailOn(ctx, s.extent.active, s.gateways)
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	cut := time.Now()
	if err := rackCable(ctx, rack, true); err != nil {
		return err
	}
	mended := false
	defer func() {
		if !mended {
			err = errors.Join(err, rackCable(context.WithoutCancel(ctx), rack, false))
		}
	}()
	for r.gone == 0 || r.replaced == 0 {
		if time.Since(cut) > time.Minute {
			return fmt.Errorf("after a minute: %d apps were ready, and of these not: %s", len(ready), s.missing(ctx, ready, rack))
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		if list, err = s.placements(ctx, s.gateways[0]); err != nil {
			return err
		}
		there, now := 0, map[string]bool{}
		for _, in := range list {
			switch {
			case rackOf(in.Node) == rack:
				there++
			case in.State == "ready":
				now[in.App] = true
			}
		}
		if there == 0 && r.gone == 0 {
			r.gone = time.Since(cut)
		}
		whole := true
		for app := range ready {
			whole = whole && now[app]
		}
		if whole && r.gone > 0 && r.replaced == 0 {
			r.replaced = time.Since(cut)
		}
	}
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	var failed []failure
	r.sent, failed = h.end()
	r.failed = len(failed)
	for _, x := range failed {
		if x.at.After(cut.Add(2 * time.Second)) {
			r.failedLater++
		}
	}
	s.say("rack %d with %d instances lost: out of the records after %s, replaced after %s; %d of %d requests failed, %d begun later than 2 s after", rack, r.instances,
		r.gone.Round(time.Millisecond), r.replaced.Round(time.Millisecond), r.failed, r.sent, r.failedLater)
	if len(failed) > 0 {
		s.say("such as %s after %s: %s", failed[0].app, failed[0].at.Sub(cut), failed[0].why)
	}
	last := s.gateways[len(s.gateways)-1]
	if err := last.stop(); err != nil {
		return err
	}
	began := time.Now()
	if err := last.start(ctx); err != nil {
		return err
	}
	r.restart = time.Since(began)
	s.say("meanwhile a gateway starts in %s", r.restart.Round(time.Millisecond))
	mended = true
	began = time.Now()
	if err := rackCable(ctx, rack, false); err != nil {
		return err
	}
	if err := s.awaitHealth(ctx, s.gateways[f.leader]); err != nil {
		return err
	}
	r.back = time.Since(began)
	r.leftovers, err = s.leftovers(ctx, rack)
	s.say("the rack is back after %s; %d containers there that no record names", r.back.Round(time.Millisecond), r.leftovers)
	return err
}

// missing says which of the apps are not ready.
func (s *simulated) missing(ctx context.Context, ready map[string]bool, rack int) string {
	list, err := s.placements(ctx, s.gateways[0])
	if err != nil {
		return err.Error()
	}
	left, text := len(ready), ""
	for _, in := range list {
		switch {
		case !ready[in.App]:
		case rackOf(in.Node) == rack:
			text = in.App + " is still on " + in.Node
		case in.State == "ready":
			left--
		}
	}
	return fmt.Sprintf("%d; %s", left, text)
}

// awaitHealth waits until a gateway has all nodes.
func (s *simulated) awaitHealth(ctx context.Context, g *gateway) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		var nodes []struct{ Name, Health, Problem string }
		if err := s.get(ctx, g, "v1/nodes", &nodes); err != nil {
			return err
		}
		well, ill := 0, ""
		for _, n := range nodes {
			if n.Health == "ok" {
				well++
			} else {
				ill = n.Name + " is " + n.Health + ": " + n.Problem
			}
		}
		if well == s.extent.nodes {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d nodes are well; %s", well, s.extent.nodes, ill)
		}
	}
}

// leftovers counts the containers on a rack's nodes that no record names, once
// there are none, or after a while.
func (s *simulated) leftovers(ctx context.Context, rack int) (int, error) {
	for began := time.Now(); ; {
		list, err := s.placements(ctx, s.gateways[0])
		if err != nil {
			return 0, err
		}
		known := map[string]bool{}
		for _, in := range list {
			known[in.ID] = true
		}
		left := 0
		for i := rack * rackSize; i < min((rack+1)*rackSize, s.extent.nodes); i++ {
			names, err := fakeInstances(ctx, i)
			if err != nil {
				return 0, err
			}
			for _, name := range names {
				if !known[name] {
					left++
				}
			}
		}
		if left == 0 || time.Since(began) > 20*time.Second {
			return left, nil
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return left, err
		}
	}
}
