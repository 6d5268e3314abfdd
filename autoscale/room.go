package autoscale

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// makeRoom has idle instances go down the ladder before one is started on a node
// that has no room for it. Placement counts what is reserved by what runs; what
// frozen ones hold is in the way all the same. The start goes on however this
// ends: what was placed there has a right to its room.
func (c *Controller) makeRoom(ctx context.Context, r *raising) {
	n, ok := c.Runtime.Node(r.in.Node)
	if c.Machines == nil || r.offline || !ok || !c.ledger.mayLack(n) {
		return
	}
	t := c.Now()
	s := c.strains.open(n.Name)
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return
	}
	went := false
	for range roomRounds {
		if !c.measure(ctx, n.Name, s) {
			return
		}
		s.next = c.Now().Add(lookEvery) // it is filling
		list, load := c.residents(n, s)
		short := Short(load, s.memory, false)
		if s.memory = short.Memory > 0; !s.memory {
			break
		}
		if !c.carryOut(ctx, n, s, list, short, fmt.Sprintf("%s starts there, and %s", r.in.ID, load.describe(short))) {
			break
		}
		went = true
	}
	if went {
		r.phase("room", t, c.Now())
	}
}

// waitsForRoom is how often a wake that found no room anywhere tries again where
// another gateway, which holds the lease, has to make it.
const waitsForRoom = 5

// awaitRoom has room made for an app that could be placed nowhere, or waits for
// it; false where that is of no use. waits counts the times.
func (c *Controller) awaitRoom(ctx context.Context, app string, err error, waits *int) bool {
	if c.Machines == nil || router.CodeOf(err) != router.CodeExhausted || ctx.Err() != nil {
		return false
	}
	if *waits++; *waits > waitsForRoom {
		return false
	}
	if c.leads.Load() {
		return c.makePlace(ctx, app, 0)
	}
	timer := time.NewTimer(time.Second) // by then the holder has seen the request
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// noMemory is a need for which a node is not refused, however full it is.
const noMemory = -1 << 60

// makePlace freezes idle instances of other apps on the node where that is
// regretted least, so that placement finds room there for an instance of a
// release (0: the serving one). It reports whether it did.
func (c *Controller) makePlace(ctx context.Context, app string, release int) bool {
	st, ok := c.Catalog.Get(app)
	if !ok || c.Machines == nil || !c.leads.Load() {
		return false
	}
	if release == 0 {
		release = st.App.Current
	}
	rel, ok := st.Release(release)
	if !ok {
		return false
	}
	type option struct {
		node   *router.Node
		strain *strain
		list   []Resident
		going  []Step
		regret float64
		cause  string
	}
	var best *option
	for _, cand := range c.candidates(app, rel) {
		short := Shortage{Reserve: rel.Run.Reserve - (cand.Node.Facts.Memory - cand.Reserved)}
		if cand.Node.Facts.Memory == 0 || short.Reserve <= 0 || refusal(rel.Run.Placement, noMemory, &cand) != "" {
			continue
		}
		s := c.strains.open(cand.Node.Name)
		select {
		case s.turn <- struct{}{}:
		default:
			continue // somebody is making room there
		}
		list, _ := c.residents(cand.Node, s)
		list = slices.DeleteFunc(list, func(r Resident) bool { return r.App == app })
		o := &option{node: cand.Node, strain: s, list: list, going: Relieve(short, list, c.Now())}
		for _, step := range o.going {
			short.Reserve -= step.Reserve
			o.regret += step.Regret
		}
		if short.Reserve > 0 || best != nil && best.regret <= o.regret {
			<-s.turn
			continue
		}
		if best != nil {
			<-best.strain.turn
		}
		o.cause = fmt.Sprintf("%s needs %s, and %s of %s are reserved on its node", app, megabytes(rel.Run.Reserve), gigabytes(cand.Reserved), gigabytes(cand.Node.Facts.Memory))
		best = o
	}
	if best == nil {
		return false
	}
	defer func() { <-best.strain.turn }()
	c.goDown(ctx, best.node, best.strain, best.list, best.going, best.cause)
	return true
}
