package autoscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fluxgate/fluxgate/router"
)

const (
	abandonDeadline = 30 * time.Second
	abandonAtOnce   = 16 // apps
)

// abandonLost lets go of what was on nodes that are lost: the records go, which
// takes the instances out of every Table, and as many as served are raised on
// other nodes. What still runs there when a node comes back has no record, and
// is removed then. Only the one that leads does it. With every node lost it is
// this gateway that is cut off, and nothing is let go.
func (c *Controller) abandonLost(ctx context.Context) {
	if !c.leads.Load() {
		return
	}
	nodes := c.Runtime.Nodes()
	lost := map[string]bool{}
	for _, n := range nodes {
		if n.Lost {
			lost[n.Name] = true
		}
	}
	if len(lost) == 0 || len(lost) == len(nodes) {
		return
	}
	c.abandon(ctx, lost)
}

// notePlace lets go of an instance that was placed on a lost node by a gateway
// that does not know of the loss yet: each finds it out by itself.
func (c *Controller) notePlace(prev, next *router.AppState) {
	if next == nil || !c.leads.Load() {
		return
	}
	for i := range next.Instances {
		in := &next.Instances[i]
		if n, ok := c.Runtime.Node(in.Node); !ok || !n.Lost {
			continue
		}
		if prev != nil {
			if _, there := prev.Instance(in.ID); there {
				continue // it is being seen to
			}
		}
		c.abandons.ask(c, c.abandonLost)
		return
	}
}

// NodeGone lets go of what was on a node that is none any more, or that has
// never answered this gateway.
func (c *Controller) NodeGone(node string) {
	if c.leads.Load() {
		c.goFor("abandon "+node, func(ctx context.Context) { c.abandon(ctx, map[string]bool{node: true}) })
	}
}

func (c *Controller) abandon(ctx context.Context, nodes map[string]bool) {
	ctx, cancel := context.WithTimeout(ctx, abandonDeadline)
	defer cancel()
	there := func(in router.Instance) bool { return nodes[in.Node] }
	var group errgroup.Group
	group.SetLimit(abandonAtOnce)
	for _, app := range c.ledger.appsOn(nodes) {
		group.Go(func() error {
			c.abandonApp(ctx, app, there)
			return nil
		})
	}
	_ = group.Wait()
}

func (c *Controller) abandonApp(ctx context.Context, app string, there func(router.Instance) bool) {
	var gone []router.Instance
	serving := 0
	st, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
		gone, serving = nil, 0
		for _, in := range slices.Clone(st.Instances) {
			if !there(in) {
				continue
			}
			gone = append(gone, in)
			if in.Release == st.App.Current && (in.State == router.Ready || in.State == router.Starting) {
				serving++
			}
			st.DropInstance(in.ID)
		}
		if len(gone) == 0 {
			return errAbort
		}
		return nil
	})
	if err != nil {
		if !errors.Is(err, errAbort) {
			c.Log.Warn("instances on a lost node are not let go yet", "app", app, "err", err)
		}
		return
	}
	c.Log.Warn("instances were on a lost node", "app", app, "node", gone[0].Node, "instances", len(gone), "served", serving)
	c.note(app, router.Event{
		Kind: "crash", Text: fmt.Sprintf("node %s is lost, and %d instances with it; %d served and are replaced", gone[0].Node, len(gone), serving),
		Fields: map[string]string{"node": gone[0].Node, "instances": fmt.Sprint(len(gone))},
	})
	if serving > 0 {
		c.raiseTo(&st, st.Count(st.App.Current, router.Ready, router.Starting)+serving, c.Now())
	}
}

// voidClaims ends the claims of gateways that live no more, so that nobody
// waits for them: what they had begun is looked at like any other claim that
// has run out.
func (c *Controller) voidClaims(ctx context.Context) {
	live, err := c.Cluster.Gateways(ctx)
	if err != nil || !slices.Contains(live, c.Gateway) {
		return // whoever does not see itself cannot tell who else is gone
	}
	now := c.Now()
	void := func(in router.Instance) bool {
		return in.Claim.Held(c.Gateway, now) && !slices.Contains(live, in.Claim.Holder)
	}
	for _, app := range c.claims.list() {
		st, ok := c.Catalog.Get(app)
		if !ok || !slices.ContainsFunc(st.Instances, void) {
			continue
		}
		_, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
			for i := range st.Instances {
				if in := &st.Instances[i]; void(*in) {
					c.Log.Warn("a gateway is gone; what it had begun is taken over", "gateway", in.Claim.Holder, "instance", in.ID, "began", in.Claim.Op)
					in.Claim.Until = now
				}
			}
			return nil
		})
		if err != nil {
			c.Log.Warn("the claims of a gone gateway run on", "app", app, "err", err)
		}
	}
}
