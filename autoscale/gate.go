package autoscale

import (
	"container/list"
	"context"
	"sync"
)

// startsPerCPU is how many instances a node's engine is asked to start at once,
// for each of its CPUs. A start is work for the CPU most of the time: with more
// at once, the first are done as late as the last, and with fewer, a CPU waits
// now and then. Of fifty starts on two CPUs, half were done after 4.0 s without
// a limit, 2.0 s with four at once, 2.3 s with two and 2.5 s with eight.
const startsPerCPU = 2

// furtherShare is how often a further instance is started before a first one
// where both wait: without, a node on which apps are woken all the time would
// never scale one up.
const furtherShare = 8

// gates lets a limited number of starts at once into each node's engine. Who
// waits is let in by this order: first instances of apps before further ones,
// and apps take turns in both, so that the many starts of one app hold another
// one's back by one start at most.
type gates struct {
	mu      sync.Mutex
	nodes   map[string]*gate
	waiting map[string]*turn // by instance
}

// gate is one node's.
type gate struct {
	limit          int
	running        int
	first, further line
	passed         int // first ones that were let in while further ones waited
}

// turn is one start that waits.
type turn struct {
	app   string
	gate  *gate
	line  *line
	place *list.Element
	let   chan struct{} // closed when it may go on
}

// line is starts that wait, in rounds over their apps.
type line struct {
	apps map[string]*list.Element
	ring list.List // of *share; the front is next
}

// share is what waits of one app.
type share struct {
	app   string
	turns list.List // of *turn
}

func newGates() *gates { return &gates{nodes: map[string]*gate{}, waiting: map[string]*turn{}} }

// enter waits until the node's engine may be asked to start an instance, and
// returns what must be called when that is done. first says that it is the only
// instance of its app, ready or on its way. The error is ctx's.
func (s *gates) enter(ctx context.Context, node string, limit int, app, instance string, first bool) (leave func(), err error) {
	s.mu.Lock()
	g := s.nodes[node]
	if g == nil {
		g = &gate{}
		s.nodes[node] = g
	}
	g.limit = limit
	leave = func() { s.leave(node, g) }
	if g.running < g.limit {
		g.running++ // nobody waits while there is room
		s.mu.Unlock()
		return leave, nil
	}
	t := &turn{app: app, gate: g, let: make(chan struct{})}
	t.join(first)
	s.waiting[instance] = t
	s.mu.Unlock()
	select {
	case <-t.let:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	delete(s.waiting, instance)
	let := t.line == nil
	if err != nil && !let {
		t.line.remove(t)
	}
	s.mu.Unlock()
	if err == nil {
		return leave, nil
	}
	if let {
		leave() // it came too late
	}
	return nil, err
}

func (s *gates) leave(node string, g *gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.running--
	for g.running < g.limit {
		t := g.next()
		if t == nil {
			break
		}
		g.running++
		close(t.let)
	}
	if g.running == 0 && s.nodes[node] == g {
		delete(s.nodes, node)
	}
}

// hurry makes an instance that waits a first one: requests wait for it.
func (s *gates) hurry(instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.waiting[instance]; t != nil && t.line == &t.gate.further {
		t.line.remove(t)
		t.join(true)
	}
}

func (t *turn) join(first bool) {
	t.line = &t.gate.further
	if first {
		t.line = &t.gate.first
	}
	t.line.push(t)
}

// next takes the one who is next out of the lines; nil where nobody waits.
func (g *gate) next() *turn {
	l := &g.first
	switch {
	case g.further.ring.Len() == 0:
		g.passed = 0
	case l.ring.Len() == 0 || g.passed == furtherShare-1:
		l, g.passed = &g.further, 0
	default:
		g.passed++
	}
	front := l.ring.Front()
	if front == nil {
		return nil
	}
	t := front.Value.(*share).turns.Front().Value.(*turn)
	l.ring.MoveToBack(front)
	l.remove(t)
	return t
}

func (l *line) push(t *turn) {
	e := l.apps[t.app]
	if e == nil {
		if l.apps == nil {
			l.apps = map[string]*list.Element{}
		}
		e = l.ring.PushBack(&share{app: t.app})
		l.apps[t.app] = e
	}
	t.place = e.Value.(*share).turns.PushBack(t)
}

func (l *line) remove(t *turn) {
	e := l.apps[t.app]
	r := e.Value.(*share)
	r.turns.Remove(t.place)
	t.line, t.place = nil, nil
	if r.turns.Len() == 0 {
		l.ring.Remove(e)
		delete(l.apps, t.app)
	}
}

// startsAtOnce is how many starts a node's engine is given at once.
func (c *Controller) startsAtOnce(node string) int {
	if n, ok := c.Runtime.Node(node); ok {
		return startsPerCPU * max(1, n.Facts.CPUs)
	}
	return startsPerCPU
}
