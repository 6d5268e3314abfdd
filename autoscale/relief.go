package autoscale

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Machines tells how full nodes are, and makes room in frozen instances.
type Machines interface {
	Measure(ctx context.Context, node string) (router.NodeUse, error)
	// Reclaim takes page cache from a frozen instance; one that is not frozen is
	// left as it is.
	Reclaim(ctx context.Context, in router.Instance) error
}

const (
	// lookEvery is how often the lease holder looks at a node, lookSeldom at one
	// of which less than half is in use.
	lookEvery  = 5 * time.Second
	lookSeldom = 30 * time.Second
	// looksAtOnce is how many nodes are looked at together.
	looksAtOnce = 16
	// lookDeadline bounds a look with all that it has carried out.
	lookDeadline = 30 * time.Second
	// measureDeadline bounds one measurement: a start waits no longer for it.
	measureDeadline = 3 * time.Second
	// goDeadline is how long one instance's going down is waited for.
	goDeadline = 15 * time.Second
	// roomRounds is how often a start that has no room looks again: what page
	// cache came to shows only afterwards.
	roomRounds = 3
	// yieldFor is how long an app that had to give a ready instance up is not
	// given it back while nobody asks for the app.
	yieldFor = 5 * time.Minute
)

// strains is what this process knows of nodes that run short.
type strains struct {
	mu     sync.Mutex
	nodes  map[string]*strain
	floors map[string]router.Rung // of instances that are to go further down than frozen
	yields map[string]time.Time   // when apps had to give ready instances up
}

// strain is one node's. All but turn belongs to whoever holds turn.
type strain struct {
	turn        chan struct{}
	use, before router.NodeUse
	next        time.Time
	memory, cpu bool                 // short of it
	told        bool                 // that nothing there helps
	blind       bool                 // it could not be measured
	emptied     map[string]time.Time // since when instances were frozen whose page cache was taken
}

func (s *strains) open(node string) *strain {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[node]
	if n == nil {
		if s.nodes == nil {
			s.nodes = map[string]*strain{}
		}
		n = &strain{turn: make(chan struct{}, 1), emptied: map[string]time.Time{}}
		s.nodes[node] = n
	}
	return n
}

// floor is the rung that a drained instance goes to: the deeper one of what its
// policy and what its node's shortage say.
func (s *strains) floor(instance string, r router.Rung) router.Rung {
	s.mu.Lock()
	defer s.mu.Unlock()
	if deeper, ok := s.floors[instance]; ok && r == router.RungFrozen {
		return deeper
	}
	return r
}

func (s *strains) setFloor(instance string, r router.Rung) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.floors == nil {
		s.floors = map[string]router.Rung{}
	}
	s.floors[instance] = r
}

func (s *strains) dropFloor(instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.floors, instance)
}

func (s *strains) yield(app string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.yields == nil {
		s.yields = map[string]time.Time{}
	}
	s.yields[app] = now
}

// yielded takes back from what was decided for an app what it had to give up
// lately, as long as it has been idle since.
func (s *strains) yielded(st *router.AppState, desired, have int, idle time.Duration, now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.yields[st.App.Name]
	switch {
	case !ok:
		return desired
	case now.Add(-idle).After(at) || now.Sub(at) > yieldFor:
		delete(s.yields, st.App.Name)
		return desired
	}
	least, _, _ := st.App.Policy.Schedule.At(now, st.App.Policy.Min, st.App.Policy.Max)
	return max(min(desired, have), least)
}

// lookAtNodes looks at the nodes whose time has come, and makes room on those
// that are short.
func (c *Controller) lookAtNodes(ctx context.Context) {
	var group sync.WaitGroup
	places := make(chan struct{}, looksAtOnce)
	for _, n := range c.Runtime.Nodes() {
		if n.Down || n.Lost || !c.ledger.holds(n.Name) {
			continue
		}
		s := c.strains.open(n.Name)
		select {
		case s.turn <- struct{}{}:
		default:
			continue // a start is at it
		}
		if c.Now().Before(s.next) {
			<-s.turn
			continue
		}
		places <- struct{}{}
		group.Go(func() {
			lctx, cancel := context.WithTimeout(ctx, lookDeadline)
			defer cancel()
			defer func() { <-s.turn; <-places }()
			c.lookAt(lctx, n, s)
		})
	}
	group.Wait()
}

