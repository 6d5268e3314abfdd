package gateway

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Acker is told that no request of this gateway is in a draining instance and
// none will be sent to it until it is ready again. drain is the DrainID of the
// instance, so that an acknowledgement that comes late counts for nothing else.
type Acker interface {
	AckDrain(ctx context.Context, gateway, drain string) error
}

// Dialer opens a connection that honours deadlines.
type Dialer func(ctx context.Context, addr string) (net.Conn, error)

const (
	ackDeadline = 2 * time.Second // of one call
	ackFirst    = 50 * time.Millisecond
	ackMost     = 2 * time.Second // longest pause between two tries
	goneGrace   = time.Second     // for requests in an instance that has no record any more
)

// fleet is every instance that this gateway sends requests to, has sent
// requests to, or has to acknowledge the draining of.
type fleet struct {
	gateway string
	acks    Acker
	dial    func(ctx context.Context, node, addr string) (net.Conn, error) // optional
	life    context.Context
	spawn   func(func()) bool
	mu      sync.Mutex
	members map[string]*member // by instance ID
	apps    map[string]map[string]*member
}

// member is one instance.
type member struct {
	up       *upstream
	app      string
	known    bool   // the app's record has it
	draining string // DrainID, while its record says that it drains
	acked    string // DrainID that was acknowledged last
	acking   bool   // a goroutine sees to it
}

func newFleet(gateway string, acks Acker) *fleet {
	return &fleet{gateway: gateway, acks: acks, members: map[string]*member{}, apps: map[string]map[string]*member{}}
}

// plan is what update found out.
type plan struct {
	endpoints []*upstream
	leaving   []*upstream // to be closed once the Table no longer has them
	gone      []*upstream // of leaving: those that no record has any more
	asleep    []*upstream // of leaving: frozen ones
}

// update brings the members of one app in line with its record (nil for a
// deleted app) and returns the instances that take its requests. The caller
// swaps the Table and then closes those that leave.
func (f *fleet) update(app string, st *router.AppState) plan {
	f.mu.Lock()
	defer f.mu.Unlock()
	var p plan
	seen := map[string]bool{}
	if st != nil {
		for i := range st.Instances {
			in := &st.Instances[i]
			seen[in.ID] = true
			f.updateOne(app, in, in.State == router.Ready && in.Release == st.App.Current && in.Addr != "", &p)
		}
	}
	for id, m := range f.apps[app] {
		if seen[id] {
			continue
		}
		m.known, m.draining = false, ""
		p.leaving = append(p.leaving, m.up)
		p.gone = append(p.gone, m.up)
	}
	return p
}

func (f *fleet) updateOne(app string, in *router.Instance, serves bool, p *plan) {
	m := f.members[in.ID]
	draining := in.State == router.Draining
	if m == nil {
		if !serves && !draining {
			return
		}
		m = &member{app: app, up: newUpstream(in.ID, "tcp", in.Addr, f.idle)}
		m.up.state.Store(closedBit) // until it is opened below
		if node := in.Node; f.dial != nil {
			m.up.connect = func(ctx context.Context, addr string) (net.Conn, error) { return f.dial(ctx, node, addr) }
		}
		f.members[in.ID] = m
		if f.apps[app] == nil {
			f.apps[app] = map[string]*member{}
		}
		f.apps[app][in.ID] = m
	}
	m.known, m.draining = true, ""
	m.up.leased(in.BusyUntil)
	if draining {
		m.draining = in.DrainID()
	}
	if serves {
		m.up.reopen(in.Addr)
		p.endpoints = append(p.endpoints, m.up)
	} else {
		p.leaving = append(p.leaving, m.up)
		if in.State == router.Frozen {
			p.asleep = append(p.asleep, m.up)
		}
	}
}

// close ends admission to upstreams that the Table no longer has, and sees to
// what follows for those that are already empty. Whatever is still under way
// after a while in one without a record is cut: a scale-down waits for requests
// before it drops the record, so nobody is left to answer, as on a machine that
// was lost.
func (f *fleet) close(p plan) {
	for _, u := range p.leaving {
		u.close()
		if u.drained() {
			f.idle(u)
		}
	}
	for _, u := range p.gone {
		if !u.drained() || u.connected() {
			f.spawn(func() { f.abandon(u) })
		}
	}
}

// caught reports whether requests of this gateway are in an instance that was
// frozen, and sees to it that they end. Nobody freezes an instance before every
// live gateway has let go of it; this one did not count as live, as when its
// machine stood still for a while, and sent requests there meanwhile. They are
// cut unless the instance is soon ready again.
func (f *fleet) caught(p plan) bool {
	found := false
	for _, u := range p.asleep {
		if u.load() > 0 {
			found = true
			f.spawn(func() { f.abandon(u) })
		}
	}
	return found
}

// abandon cuts, after a while, what is under way in an upstream that is still
// without a record, or frozen.
func (f *fleet) abandon(u *upstream) {
	select {
	case <-time.After(goneGrace):
	case <-f.life.Done():
		return
	}
	f.mu.Lock()
	m := f.members[u.instance]
	back := m != nil && m.up == u && m.known && (u.state.Load()&closedBit == 0 || m.draining != "")
	f.mu.Unlock()
	if !back {
		u.cut()
	}
}

// idle is called when a closed upstream has no request left. It may be called
// more than once.
func (f *fleet) idle(u *upstream) {
	u.dropIdle()
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[u.instance]
	if m == nil || m.up != u {
		return
	}
	if !m.known {
		delete(f.members, u.instance)
		delete(f.apps[m.app], u.instance)
		if len(f.apps[m.app]) == 0 {
			delete(f.apps, m.app)
		}
		return
	}
	if m.draining != m.acked && m.draining != "" && !m.acking {
		m.acking = f.spawn(func() { f.acknowledge(m) })
	}
}

// acknowledge tells that m is drained, again and again until that is taken or
// no longer so.
func (f *fleet) acknowledge(m *member) {
	pause := ackFirst
	for {
		f.mu.Lock()
		drain := m.draining
		if drain == "" || drain == m.acked || !m.up.drained() || f.life.Err() != nil {
			m.acking = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()

		ctx, cancel := context.WithTimeout(f.life, ackDeadline)
		err := f.acks.AckDrain(ctx, f.gateway, drain)
		cancel()

		f.mu.Lock()
		if err == nil {
			m.acked = drain
		}
		f.mu.Unlock()
		if err == nil {
			continue
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, ackMost)
		case <-f.life.Done():
		}
	}
}

// each calls fn for every upstream.
func (f *fleet) each(fn func(*upstream)) {
	f.mu.Lock()
	ups := make([]*upstream, 0, len(f.members))
	for _, m := range f.members {
		ups = append(ups, m.up)
	}
	f.mu.Unlock()
	for _, u := range ups {
		fn(u)
	}
}
