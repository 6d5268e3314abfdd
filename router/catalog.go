package router

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// Catalog is a gateway's copy of every app's record. Records reach it from the
// change stream and, without waiting for that, from the gateway's own writes;
// an older record never replaces a newer one. All methods may be called
// concurrently. Records handed out are shared and must not be changed.
type Catalog struct {
	mu      sync.RWMutex
	apps    map[string]*AppState
	living  map[string]*AppState // of these, those with something to be done
	domains map[string]string    // app by domain
	gone    map[string]uint64    // versions of deleted apps: a late older record must not bring one back
	waiters map[string][]chan struct{}
	hooks   []func(prev, next *AppState)
	order   sync.Mutex // held over a change and its hooks: hooks see changes in order
}

// NewCatalog is an empty Catalog.
func NewCatalog() *Catalog {
	return &Catalog{apps: map[string]*AppState{}, living: map[string]*AppState{}, domains: map[string]string{}, gone: map[string]uint64{}, waiters: map[string][]chan struct{}{}}
}

// OnChange registers fn to be called for every change, in order, with the
// record before (nil for a new app) and after (nil for a deleted one). It must
// be called before the first Apply; fn must be quick and must not call Apply.
func (c *Catalog) OnChange(fn func(prev, next *AppState)) { c.hooks = append(c.hooks, fn) }

// Apply takes a record in if it is newer than the one held, and reports
// whether it was. When it returns, every hook has run.
func (c *Catalog) Apply(st AppState) bool {
	c.order.Lock()
	defer c.order.Unlock()

	name := st.App.Name
	c.mu.Lock()
	prev := c.apps[name]
	if (prev != nil && prev.Version >= st.Version) || c.gone[name] >= st.Version && c.gone[name] > 0 {
		c.mu.Unlock()
		return false
	}
	next := &st
	if st.Deleted {
		next = nil
		c.take(name)
		c.gone[name] = st.Version
		if prev == nil {
			c.mu.Unlock()
			return false
		}
	} else {
		c.put(name, next)
		delete(c.gone, name)
	}
	waiters := c.waiters[name]
	delete(c.waiters, name)
	c.mu.Unlock()

	c.announce(prev, next, waiters)
	return true
}

// Amend changes the held record without a newer one from the store: what this
// gateway knows before its record is written, or while Redis is away. The next
// record that comes replaces it. It reports whether the app is there; fn gets a clone.
func (c *Catalog) Amend(name string, fn func(*AppState)) bool {
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	prev, ok := c.apps[name]
	if !ok {
		c.mu.Unlock()
		return false
	}
	next := prev.Clone()
	fn(&next)
	c.put(name, &next)
	waiters := c.waiters[name]
	delete(c.waiters, name)
	c.mu.Unlock()
	c.announce(prev, &next, waiters)
	return true
}

// take drops a record; c.mu is held.
func (c *Catalog) take(name string) {
	if prev := c.apps[name]; prev != nil {
		for _, host := range prev.App.Domains {
			if c.domains[host] == name { // else it has moved on to another app already
				delete(c.domains, host)
			}
		}
	}
	delete(c.apps, name)
	delete(c.living, name)
}

// put holds a record; c.mu is held.
func (c *Catalog) put(name string, st *AppState) {
	if prev := c.apps[name]; prev == nil || !slices.Equal(prev.App.Domains, st.App.Domains) {
		c.take(name)
		for _, host := range st.App.Domains {
			c.domains[host] = name
		}
	}
	c.apps[name] = st
	if len(st.Instances) > 0 || st.App.Policy.Min > 0 || st.App.Current == 0 {
		c.living[name] = st
	} else {
		delete(c.living, name)
	}
}

// announce runs the hooks, then lets those go on who wait for the app.
func (c *Catalog) announce(prev, next *AppState, waiters []chan struct{}) {
	for _, hook := range c.hooks {
		hook(prev, next)
	}
	for _, ch := range waiters {
		close(ch)
	}
}

// Get is the record of one app.
func (c *Catalog) Get(name string) (*AppState, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	st, ok := c.apps[name]
	return st, ok
}

// Owner is the app that has a domain, beside its own hostname.
func (c *Catalog) Owner(domain string) (app string, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	app, ok = c.domains[domain]
	return app, ok
}

// All is every record, by app name.
func (c *Catalog) All() []*AppState {
	c.mu.RLock()
	all := make([]*AppState, 0, len(c.apps))
	for _, st := range c.apps {
		all = append(all, st)
	}
	c.mu.RUnlock()
	return byName(all)
}

// Living are the records of apps that may need something although nobody asks
// for them, by name: those with instances, those that must have some, and those
// in which nothing serves yet. Of very many apps that sleep deeply, it costs
// nothing.
func (c *Catalog) Living() []*AppState {
	c.mu.RLock()
	list := make([]*AppState, 0, len(c.living))
	for _, st := range c.living {
		list = append(list, st)
	}
	c.mu.RUnlock()
	return byName(list)
}

func byName(list []*AppState) []*AppState {
	slices.SortFunc(list, func(a, b *AppState) int { return strings.Compare(a.App.Name, b.App.Name) })
	return list
}

// Await returns the app's record once done says so; it looks at once and after
// every change of that app. It ends with ctx, or with CodeNotFound when the app
// is not there.
func (c *Catalog) Await(ctx context.Context, name string, done func(*AppState) bool) (*AppState, error) {
	for {
		c.mu.Lock()
		st, ok := c.apps[name]
		if !ok {
			c.mu.Unlock()
			return nil, Errorf(CodeNotFound, "there is no app %q", name)
		}
		if done(st) {
			c.mu.Unlock()
			return st, nil
		}
		ch := make(chan struct{})
		c.waiters[name] = append(c.waiters[name], ch)
		c.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			c.mu.Lock()
			c.waiters[name] = slices.DeleteFunc(c.waiters[name], func(o chan struct{}) bool { return o == ch })
			if len(c.waiters[name]) == 0 {
				delete(c.waiters, name)
			}
			c.mu.Unlock()
			return nil, ctx.Err()
		}
	}
}
