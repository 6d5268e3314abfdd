package podman

import (
	"context"
	"strings"
	"time"

	"github.com/containers/podman/v4/libpod/define"
	"github.com/containers/podman/v4/pkg/bindings/containers"

	"github.com/fluxgate/fluxgate/router"
)

// statsCall bounds one look at what a node's containers use.
const statsCall = 8 * time.Second

// Stats is what the running and frozen containers of a node use, by instance,
// in one call. Of CPU it knows the time since the start only. Limits are not
// filled in: the engine names the machine's memory where there is none.
// Instances of other installations on the same engine may be among them.
func (n *Node) Stats(ctx context.Context) (map[string]router.Usage, error) {
	list, err := n.stats(ctx, statsCall)
	if err != nil {
		return nil, err
	}
	usage := make(map[string]router.Usage, len(list))
	for _, s := range list {
		if instance, ok := strings.CutPrefix(s.Name, containerName("")); ok {
			usage[instance] = router.Usage{At: time.Unix(0, int64(s.SystemNano)), CPUTime: time.Duration(s.CPUNano), Memory: router.Bytes(s.MemUsage)}
		}
	}
	return usage, nil
}

// stats are of the named containers, or of all, within a time.
func (n *Node) stats(ctx context.Context, within time.Duration, names ...string) ([]define.ContainerStats, error) {
	ctx, end := n.call(ctx, within)
	defer end()
	reports, err := containers.Stats(ctx, names, new(containers.StatsOptions).WithStream(false))
	if err != nil {
		return nil, n.engineError(ctx, err)
	}
	var list []define.ContainerStats
	for report := range reports {
		if report.Error != nil {
			err = report.Error
		}
		list = append(list, report.Stats...)
	}
	if err != nil {
		return nil, n.engineError(ctx, err)
	}
	return list, nil
}

// Stats is Node.Stats of the named node.
func (p *Pool) Stats(ctx context.Context, node string) (map[string]router.Usage, error) {
	n, err := p.node(node)
	if err != nil {
		return nil, err
	}
	return n.Stats(ctx)
}
