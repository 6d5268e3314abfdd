package autoscale

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// believeFull is how long a node counts as full after the store said so: by
// then the change stream has told what fills it.
const believeFull = 2 * time.Second

// troubled is how long a node is avoided whose engine failed to start something.
const troubled = 30 * time.Second

// ledger keeps, from the changes of a Catalog, what every node has: asking all
// apps at every placement would take longer than a wake.
type ledger struct {
	mu    sync.Mutex
	nodes map[string]*account
}

// account is what one node has.
type account struct {
	reserved router.Bytes
	ceiling  router.Bytes   // the most that its running and frozen instances may use
	apps     map[string]int // instances that are not failed, by app
	all      map[string]int // instances, by app

	// What the store said when it refused an instance, which other gateways'
	// writes had filled.
	told      router.Bytes
	toldUntil time.Time

	trouble time.Time // until when it is avoided
}

func newLedger(catalog *router.Catalog) *ledger {
	l := &ledger{nodes: map[string]*account{}}
	for _, st := range catalog.All() {
		l.changed(nil, st)
	}
	catalog.OnChange(l.changed)
	return l
}

func (l *ledger) changed(prev, next *router.AppState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count(prev, -1)
	l.count(next, 1)
}

func (l *ledger) count(st *router.AppState, sign int) {
	if st == nil {
		return
	}
	for _, in := range st.Instances {
		if in.Node == "" {
			continue
		}
		a := l.open(in.Node)
		if a.all[st.App.Name] += sign; a.all[st.App.Name] == 0 {
			delete(a.all, st.App.Name)
		}
		if in.State == router.Failed {
			continue
		}
		a.reserved += router.Bytes(sign) * st.Reserves(in)
		if rel, ok := st.Release(in.Release); ok && in.State != router.Stopped {
			a.ceiling += router.Bytes(sign) * max(rel.Run.Memory, rel.Run.Reserve)
		}
		if a.apps[st.App.Name] += sign; a.apps[st.App.Name] == 0 {
			delete(a.apps, st.App.Name)
		}
	}
}

// holds reports whether there are instances on a node.
func (l *ledger) holds(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.nodes[node]
	return a != nil && len(a.all) > 0
}

// mayLack reports whether a node's instances could fill it if all of them used
// what they may: where not, nobody need ask what they use.
func (l *ledger) mayLack(n *router.Node) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.nodes[n.Name]
	return a != nil && n.Facts.Memory > 0 && float64(a.ceiling) > lowWater*float64(n.Facts.Memory)
}

// appsOn are the apps with instances on any of the nodes, by name.
func (l *ledger) appsOn(nodes map[string]bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	apps := map[string]bool{}
	for node := range nodes {
		if a := l.nodes[node]; a != nil {
			for app := range a.all {
				apps[app] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(apps))
}

// full notes that a node has less room than the Catalog says.
func (l *ledger) full(f *router.FullError, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.open(f.Node)
	a.told, a.toldUntil = f.Reserved, now.Add(believeFull)
}

// failed notes that a node's engine could not start something, as with a full
// disk: for a while, others are tried first.
func (l *ledger) failed(node string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open(node).trouble = now.Add(troubled)
}

// open is a node's account; the caller holds mu.
func (l *ledger) open(node string) *account {
	a := l.nodes[node]
	if a == nil {
		a = &account{apps: map[string]int{}, all: map[string]int{}}
		l.nodes[node] = a
	}
	return a
}

// candidates are the nodes with what they have. names are the apps that the
// caller asks about.
func (l *ledger) candidates(nodes []*router.Node, names []string, now time.Time) []Candidate {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]Candidate, len(nodes))
	for i, n := range nodes {
		list[i].Node = n
		list[i].Trouble = n.Full
		a := l.nodes[n.Name]
		if a == nil {
			continue
		}
		list[i].Reserved = a.reserved
		list[i].Trouble = n.Full || now.Before(a.trouble)
		if now.Before(a.toldUntil) {
			list[i].Reserved = max(a.reserved, a.told)
		}
		for _, name := range names {
			if n := a.apps[name]; n > 0 {
				if list[i].Apps == nil {
					list[i].Apps = map[string]int{}
				}
				list[i].Apps[name] = n
			}
		}
	}
	return list
}

// account is a copy of what a node has, for tests.
func (l *ledger) account(node string) account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.nodes[node]
	if a == nil {
		return account{}
	}
	return account{reserved: a.reserved, apps: maps.Clone(a.apps)}
}
