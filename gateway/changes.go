package gateway

import (
	"maps"
	"slices"

	"github.com/fluxgate/fluxgate/router"
)

// The Table and what belongs to it change here, one change at a time; the
// request path only reads them.

// changed takes in a change of one app's record. It is the Catalog's hook.
func (e *Edge) changed(prev, next *router.AppState) {
	e.changes.Lock()
	defer e.changes.Unlock()
	if next == nil {
		e.remove(prev.App.Name)
		return
	}
	e.apply(next)
}

func (e *Edge) apply(st *router.AppState) {
	name := st.App.Name
	p := e.fleet.update(name, st)
	a := e.admissions[name]
	if a == nil {
		a = &admission{app: name, edge: e}
		e.admissions[name] = a
	}
	t := &target{
		app:       name,
		admission: a,
		endpoints: p.endpoints,
		limit:     int64(st.App.Policy.MaxConcurrency),
		policy:    st.App.Policy,
		timeout:   router.DefaultRun().Timeout.D(),
		crash:     st.App.Crash,
		rung:      rungOf(st),
	}
	// An app that has no release yet has nothing to answer with: its names are
	// unknown until it has.
	hosts := map[string]*target{}
	if rel, ok := st.Serving(); ok {
		t.sticky = rel.Run.Sticky
		if rel.Run.Timeout > 0 {
			t.timeout = rel.Run.Timeout.D()
		}
		for _, host := range st.App.Hosts(e.opts.Domain) {
			hosts[host] = t
		}
	}
	if a.target.Load() == nil {
		a.target.Store(t) // before anybody can find it
	}
	e.publish(name, hosts)
	a.update(t)
	e.fleet.close(p)
	if e.fleet.caught(p) {
		a.rescue()
	}
}

func (e *Edge) remove(name string) {
	p := e.fleet.update(name, nil)
	e.publish(name, nil)
	if a := e.admissions[name]; a != nil {
		delete(e.admissions, name)
		a.end()
	}
	e.fleet.close(p)
}

// publish swaps the Table for one in which exactly hosts lead to the app.
func (e *Edge) publish(name string, hosts map[string]*target) {
	old := e.table.Load()
	var drop []string
	for _, host := range e.hosts[name] {
		// News of two apps may arrive in any order: a name that has moved on to
		// another app already is not this one's to drop.
		if t, ok := old.Lookup([]byte(host)); ok && hosts[host] == nil && t.app == name {
			drop = append(drop, host)
		}
	}
	delete(hosts, router.PlatformHost(e.opts.Domain))
	delete(hosts, router.RegistryHost(e.opts.Domain))
	e.table.Store(old.With(hosts, drop))
	if e.tls != nil {
		for host := range hosts {
			if !slices.Contains(e.hosts[name], host) {
				e.tls.expect(host)
			}
		}
	}
	if len(hosts) == 0 {
		delete(e.hosts, name)
		return
	}
	e.hosts[name] = slices.Collect(maps.Keys(hosts))
}
