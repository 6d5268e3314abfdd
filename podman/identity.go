package podman

import (
	"context"
	"time"

	"github.com/containers/podman/v4/pkg/bindings/network"

	"github.com/fluxgate/fluxgate/router"
)

// leastDisk is what a node must have free to be taken on.
const leastDisk = 512 << 20

// Identity names the engine behind a connection, whatever the way to it: two
// nodes with the same one are one machine. It is the interface of our network
// there, which chance has named; Check makes the network. It is asked for once.
func (n *Node) Identity(ctx context.Context) (string, error) {
	if id := n.identity.Load(); id != nil {
		return *id, nil
	}
	ctx, end := n.call(ctx, quickCall)
	defer end()
	net, err := network.Inspect(ctx, n.networkName(), nil)
	if err != nil {
		return "", n.engineError(ctx, err)
	}
	n.identity.Store(&net.NetworkInterface)
	return net.NetworkInterface, nil
}

// CheckDisk refuses a node without room for images: CodeExhausted.
func (n *Node) CheckDisk(ctx context.Context) error {
	info, err := n.info(ctx)
	if err != nil {
		return err
	}
	total, used := info.Store.GraphRootAllocated, info.Store.GraphRootUsed
	if total > 0 && total-min(used, total) < leastDisk {
		return router.Errorf(router.CodeExhausted, "node %s has %s free at %s, and %s are needed: free some space there, such as with podman system prune",
			n.name, router.Bytes(total-min(used, total)), info.Store.GraphRoot, router.Bytes(leastDisk))
	}
	return nil
}

// Clock is how far the node's clock is ahead of this one's; 0 where only an SSH
// connection could tell and there is none.
func (n *Node) Clock(ctx context.Context) (time.Duration, error) {
	if n.tunnel == nil {
		return 0, nil
	}
	return n.tunnel.Clock(ctx)
}

// Latency is how long the engine takes to answer the shortest question.
func (n *Node) Latency(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	err := n.Ping(ctx)
	return time.Since(began), err
}

// Latency is Node.Latency of the named node.
func (p *Pool) Latency(ctx context.Context, node string) (time.Duration, error) {
	n, err := p.node(node)
	if err != nil {
		return 0, err
	}
	return n.Latency(ctx)
}

// Same is the name of the node of the pool that is the same machine as n; empty
// where there is none.
func (p *Pool) Same(ctx context.Context, n *Node) (string, error) {
	id, err := n.Identity(ctx)
	if err != nil {
		return "", err
	}
	for _, o := range p.nodes() {
		if o == n || o.Node().Down {
			continue
		}
		if other, err := o.Identity(ctx); err == nil && other == id {
			return o.name, nil
		}
	}
	return "", nil
}
