package autoscale

import (
	"fmt"
	"slices"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// settled is how long all instances of an app have been ready before one is
// moved to spread them better: moving costs a start, and a crowd that scaling
// dissolves by itself is not worth one.
const settled = time.Minute

// nodeByName finds a node; it is a Runtime's Node, or the like.
type nodeByName func(name string) (*router.Node, bool)

// leaving are the instances that must not stay where they are: on nodes that
// are being drained, or that the app's placement has come to exclude.
func leaving(st *router.AppState, node nodeByName) map[string]bool {
	out := map[string]bool{}
	for _, in := range st.Instances {
		n, ok := node(in.Node)
		if !ok {
			continue
		}
		rel, known := st.Release(in.Release)
		if n.Cordoned || known && rel.Run.Placement.Refuses(n) != "" {
			out[in.ID] = true
		}
	}
	return out
}

// lopsided says whether moving one ready instance to another node spreads an
// app better, and how it is spread now. Moving is worth it where a failure
// domain holds at least two more than another one that has room, and all has
// been quiet for a while and nobody is busy. It is pure; candidates is asked only where two are in
// one domain.
func lopsided(st *router.AppState, node nodeByName, candidates func() []Candidate, now time.Time) (string, bool) {
	rel, ok := st.Serving()
	if !ok {
		return "", false
	}
	domain := domains(st, node)
	count := map[string]int{}
	most := ""
	for _, in := range st.Instances {
		switch {
		case in.State == router.Starting || in.State == router.Draining || in.State == router.Ready && now.Sub(in.Since) < settled, in.Busy(now):
			return "", false
		case in.State == router.Ready && in.Release == st.App.Current:
			d := domain(in.Node)
			if d == "" {
				return "", false // somewhere unknown: wait until that is cleared up
			}
			if count[d]++; count[d] > count[most] {
				most = d
			}
		}
	}
	if count[most] < 2 {
		return "", false
	}
	list := candidates()
	for i := range list {
		c := &list[i]
		d := rel.Run.Placement.Domain(c.Node)
		if count[most]-count[d] >= 2 && refusal(rel.Run.Placement, rel.Run.Reserve, c) == "" {
			return fmt.Sprintf("%d instances in %s, %d in %s", count[most], most, count[d], d), true
		}
	}
	return "", false
}

// candidates are the nodes as they matter for one more instance of a release.
func (c *Controller) candidates(app string, rel *router.Release) []Candidate {
	p := rel.Run.Placement
	nodes := c.ledger.candidates(c.Runtime.Nodes(), slices.Concat([]string{app}, p.Near, p.Apart), c.Now())
	if c.Locality != nil {
		missing := c.Locality.Missing(rel.Image)
		for i := range nodes {
			nodes[i].Missing = missing[nodes[i].Node.Name]
		}
	}
	return nodes
}

// domains gives the failure domain of a node, for an app's serving release;
// empty for a node that is not known.
func domains(st *router.AppState, node nodeByName) func(name string) string {
	var p router.Placement
	if rel, ok := st.Serving(); ok {
		p = rel.Run.Placement
	}
	return func(name string) string {
		n, ok := node(name)
		if !ok {
			return ""
		}
		return p.Domain(n)
	}
}
