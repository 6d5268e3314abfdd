package podman

import (
	"context"
	"math"
	"strings"

	nettypes "github.com/containers/common/libnetwork/types"
	"github.com/containers/image/v5/manifest"
	"github.com/containers/podman/v4/pkg/bindings/containers"
	"github.com/containers/podman/v4/pkg/domain/entities"
	"github.com/containers/podman/v4/pkg/specgen"
	spec "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/fluxgate/fluxgate/router"
)

// capabilities are all that a container may have: enough for programs that
// start as root and hand over to another user.
var capabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"}

// maxLog is the size at which a container's log file on the node is cut.
const maxLog = 10 << 20

// Create makes the container of an instance and returns its ID. It does not
// start it. Where the container is there already, that is the answer: creating
// twice is fine. An image that is not on the node is CodeNotFound.
func (n *Node) Create(ctx context.Context, in router.Instance, rel router.Release) (string, error) {
	facts, err := n.checked()
	if err != nil {
		return "", err
	}
	s := containerSpec(facts, n.publishAt(), rel.Image, rel.Run)
	s.Name, s.Hostname, s.Labels = containerName(in.ID), in.App, n.labelsFor(in, rel)
	s.Env, s.Command = rel.Environment(), rel.Run.Command
	if url := n.busyURL(ctx, in); url != "" {
		s.Env[BusyURL] = url
	}
	return n.createOnce(ctx, s)
}

func (n *Node) createOnce(ctx context.Context, s *specgen.SpecGenerator) (string, error) {
	var err error
	for range 3 {
		if err = n.ensureNetwork(ctx); err != nil {
			return "", err
		}
		s.Networks = map[string]nettypes.PerNetworkOptions{n.networkName(): {}}
		var id string
		if id, err = n.create(ctx, s); err == nil {
			return id, nil
		}
		text := engineText(err)
		switch {
		case strings.Contains(text, "name is already in use"), isCode(err, router.CodeConflict):
			id, found, adoptErr := n.adopt(ctx, s.Name, s.Labels[labelInstance])
			if found || adoptErr != nil {
				return id, adoptErr
			}
		case strings.Contains(text, "network not found"):
			n.forgetNetwork() // somebody removed it
		default:
			return "", err
		}
	}
	return "", err
}

func (n *Node) create(ctx context.Context, s *specgen.SpecGenerator) (string, error) {
	ctx, end := n.call(ctx, changeCall)
	defer end()
	made, err := prompt(ctx, func() (entities.ContainerCreateResponse, error) { return containers.CreateWithSpec(ctx, s, nil) })
	if err != nil {
		err = n.engineError(ctx, err)
		switch text := engineText(err); {
		case !isCode(err, router.CodeInternal):
		case strings.Contains(text, "image not known"):
			err = router.Errorf(router.CodeNotFound, "node %s: the image %s is not there: %w", n.name, s.Image, err)
		case strings.Contains(text, "locating item named"):
			// A part of it is missing, as after the disk was full when it came:
			// without it, it is fetched anew.
			_ = n.removeImage(ctx, s.Image) // if that fails, the next try meets the same
			err = router.Errorf(router.CodeNotFound, "node %s: the image %s is there in parts only: %w", n.name, s.Image, err)
		}
		return "", err
	}
	return made.ID, nil
}

// adopt is the container that has the name already. A name without a container
// is what a creation that was cut off left in the storage: it is removed, and
// the name is free.
func (n *Node) adopt(ctx context.Context, name, instance string) (id string, found bool, err error) {
	c, err := n.inspect(ctx, name)
	switch {
	case isCode(err, router.CodeNotFound):
		return "", false, n.remove(ctx, name)
	case err != nil:
		return "", false, err
	case c.Config.Labels[labelOwner] != n.owner || c.Config.Labels[labelInstance] != instance:
		return "", false, router.Errorf(router.CodeConflict, "node %s: a container %s is there that is not ours; remove it or rename it", n.name, name)
	}
	return c.ID, true, nil
}

// containerSpec is what all our containers have in common. host is where their
// ports are published, where they must be.
func containerSpec(facts router.NodeFacts, host, image string, run router.Run) *specgen.SpecGenerator {
	s := specgen.NewSpecGenerator(image, false)
	s.RestartPolicy = "no" // whether and when to start again is the autoscaler's decision
	s.Systemd = "false"
	s.SdNotifyMode = "ignore"
	s.HealthConfig = &manifest.Schema2HealthConfig{Test: []string{"NONE"}} // health is asked over the network, by the gateway
	s.ImageVolumeMode = "tmpfs"                                            // instances keep nothing, and leave no volumes behind
	s.LogConfiguration = &specgen.LogConfig{Driver: "k8s-file", Size: maxLog}
	s.CapDrop, s.CapAdd = []string{"all"}, capabilities
	s.NoNewPrivileges = true
	s.NetNS = specgen.Namespace{NSMode: specgen.Bridge}
	if !facts.Direct {
		s.PortMappings = []nettypes.PortMapping{{HostIP: host, ContainerPort: uint16(run.Port), Protocol: "tcp"}}
	}
	s.ResourceLimits = resources(facts, run)
	if facts.NoFile > 0 {
		s.Rlimits = append(s.Rlimits, rlimit("nofile", facts.NoFile))
	}
	if facts.NProc > 0 {
		s.Rlimits = append(s.Rlimits, rlimit("nproc", facts.NProc))
	}
	return s
}

func rlimit(kind string, v int64) spec.POSIXRlimit {
	return spec.POSIXRlimit{Type: kind, Soft: uint64(v), Hard: uint64(v)}
}

// resources leaves out what cannot be limited there: a container that starts
// without its limit is better than none, and Check's diagnosis says so.
func resources(facts router.NodeFacts, run router.Run) *spec.LinuxResources {
	var r spec.LinuxResources
	if facts.LimitMem && run.Memory > 0 {
		limit := int64(run.Memory)
		r.Memory = &spec.LinuxMemory{Limit: &limit, Swap: &limit} // memory and swap together: no swap
	}
	if facts.LimitCPU && run.CPU > 0 {
		period := uint64(100_000)
		quota := max(int64(math.Round(run.CPU*float64(period))), 1000) // the kernel's least
		r.CPU = &spec.LinuxCPU{Period: &period, Quota: &quota}
	}
	if facts.LimitPids {
		r.Pids = &spec.LinuxPids{Limit: router.MaxPids}
	}
	return &r
}
