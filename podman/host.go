package podman

import (
	"context"
	"fmt"

	nettypes "github.com/containers/common/libnetwork/types"
	"github.com/containers/podman/v4/pkg/bindings/network"

	"github.com/fluxgate/fluxgate/router"
)

// BusyURL is the variable that tells an app where to ask not to be stopped. It
// is set where containers can reach this machine: on nodes that have a BusyPort
// and whose containers are reached at their own addresses.
const BusyURL = "FLUXGATE_BUSY_URL"

// HostAddress is this machine's address in the network of a node's containers.
// They alone are in that network, and each calls from its own address there.
// CodeNotFound: the containers are not reached at their own addresses from here,
// so neither is this machine from them.
func (n *Node) HostAddress(ctx context.Context) (string, error) {
	facts, err := n.checked()
	if err != nil {
		return "", err
	}
	if !facts.Direct {
		return "", router.Errorf(router.CodeNotFound, "node %s: its containers cannot reach this machine", n.name)
	}
	if host := n.host.Load(); host != nil {
		return *host, nil
	}
	if err := n.ensureNetwork(ctx); err != nil {
		return "", err
	}
	ctx, end := n.call(ctx, quickCall)
	defer end()
	net, err := prompt(ctx, func() (nettypes.Network, error) { return network.Inspect(ctx, n.networkName(), nil) })
	if err != nil {
		return "", n.engineError(ctx, err)
	}
	for _, s := range net.Subnets {
		if s.Gateway != nil {
			host := s.Gateway.String()
			n.host.Store(&host)
			return host, nil
		}
	}
	return "", router.Errorf(router.CodeNotFound, "node %s: this machine has no address in the network %s", n.name, n.networkName())
}

// busyURL is where an instance asks not to be stopped; empty where it cannot
// ask. The path tells whom it is for, and the address that the call comes from
// proves it.
func (n *Node) busyURL(ctx context.Context, in router.Instance) string {
	if n.busyPort == 0 {
		return ""
	}
	host, err := n.HostAddress(ctx)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("http://%s:%d/busy/%s/%s", host, n.busyPort, in.App, in.ID)
}
