package autoscale

import (
	"context"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// prefetchDeadline bounds the carrying of one image to one node.
const prefetchDeadline = 15 * time.Minute

// prefetch brings the image of an app's serving release to as many nodes
// without an instance of it as its policy says, so that a start there need not
// wait for it. What fails is left to the start.
func (c *Controller) prefetch(st *router.AppState) {
	rel, ok := st.Serving()
	if !ok || c.Locality == nil || st.App.Policy.Prefetch == 0 {
		return
	}
	app, image := st.App.Name, rel.Image
	for _, node := range spares(app, rel, c.candidates(app, rel), st.App.Policy.Prefetch) {
		c.goFor("prefetch "+app+" "+node, func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, prefetchDeadline)
			defer cancel()
			if err := c.Locality.Prefetch(ctx, node, app, image); err != nil && ctx.Err() == nil {
				c.Log.Warn("an image is not on a node ahead of its need", "app", app, "node", node, "err", err)
			}
		})
	}
}

// spares are the nodes, of count where the next instances would go beyond those
// that have one, that lack the image. It is pure.
func spares(app string, rel *router.Release, nodes []Candidate, count int) []string {
	var lack []string
	for range count {
		free := make([]Candidate, 0, len(nodes))
		for _, n := range nodes {
			if n.Apps[app] == 0 {
				free = append(free, n)
			}
		}
		name, err := Place(app, rel.Run.Placement, rel.Run.Reserve, free)
		if err != nil {
			break
		}
		for i := range nodes {
			if nodes[i].Node.Name == name {
				if nodes[i].Missing > 0 {
					lack = append(lack, name)
				}
				nodes[i].Apps = map[string]int{app: 1}
			}
		}
	}
	return lack
}