// lookAt measures a node and has who must go go down. The caller has its turn.
func (c *Controller) lookAt(ctx context.Context, n *router.Node, s *strain) {
	s.next = c.Now().Add(lookEvery)
	if !c.measure(ctx, n.Name, s) {
		s.next = c.Now().Add(lookSeldom)
		return
	}
	list, load := c.residents(n, s)
	short := Short(load, s.memory, s.cpu)
	s.memory, s.cpu = short.Memory > 0, short.CPU > 0
	if !lacking(short) {
		s.told = false
		if load.Used+load.Need < load.Capacity/2 && load.CPU < float64(load.CPUs)/2 {
			s.next = c.Now().Add(lookSeldom)
		}
		return
	}
	c.carryOut(ctx, n, s, list, short, load.describe(short))
}

// carryOut has those go down the ladder whose going is regretted least, and
// waits for them. It reports whether there were any.
func (c *Controller) carryOut(ctx context.Context, n *router.Node, s *strain, list []Resident, short Shortage, cause string) bool {
	going := Relieve(short, list, c.Now())
	if len(going) == 0 {
		c.ledger.failed(n.Name, c.Now()) // others are tried first
		if !s.told {
			c.Log.Warn("a node runs short, and nothing that is idle there could go", "node", n.Name, "cause", cause)
		}
		s.told = true
		return false
	}
	c.goDown(ctx, n, s, list, going, cause)
	return true
}

// goDown carries steps out at once, and waits for them.
func (c *Controller) goDown(ctx context.Context, n *router.Node, s *strain, list []Resident, going []Step, cause string) {
	c.Log.Info("a node runs short, idle instances there go down the ladder", "node", n.Name, "cause", cause, "instances", len(going))
	ctx, cancel := context.WithTimeout(ctx, goDeadline)
	defer cancel()
	var group sync.WaitGroup
	for _, o := range going {
		i := slices.IndexFunc(list, func(r Resident) bool { return r.ID == o.ID })
		r := list[i]
		why := o.Why + "; " + cause
		fields := map[string]string{"instance": o.ID, "node": n.Name, "rung": string(o.To), "frees": o.Memory.String(), "regret": fmt.Sprintf("%.3g", o.Regret)}
		switch {
		case r.State == router.Frozen && o.To == router.RungFrozen:
			in, ok := c.find(o.ID)
			if !ok {
				continue
			}
			s.emptied[o.ID] = in.Since
			c.note(o.App, router.Event{Kind: "rung", Text: why, Fields: fields})
			group.Go(func() {
				if err := c.Machines.Reclaim(ctx, in); err != nil && ctx.Err() == nil {
					c.Log.Warn("an instance gave no page cache back", "instance", o.ID, "err", err)
				}
			})
		case r.State == router.Frozen:
			c.note(o.App, router.Event{Kind: "rung", Text: why, Fields: fields})
			c.sink(o.App, o.ID, o.To)
			group.Go(func() { c.awaitRung(ctx, o) })
		default:
			c.strains.yield(o.App, c.Now())
			if o.To != router.RungFrozen {
				c.strains.setFloor(o.ID, o.To)
			}
			c.drain(o.App, o.ID, c.Now().Add(-r.Idle), why)
			group.Go(func() {
				defer c.strains.dropFloor(o.ID)
				c.awaitRung(ctx, o)
			})
		}
	}
	group.Wait()
}

// awaitRung waits until an instance has come to its rung or deeper, is raised
// again, or nobody here is at it any more.
func (c *Controller) awaitRung(ctx context.Context, o Step) {
	for c.working(o.ID) && ctx.Err() == nil {
		wctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := c.Catalog.Await(wctx, o.App, o.done)
		cancel()
		if err == nil || router.CodeOf(err) == router.CodeNotFound {
			return
		}
	}
}

// done reports whether an instance is where a step leads to, or has left the way.
func (o Step) done(st *router.AppState) bool {
	in, ok := st.Instance(o.ID)
	if !ok {
		return true
	}
	switch in.State {
	case router.Stopped, router.Failed, router.Starting:
		return true
	case router.Frozen:
		return o.To == router.RungFrozen
	}
	return false
}

// measure takes a fresh measurement in; false where there is none.
func (c *Controller) measure(ctx context.Context, node string, s *strain) bool {
	mctx, cancel := context.WithTimeout(ctx, measureDeadline)
	defer cancel()
	use, err := c.Machines.Measure(mctx, node)
	if err != nil {
		if !s.blind && ctx.Err() == nil {
			c.Log.Warn("how full a node is cannot be told, so nothing makes room there", "node", node, "err", err)
		}
		s.blind = true
		return false
	}
	s.blind = false
	if use.At.Sub(s.use.At) >= time.Second { // less is too short to tell what works
		s.before = s.use
	}
	s.use = use
	for id := range s.emptied {
		if _, ok := use.Instances[id]; !ok {
			delete(s.emptied, id)
		}
	}
	return true
}
