package autoscale

import (
	"fmt"
	"strings"

	"github.com/fluxgate/fluxgate/router"
)

// Place chooses the node for one more instance: of those that still have the
// memory it needs, the one with the largest share free. reserved is what the
// starting, ready and draining instances of each node count for; frozen ones
// count for nothing, for most of theirs can be had back by stopping them. The
// error says of each node why not.
func Place(nodes []router.Node, reserved map[string]router.Bytes, need router.Bytes) (string, error) {
	best, bestFree := "", -1.0
	var refusals []string
	for _, n := range nodes {
		capacity := n.Facts.Memory
		free := capacity - reserved[n.Name]
		if capacity > 0 && need > free {
			refusals = append(refusals, fmt.Sprintf("%s: %s of %s are reserved, %s more are needed", n.Name, gigabytes(reserved[n.Name]), gigabytes(capacity), gigabytes(need)))
			continue
		}
		share := 1.0
		if capacity > 0 {
			share = float64(free) / float64(capacity)
		}
		if share > bestFree {
			best, bestFree = n.Name, share
		}
	}
	if best == "" {
		if len(refusals) == 0 {
			refusals = append(refusals, "no node is known")
		}
		return "", router.Errorf(router.CodeExhausted, "no node has room: %s", strings.Join(refusals, "; "))
	}
	return best, nil
}

func gigabytes(b router.Bytes) string { return fmt.Sprintf("%.2f GB", float64(b)/(1<<30)) }

// reserved sums what running instances count for, by node.
func reserved(apps []*router.AppState) map[string]router.Bytes {
	sum := map[string]router.Bytes{}
	for _, st := range apps {
		for _, in := range st.Instances {
			switch in.State {
			case router.Starting, router.Ready, router.Draining:
				if rel, ok := st.Release(in.Release); ok {
					sum[in.Node] += rel.Run.Reserve
				}
			}
		}
	}
	return sum
}
