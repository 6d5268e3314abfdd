package api

import (
	"context"
	"maps"
	"slices"

	"github.com/fluxgate/fluxgate/router"
)

// withUsage fills in what instances use. The list goes out without it where
// Redis does not answer: it comes from memory otherwise.
func (s *Server) withUsage(ctx context.Context, list []Instance) []Instance {
	nodes := map[string]bool{}
	for _, in := range list {
		if in.Node != "" && (in.State == router.Ready || in.State == router.Frozen) {
			nodes[in.Node] = true
		}
	}
	known, err := s.b.Activity.Usage(ctx, slices.Sorted(maps.Keys(nodes)))
	if err != nil {
		s.log.Debug("what instances use cannot be read", "err", err)
		return list
	}
	for i, in := range list {
		u, ok := known[in.Node].Instances[in.ID]
		if !ok || in.State != router.Ready && in.State != router.Frozen {
			continue
		}
		list[i].Usage = &Usage{
			At: u.At, CPU: u.CPU, CPULimit: u.CPULimit, Memory: int64(u.Memory), MemoryLimit: int64(u.MemoryLimit), Advice: u.Advice(),
		}
	}
	return list
}
