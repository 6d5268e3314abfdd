package autoscale

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/decide"
	"github.com/fluxgate/fluxgate/router"
)

// Memories keeps what was learned of apps, for the next one that decides.
type Memories interface {
	// Recall reads what was kept; apps of which nothing was are left out.
	Recall(ctx context.Context, apps []string) (map[string][]byte, error)
	// Keep stores what was learned, and when an app that sleeps has to be looked
	// at although nobody asks for it: the zero time for never.
	Keep(ctx context.Context, learned map[string]router.Learned) error
	// Due are apps, at most so many, that had to be looked at by then.
	Due(ctx context.Context, until time.Time, most int) ([]string, error)
}

// mind is what this process knows of an app's traffic.
type mind struct {
	mu       sync.Mutex
	memory   decide.Memory
	recalled bool // what was kept has been read
	fresh    bool // something was learned since it was kept
	active   time.Time
	open     int64 // requests and connections at openAt
	openAt   time.Time
	last     decide.Decision // to note only changes
	decided  bool
}

// minds are those of the apps that live, or had requests lately.
type minds struct {
	mu   sync.Mutex
	apps map[string]*mind
}

func (m *minds) open(app string) *mind {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.apps[app]
	if k == nil {
		if m.apps == nil {
			m.apps = map[string]*mind{}
		}
		k = &mind{}
		m.apps[app] = k
	}
	return k
}

func (m *minds) forget(app string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.apps, app)
}

// clear forgets all: another process has learned meanwhile.
func (m *minds) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.apps = nil
}

func (m *minds) all() map[string]*mind {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make(map[string]*mind, len(m.apps))
	for app, k := range m.apps {
		list[app] = k
	}
	return list
}

// recall reads what was kept of apps that this process does not know yet, and
// when they were last active.
func (c *Controller) recall(ctx context.Context, apps map[string]bool) error {
	var unknown []string
	for app := range apps {
		k := c.minds.open(app)
		k.mu.Lock()
		if !k.recalled {
			unknown = append(unknown, app)
		}
		k.mu.Unlock()
	}
	if len(unknown) == 0 {
		return nil
	}
	var kept map[string][]byte
	var err error
	if c.Memories != nil {
		if kept, err = c.Memories.Recall(ctx, unknown); err != nil {
			return err
		}
	}
	active, err := c.Signals.LastActive(ctx, unknown)
	if err != nil {
		return err
	}
	for _, app := range unknown {
		k := c.minds.open(app)
		k.mu.Lock()
		if raw, ok := kept[app]; ok {
			var memory decide.Memory
			if err := json.Unmarshal(raw, &memory); err != nil {
				c.Log.Warn("what was learned of an app cannot be read, and is learned anew", "app", app, "err", err)
			} else {
				memory.Times.Merge(k.memory.Times)
				k.memory = memory
			}
		}
		if at := active[app]; at.After(k.active) {
			k.active = at
		}
		k.recalled = true
		k.mu.Unlock()
	}
	return nil
}

// keepEvery is how often what was learned is kept.
const keepEvery = time.Minute

// mostKept is how many apps are kept in one call.
const mostKept = 500

// keepMinds keeps what was learned, and forgets apps that sleep.
func (c *Controller) keepMinds(ctx context.Context) {
	if c.Memories == nil {
		return
	}
	now := c.Now()
	batch := map[string]router.Learned{}
	flush := func() bool {
		if len(batch) == 0 {
			return true
		}
		kctx, cancel := context.WithTimeout(ctx, tickDeadline)
		defer cancel()
		if err := c.Memories.Keep(kctx, batch); err != nil {
			if ctx.Err() == nil {
				c.Log.Warn("what was learned of apps is not kept, will be tried again", "err", err)
			}
			return false
		}
		for app := range batch {
			k := c.minds.open(app)
			k.mu.Lock()
			k.fresh = false
			k.mu.Unlock()
			if st, ok := c.Catalog.Get(app); !ok || asleep(st) && now.Sub(k.lastActive()) > keepEvery {
				c.minds.forget(app)
			}
		}
		clear(batch)
		return true
	}
	for app, k := range c.minds.all() {
		st, ok := c.Catalog.Get(app)
		if !ok {
			c.minds.forget(app)
			continue
		}
		k.mu.Lock()
		switch {
		case k.recalled && !k.fresh && rests(st) && now.Sub(k.active) > keepEvery:
			c.minds.forget(app)
		case k.recalled && k.fresh:
			if raw, err := json.Marshal(&k.memory); err == nil {
				kept := router.Learned{Memory: raw}
				if at, due := k.memory.Next(now, st.App.Policy, decide.Facts{}); due {
					kept.Next = at
				}
				batch[app] = kept
			}
		}
		k.mu.Unlock()
		if len(batch) >= mostKept && !flush() {
			return
		}
	}
	flush()
}

func (k *mind) lastActive() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.active
}

// asleep reports whether an app has nothing that runs.
func asleep(st *router.AppState) bool {
	for _, in := range st.Instances {
		switch in.State {
		case router.Starting, router.Ready, router.Draining, router.Failed:
			return false
		}
	}
	return true
}

// learnWake takes in how long an instance took to get ready, whoever raised it.
func (c *Controller) learnWake(prev, next *router.AppState) {
	if prev == nil || next == nil {
		return
	}
	for _, in := range next.Instances {
		if in.State != router.Ready {
			continue
		}
		was, ok := prev.Instance(in.ID)
		if !ok || was.State != router.Starting || !in.Since.After(was.Since) {
			continue
		}
		k := c.minds.open(next.App.Name)
		k.mu.Lock()
		k.memory.Woke(step(was.Claim.Op).rung(), in.Since.Sub(was.Since))
		k.fresh = true
		k.mu.Unlock()
	}
}
