package podman

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	nettypes "github.com/containers/common/libnetwork/types"
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
	net, err := prompt(ctx, func() (nettypes.Network, error) { return network.Inspect(ctx, n.networkName(), nil) })
	if err != nil {
		return "", n.engineError(ctx, err)
	}
	n.identity.Store(&net.NetworkInterface)
	return net.NetworkInterface, nil
}

// How often the room on a node's disk is looked at, and when that is too little
// for one more container's files and log.
const (
	diskLook     = time.Minute
	diskFullLook = 10 * time.Second // while it is full
	fullDisk     = 64 << 20
)

// watchDisk keeps whether the node's disk is full, until ctx ends.
func (n *Node) watchDisk(ctx context.Context) {
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(rand.N(diskFullLook) + diskFullLook/2): // many nodes are not asked at once
		}
		if n.full.Load() || time.Since(looked) > n.beat(diskLook) {
			looked = time.Now()
			free, of, err := n.room(ctx)
			n.spareFile()
			if err == nil && of > 0 {
				full := free < fullDisk
				if was := n.full.Swap(full); was != full {
					n.log.Warn("the room on the node's disk", "full", full, "free", free.String())
				}
			}
		}
	}
}

// diskFull is the error for what the engine says, where that is that its disk is
// full; nil where it is not. The node then counts as full until watchDisk finds
// room.
func (n *Node) diskFull(text string) error {
	if !strings.Contains(text, "no space left on device") {
		return nil
	}
	n.full.Store(true)
	e := router.Errorf(router.CodeUnavailable, "node %s: its disk is full; free some space there, such as with podman system prune (%s)", n.name, text)
	e.RetryAfter = diskFullLook
	return e
}

// room is how much of the disk with the node's storage is free, and how big it
// is; 0 where the engine does not tell.
func (n *Node) room(ctx context.Context) (free, of router.Bytes, err error) {
	info, err := n.info(ctx)
	if err != nil {
		return 0, 0, err
	}
	total, used := info.Store.GraphRootAllocated, info.Store.GraphRootUsed
	free = router.Bytes(total-min(used, total)) &^ (1<<20 - 1) // whole megabytes, for people
	return free, router.Bytes(total), nil
}

// CheckDisk refuses a node without room for images: CodeExhausted.
func (n *Node) CheckDisk(ctx context.Context) error {
	free, of, err := n.room(ctx)
	if err != nil {
		return err
	}
	if of > 0 && free < leastDisk {
		return router.Errorf(router.CodeExhausted, "node %s has %s free on the disk with its images, and %s are needed: free some space there, such as with podman system prune",
			n.name, free, router.Bytes(leastDisk))
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
