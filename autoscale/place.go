package autoscale

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fluxgate/fluxgate/router"
)

// Candidate is a node as placement sees it.
type Candidate struct {
	Node     *router.Node
	Reserved router.Bytes   // what its starting, ready and draining instances count for; frozen ones count for nothing, for most of theirs can be had back by stopping them
	Apps     map[string]int // instances that are there, by app
	Trouble  bool           // its engine failed to start something lately, or its disk is full
	Missing  router.Bytes   // how much of the image the node would have to fetch first
}

// keepFree is the share of a node's memory below which an image that is there
// already is no longer a reason to put even more on it.
const keepFree = 0.1

// littleMissing is as good as nothing: it is fetched within a start's time.
const littleMissing = 1 << 20

// Place chooses the node for one more instance of an app that counts for need.
// Of the nodes that may take it and have room, it prefers those whose engine
// worked last time, then, in this order:
//
//  1. the failure domain with the fewest instances of the app, then the node
//     with the fewest;
//  2. labels and neighbours that the app would rather have;
//  3. nodes that hold the image, unless they are nearly full;
//  4. the largest share of memory free, in tenths;
//  5. what the hash of node and app says ([Rendezvous hashing]), so that apps
//     spread over equal nodes and several gateways choose alike.
//
// The error (CodeExhausted) says of each node why not. Place is pure.
//
// [Rendezvous hashing]: https://doi.org/10.1109/90.663936
func Place(app string, p router.Placement, need router.Bytes, nodes []Candidate) (string, error) {
	domains := map[string]int{} // those without an instance of the app are left out
	for i := range nodes {
		if n := nodes[i].Apps[app]; n > 0 {
			domains[p.Domain(nodes[i].Node)] += n
		}
	}
	// One pass that keeps the best: there may be very many nodes, and somebody
	// waits for the instance.
	var best option
	for i := range nodes {
		c := &nodes[i]
		if refusal(p, need, c) != "" {
			continue
		}
		o := option{node: c, here: c.Apps[app], liked: liked(p, c), missing: c.Missing, freeness: 10}
		if len(domains) > 0 {
			o.domain = domains[p.Domain(c.Node)]
		}
		if o.missing < littleMissing {
			o.missing = 0
		}
		if capacity := c.Node.Facts.Memory; capacity > 0 {
			free := float64(capacity-c.Reserved-need) / float64(capacity)
			o.freeness = int(free * 10)
			if free < keepFree {
				o.missing = 1 << 60 // the image's being there is no reason any more
			}
		}
		if best.node == nil || o.before(&best, app) {
			best = o
		}
	}
	if best.node != nil {
		return best.node.Node.Name, nil
	}
	var refusals []string
	for i := range nodes {
		refusals = append(refusals, nodes[i].Node.Name+": "+refusal(p, need, &nodes[i]))
	}
	if len(refusals) == 0 {
		refusals = append(refusals, "there is none that takes instances; `fluxgate node ls` lists them")
	}
	return "", router.Errorf(router.CodeExhausted, "no node can take it: %s", summary(refusals))
}

// option is a node that can take an instance, with what speaks for it.
type option struct {
	node     *Candidate
	domain   int // instances of the app in its failure domain
	here     int // and on it
	liked    int
	missing  router.Bytes
	freeness int
}

// before reports whether o is the better choice for an app.
func (o *option) before(other *option, app string) bool {
	order := cmp.Or(
		compareBool(o.node.Trouble, other.node.Trouble), cmp.Compare(o.domain, other.domain), cmp.Compare(o.here, other.here), cmp.Compare(other.liked, o.liked),
		cmp.Compare(o.missing, other.missing), cmp.Compare(other.freeness, o.freeness),
	)
	if order == 0 {
		order = cmp.Compare(rendezvous(other.node.Node.Name, app), rendezvous(o.node.Node.Name, app))
	}
	return order < 0
}

// refusal is why a node cannot take an instance; empty where it can.
func refusal(p router.Placement, need router.Bytes, c *Candidate) string {
	switch {
	case c.Node.Lost:
		return "it cannot be reached"
	case c.Node.Down:
		return "its Podman does not answer"
	case c.Node.Cordoned:
		return "it is being drained"
	}
	if why := p.Refuses(c.Node); why != "" {
		return why
	}
	for _, other := range p.Apart {
		if c.Apps[other] > 0 {
			return "placement.apart: " + other + " has instances there"
		}
	}
	if capacity := c.Node.Facts.Memory; capacity > 0 && need > capacity-c.Reserved {
		return fmt.Sprintf("%s of %s are reserved, %s more are needed", gigabytes(c.Reserved), gigabytes(capacity), gigabytes(need))
	}
	return ""
}

// liked counts what a node has that the app would rather have.
func liked(p router.Placement, c *Candidate) int {
	n := 0
	for k, v := range p.Prefer {
		if have, ok := c.Node.Labels[k]; ok && have == v {
			n++
		}
	}
	for _, app := range p.Near {
		if c.Apps[app] > 0 {
			n++
		}
	}
	return n
}

// rendezvous is a node's weight for an app.
func rendezvous(node, app string) uint64 {
	// FNV-1a, of node, 0, app.
	x := uint64(14695981039346656037)
	for _, text := range [...]string{node, "\x00", app} {
		for i := range len(text) {
			x = (x ^ uint64(text[i])) * 1099511628211
		}
	}
	// FNV's high bits differ little for names that differ at the end (the
	// finaliser is MurmurHash3's).
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// mostRefusals is how many nodes an error tells of.
const mostRefusals = 20

func summary(refusals []string) string {
	slices.Sort(refusals)
	if more := len(refusals) - mostRefusals; more > 0 {
		refusals = append(refusals[:mostRefusals:mostRefusals], fmt.Sprintf("and %d more nodes", more))
	}
	return strings.Join(refusals, "; ")
}

func gigabytes(b router.Bytes) string { return fmt.Sprintf("%.2f GB", float64(b)/(1<<30)) }
