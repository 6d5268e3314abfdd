package autoscale

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Meters tell what instances use of their nodes.
type Meters interface {
	// Stats is what all instances on a node use, in one call to it.
	Stats(ctx context.Context, node string) (map[string]router.Usage, error)
}

// Usages keeps the last that meters told, for all gateways and for a short time.
type Usages interface {
	PutUsage(ctx context.Context, node string, u router.NodeUsage) error
	Usage(ctx context.Context, nodes []string) (map[string]router.NodeUsage, error)
}

// killed is the exit code of what was ended by SIGKILL.
const killed = 137

const (
	usageEvery    = 10 * time.Second
	usageDeadline = 9 * time.Second
	shortFor      = 3                // looks in a row at which an instance was short, before it is told
	toldAgain     = 10 * time.Minute // between two events of one app about the same shortage
)

// gaugeUsage looks at what instances use until ctx ends, beside the ticks.
func (c *Controller) gaugeUsage(ctx context.Context) {
	ticker := time.NewTicker(usageEvery)
	defer ticker.Stop()
	w := watchman{last: map[string]router.Usage{}, short: map[string]int{}, told: map[string]time.Time{}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		lctx, cancel := context.WithTimeout(ctx, usageDeadline)
		c.lookAtUsage(lctx, &w)
		cancel()
	}
}

// watchman remembers what was seen at the looks before.
type watchman struct {
	last  map[string]router.Usage // by instance
	short map[string]int          // by instance: looks in a row at which it was short
	told  map[string]time.Time    // by app and shortage
}

// lookAtUsage asks the nodes on which instances are ready: all that answer
// where this process leads, else those of which nobody else tells, for a
// gateway's own machine is reached by itself alone.
func (c *Controller) lookAtUsage(ctx context.Context, w *watchman) {
	ready := map[string][]*router.AppState{} // by node
	for _, st := range c.Catalog.Living() {
		for _, in := range st.Instances {
			if list := ready[in.Node]; in.State == router.Ready && (len(list) == 0 || list[len(list)-1] != st) {
				ready[in.Node] = append(list, st)
			}
		}
	}
	var nodes []string
	for _, n := range c.Runtime.Nodes() {
		if !n.Down && len(ready[n.Name]) > 0 {
			nodes = append(nodes, n.Name)
		}
	}
	if !c.leads.Load() {
		known, err := c.Usages.Usage(ctx, nodes)
		if err != nil {
			return // the ticks report a Redis that is away
		}
		nodes = slices.DeleteFunc(nodes, func(node string) bool { return known[node].By != "" && known[node].By != c.Gateway })
	}
	var mu sync.Mutex
	seen := map[string]router.Usage{}
	var group sync.WaitGroup
	for _, node := range nodes {
		group.Go(func() {
			found, err := c.Meters.Stats(ctx, node)
			if err != nil {
				c.Log.Debug("what instances use is not known", "node", node, "err", err)
				return
			}
			u := router.NodeUsage{By: c.Gateway, Instances: map[string]router.Usage{}}
			for _, st := range ready[node] {
				for _, in := range st.Instances {
					one, ok := found[in.ID]
					if !ok || in.Node != node {
						continue
					}
					if rel, ok := st.Release(in.Release); ok {
						one.CPULimit, one.MemoryLimit = rel.Run.CPU, rel.Run.Memory
					}
					mu.Lock()
					u.Instances[in.ID] = one.Since(w.last[in.ID])
					mu.Unlock()
				}
			}
			if err := c.Usages.PutUsage(ctx, node, u); err != nil && ctx.Err() == nil {
				c.Log.Debug("what instances use is not stored", "node", node, "err", err)
			}
			mu.Lock()
			maps.Copy(seen, u.Instances)
			mu.Unlock()
		})
	}
	group.Wait()
	w.last = seen
	now := c.Now()
	for _, states := range ready {
		for _, st := range states {
			for _, in := range st.Instances {
				if u, ok := seen[in.ID]; ok && in.State == router.Ready {
					c.tellShortage(w, in, u, now)
				}
			}
		}
	}
	maps.DeleteFunc(w.short, func(id string, _ int) bool { _, ok := seen[id]; return !ok })
	maps.DeleteFunc(w.told, func(_ string, at time.Time) bool { return now.Sub(at) >= toldAgain })
}

// tellShortage puts into an app's history that an instance has been short for a
// while.
func (c *Controller) tellShortage(w *watchman, in router.Instance, u router.Usage, now time.Time) {
	advice := u.Advice()
	if advice == "" {
		delete(w.short, in.ID)
		return
	}
	w.short[in.ID]++
	what, text := "cpu", "is held back by its CPU limit"
	if u.Short() {
		what, text = "memory", "is close to its memory limit, at which it will be killed"
	}
	if _, told := w.told[in.App+" "+what]; told || w.short[in.ID] < shortFor {
		return
	}
	w.told[in.App+" "+what] = now
	c.note(in.App, router.Event{Kind: "resources", Text: in.ID + " " + text, Fields: map[string]string{"instance": in.ID, "short_of": what, "advice": advice}})
}

// adviceOnDeath is what to do about an instance that died; "" where there is
// nothing to say.
func (c *Controller) adviceOnDeath(ctx context.Context, in router.Instance, exit int, oom bool) string {
	st, ok := c.Catalog.Get(in.App)
	if !ok {
		return ""
	}
	// Not every engine notices that the kernel killed for memory.
	doubtful := !oom && exit == killed
	if !oom && !doubtful {
		return st.App.Crash.AdviceOnLoop(in.App)
	}
	var last router.Usage
	if c.Usages != nil {
		if known, err := c.Usages.Usage(ctx, []string{in.Node}); err == nil {
			last = known[in.Node].Instances[in.ID]
		}
	}
	limit := router.Bytes(0)
	if rel, ok := st.Release(in.Release); ok {
		limit = rel.Run.Memory
	}
	advice := last.AdviceOnKill(limit)
	if doubtful {
		advice = "if nobody else killed it, memory ran out: " + advice
	}
	return advice
}
