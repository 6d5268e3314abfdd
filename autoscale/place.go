package autoscale

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/fluxgate/fluxgate/router"
)

// Candidate is a node as placement sees it.
type Candidate struct {
	Node     router.Node
	Reserved router.Bytes   // what its starting, ready and draining instances count for; frozen ones count for nothing, for most of theirs can be had back by stopping them
	Apps     map[string]int // instances that are there, by app
	Trouble  bool           // its engine failed to start something lately
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
	domains := map[string]int{}
	for _, c := range nodes {
		domains[p.Domain(c.Node)] += c.Apps[app]
	}
	type option struct {
		name     string
		trouble  bool
		domain   int
		here     int
		liked    int
		missing  router.Bytes
		freeness int
		hash     uint64
	}
	var options []option
	var refusals []string
	for _, c := range nodes {
		if why := refusal(p, need, c); why != "" {
			refusals = append(refusals, c.Node.Name+": "+why)
			continue
		}
		o := option{name: c.Node.Name, trouble: c.Trouble, domain: domains[p.Domain(c.Node)], here: c.Apps[app], liked: liked(p, c), missing: c.Missing, freeness: 10, hash: rendezvous(c.Node.Name, app)}
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
		options = append(options, o)
	}
	if len(options) == 0 {
		if len(refusals) == 0 {
			refusals = append(refusals, "there is none that takes instances; `fluxgate node ls` lists them")
		}
		return "", router.Errorf(router.CodeExhausted, "no node can take it: %s", summary(refusals))
	}
	best := slices.MinFunc(options, func(a, b option) int {
		return cmp.Or(
			compareBool(a.trouble, b.trouble), cmp.Compare(a.domain, b.domain), cmp.Compare(a.here, b.here), cmp.Compare(b.liked, a.liked),
			cmp.Compare(a.missing, b.missing), cmp.Compare(b.freeness, a.freeness), cmp.Compare(b.hash, a.hash),
		)
	})
	return best.name, nil
}

// refusal is why a node cannot take an instance; empty where it can.
func refusal(p router.Placement, need router.Bytes, c Candidate) string {
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
func liked(p router.Placement, c Candidate) int {
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
	h := fnv.New64a()
	_, _ = h.Write([]byte(node + "\x00" + app)) // never fails
	// FNV's high bits differ little for names that differ at the end (the
	// finaliser is MurmurHash3's).
	x := h.Sum64()
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
