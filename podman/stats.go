package podman

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// statsCall bounds one look at what a node's containers use.
const statsCall = 8 * time.Second

// Stats is what the running and frozen containers of a node use, by instance,
// in one call. Of CPU it knows the time since the start only. Limits are not
// filled in: the engine names the machine's memory where there is none.
// Instances of other installations on the same engine may be among them.
func (n *Node) Stats(ctx context.Context) (map[string]router.Usage, error) {
	ctx, end := n.call(ctx, statsCall)
	defer end()
	resp, err := n.request(ctx, http.MethodGet, "/containers/stats", url.Values{"stream": {"false"}}, nil, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var report struct {
		Error any
		Stats []struct {
			Name       string
			CPUNano    int64
			SystemNano int64
			MemUsage   int64
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&report); err != nil {
		return nil, n.engineError(ctx, err)
	}
	if report.Error != nil {
		return nil, router.Errorf(router.CodeInternal, "node %s: Podman cannot tell what its containers use: %v", n.name, report.Error)
	}
	usage := make(map[string]router.Usage, len(report.Stats))
	for _, s := range report.Stats {
		if instance, ok := strings.CutPrefix(s.Name, containerName("")); ok {
			usage[instance] = router.Usage{At: time.Unix(0, s.SystemNano), CPUTime: time.Duration(s.CPUNano), Memory: router.Bytes(s.MemUsage)}
		}
	}
	return usage, nil
}

// Stats is Node.Stats of the named node.
func (p *Pool) Stats(ctx context.Context, node string) (map[string]router.Usage, error) {
	n, err := p.node(node)
	if err != nil {
		return nil, err
	}
	return n.Stats(ctx)
}
