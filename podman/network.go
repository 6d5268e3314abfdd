package podman

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"

	nettypes "github.com/containers/common/libnetwork/types"
	"github.com/containers/podman/v4/pkg/bindings/network"

	"github.com/fluxgate/fluxgate/router"
)

// networkOnce remembers that the node has our network.
type networkOnce struct {
	mu sync.Mutex
	ok bool
}

var notInNames = regexp.MustCompile(`[^a-zA-Z0-9_.-]+`)

// networkName is the bridge network of this installation's containers.
func (n *Node) networkName() string {
	if n.owner == "default" {
		return "fluxgate"
	}
	return "fluxgate-" + notInNames.ReplaceAllString(n.owner, "-")
}

// ensureNetwork makes the network where it is not there yet. It has no name
// service, which every start would wait for, and room for as many containers as
// a bridge has ports (1,023); Podman's own networks end at 253.
func (n *Node) ensureNetwork(ctx context.Context) error {
	n.network.mu.Lock()
	defer n.network.mu.Unlock()
	if n.network.ok {
		return nil
	}
	ctx, end := n.call(ctx, changeCall)
	defer end()
	exists, err := prompt(ctx, func() (bool, error) { return network.Exists(ctx, n.networkName(), nil) })
	if err != nil {
		return n.engineError(ctx, err)
	}
	for attempt := 0; !exists; attempt++ {
		spec := newNetwork(n.networkName(), n.owner)
		_, err := prompt(ctx, func() (nettypes.Network, error) { return network.Create(ctx, &spec) })
		switch {
		case err == nil, strings.Contains(err.Error(), "already exists"):
			exists = true // perhaps made by another gateway meanwhile
		case ctx.Err() == nil && attempt < 20 && strings.Contains(err.Error(), "already used"):
			// Another subnet then: chance finds a free one.
		default:
			return n.engineError(ctx, fmt.Errorf("creating the network %s: %w", n.networkName(), err))
		}
	}
	n.network.ok = true
	return nil
}

// forgetNetwork makes the next ensureNetwork look again.
func (n *Node) forgetNetwork() {
	n.network.mu.Lock()
	n.network.ok = false
	n.network.mu.Unlock()
	n.identity.Store(nil) // the next network has another name for its interface
	n.host.Store(nil)
}

// removeNetwork removes the network where no container is in it.
func (n *Node) removeNetwork(ctx context.Context) {
	n.forgetNetwork()
	ctx, end := n.call(ctx, changeCall)
	defer end()
	if _, err := network.Remove(ctx, n.networkName(), nil); err != nil {
		n.log.Debug("the network was not removed", "network", n.networkName(), "error", err)
	}
}

// newNetwork has a subnet and an interface name by chance: the engine's own
// choice looks only at what its own configuration and live interfaces take up,
// and two engines on one machine would choose the same.
func newNetwork(name, owner string) nettypes.Network {
	var r [5]byte
	_, _ = rand.Read(r[:]) // never fails since Go 1.24
	subnet := net.IPNet{IP: net.IPv4(10, 64+r[0]%192, r[1]&0xf0, 0), Mask: net.CIDRMask(20, 32)}
	if subnet.IP[13] == 88 || subnet.IP[13] == 89 {
		subnet.IP[13] = 90 // 88 and 89 are Podman's own
	}
	return nettypes.Network{
		Name: name, Driver: "bridge", NetworkInterface: "fluxgate" + hex.EncodeToString(r[2:]),
		Subnets: []nettypes.Subnet{{Subnet: nettypes.IPNet{IPNet: subnet}}},
		Labels:  map[string]string{labelOwner: owner},
	}
}

// address is where a running container's port answers, from here: at its own
// address, or at host where it is published.
func address(direct bool, ip, host string, published map[string]string, port string) (string, error) {
	if direct {
		if ip == "" {
			return "", router.Errorf(router.CodeInternal, "the container has no address")
		}
		return net.JoinHostPort(ip, port), nil
	}
	at, ok := published[port+"/tcp"]
	if !ok {
		return "", router.Errorf(router.CodeInternal, "the container's port %s is not published", port)
	}
	return net.JoinHostPort(host, at), nil
}
