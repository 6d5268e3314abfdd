package podman

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	nettypes "github.com/containers/common/libnetwork/types"
	"github.com/containers/podman/v4/libpod/define"
	"github.com/containers/podman/v4/pkg/bindings/containers"
	"github.com/containers/podman/v4/pkg/specgen"

	"github.com/fluxgate/fluxgate/podman/site"
	"github.com/fluxgate/fluxgate/router"
)

const (
	probePort   = 8080
	probeMemory = router.Bytes(64 << 20)
	probeCPU    = 0.5
	probeCache  = 8 << 20         // what a request for /fill makes
	probeLife   = 2 * time.Minute // an older probe is a leftover
	probeAnswer = 3 * time.Second // from the start of the program to its answer, at most
)

// probeImage puts an image with nothing but the static server on the node.
func (n *Node) probeImage(ctx context.Context) (string, error) {
	archive, err := site.Image{Labels: map[string]string{labelProbe: "image"}}.Archive()
	if err != nil {
		return "", router.Errorf(router.CodeInternal, "%w", err)
	}
	return archive.ID, n.load(ctx, archive)
}

// tryRuntime only runs a container.
func (n *Node) tryRuntime(ctx context.Context, image string, facts *router.NodeFacts) error {
	s := n.probeSpec(image, *facts)
	s.NetNS, s.PortMappings = specgen.Namespace{NSMode: specgen.NoNetwork}, nil
	return n.withProbe(ctx, s, func(*define.InspectContainerData) error { return nil })
}

// tryNode runs a container, and takes back from facts what turns out not to be
// so: limits that are not enforced, an address that cannot be reached.
func (n *Node) tryNode(ctx context.Context, image string, facts *router.NodeFacts) error {
	// A container of a local engine run by root is on a bridge of this machine,
	// and that of a remote one on a bridge that the SSH server there reaches.
	u, err := url.Parse(n.url)
	facts.Direct = err == nil && (u.Scheme == "unix" && n.address == "" || n.tunnelled && n.tunnel != nil) && !facts.Rootless
	if facts.Direct {
		reached, err := n.tryReach(ctx, image, facts)
		if err != nil || reached {
			return err
		}
		facts.Direct = false
		facts.Diagnosis = append(facts.Diagnosis, "containers cannot be reached at their own addresses, so their ports are published on 127.0.0.1, which makes starts slower")
	}
	reached, err := n.tryReach(ctx, image, facts)
	if err == nil && !reached {
		err = router.Errorf(router.CodeUnavailable, "a container runs on node %s, but its port, published on %s there, cannot be reached from here: name another address of the node (--address), or let requests travel through SSH (--tunnel)", n.name, n.publishAt())
	}
	return err
}

// tryReach runs a container and reports whether it could be reached.
func (n *Node) tryReach(ctx context.Context, image string, facts *router.NodeFacts) (reached bool, err error) {
	if err := n.ensureNetwork(ctx); err != nil {
		return false, err
	}
	s := n.probeSpec(image, *facts)
	s.Networks = map[string]nettypes.PerNetworkOptions{n.networkName(): {}}
	nonce := s.Env["NONCE"]
	err = n.withProbe(ctx, s, func(c *define.InspectContainerData) error {
		addr, err := n.probeAddress(c, facts.Direct)
		if err != nil {
			return err
		}
		var limits enforced
		if limits, reached = n.askProbe(ctx, addr, "/", nonce, probeAnswer); !reached {
			return ctx.Err()
		}
		limits.compare(facts)
		if err := n.probeFreezer(ctx, s.Name, addr, nonce, facts); err != nil {
			return err
		}
		return n.probeReclaim(ctx, s.Name, addr, nonce, facts)
	})
	return reached, err
}

func (n *Node) probeSpec(image string, facts router.NodeFacts) *specgen.SpecGenerator {
	nonce := rand.Text()
	s := containerSpec(facts, n.publishAt(), image, router.Run{Port: probePort, CPU: probeCPU, Memory: probeMemory})
	s.Name = containerName("probe-" + nonce)
	s.Command = []string{"-probe"}
	s.Env = map[string]string{"PORT": fmt.Sprint(probePort), "NONCE": nonce}
	s.Labels = map[string]string{labelProbe: n.owner, labelPort: fmt.Sprint(probePort)}
	return s
}

// withProbe creates and starts a container, calls fn while it runs, and
// removes it in every case.
func (n *Node) withProbe(ctx context.Context, s *specgen.SpecGenerator, fn func(*define.InspectContainerData) error) error {
	_, err := n.create(ctx, s)
	// Also after a failed creation, and after the end of ctx: probes must not stay.
	defer func() {
		if err := n.remove(context.WithoutCancel(ctx), s.Name); err != nil {
			n.log.Warn("a probe container could not be removed", "container", s.Name, "error", err)
		}
	}()
	if err != nil {
		return err
	}
	if err := n.start(ctx, s.Name); err != nil {
		if isCode(err, router.CodeFailed) { // the program is ours: no fault of an app
			err = router.Errorf(router.CodeInternal, "%w", err)
		}
		return err
	}
	c, err := n.inspect(ctx, s.Name)
	if err != nil {
		return err
	}
	if !c.State.Running {
		return router.Errorf(router.CodeInternal, "the probe: %w", ended(c))
	}
	return fn(c)
}

func (n *Node) probeAddress(c *define.InspectContainerData, direct bool) (string, error) {
	var ip string
	for _, net := range c.NetworkSettings.Networks {
		ip = net.IPAddress
	}
	published := map[string]string{}
	for port, hosts := range c.NetworkSettings.Ports {
		if len(hosts) > 0 {
			published[port] = hosts[0].HostPort
		}
	}
	return address(direct, ip, n.publishAt(), published, fmt.Sprint(probePort))
}

// enforced is what the probe's program says of its own limits.
type enforced struct {
	Nonce             string
	Memory, CPU, Pids *float64
	Used              *float64
}

// askProbe asks until the program answers; another program's answer is none.
func (n *Node) askProbe(ctx context.Context, addr, path, nonce string, patience time.Duration) (enforced, bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return n.Dial(ctx, addr) },
	}}
	for {
		var e enforced
		if req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil); err == nil {
			if resp, err := client.Do(req); err == nil {
				err = json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(&e)
				resp.Body.Close()
				if err == nil && e.Nonce == nonce {
					return e, true
				}
			}
		}
		select {
		case <-ctx.Done():
			return enforced{}, false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// compare takes back what was asked for and is not enforced. What the program
// cannot see counts as enforced: the engine has not complained.
func (e enforced) compare(facts *router.NodeFacts) {
	check := func(name string, limit *bool, got *float64, most float64) {
		if *limit && got != nil && (*got < 0 || *got > most) {
			*limit = false
			facts.Diagnosis = append(facts.Diagnosis, name+" limits are accepted there and not enforced, so apps run without them: see whether the cgroup controllers are mounted where Podman runs")
		}
	}
	check("memory", &facts.LimitMem, e.Memory, float64(probeMemory))
	check("cpu", &facts.LimitCPU, e.CPU, probeCPU*1.01)
	check("pids", &facts.LimitPids, e.Pids, router.MaxPids)
}

// probeFreezer finds out whether a frozen container is really still, and comes
// back. That it cannot be frozen is a fact, not an error.
func (n *Node) probeFreezer(ctx context.Context, name, addr, nonce string, facts *router.NodeFacts) error {
	cctx, end := n.call(ctx, quickCall)
	defer end()
	facts.Freeze = false
	if err := containers.Pause(cctx, name, nil); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		facts.Diagnosis = append(facts.Diagnosis, "containers cannot be frozen, so idle apps are stopped instead and wake more slowly: "+engineText(err))
		return nil
	}
	_, awake := n.askProbe(ctx, addr, "/", nonce, 100*time.Millisecond)
	if err := containers.Unpause(cctx, name, nil); err != nil {
		facts.Diagnosis = append(facts.Diagnosis, "frozen containers cannot be thawed, so idle apps are stopped instead: "+engineText(err))
		return ctx.Err()
	}
	if _, back := n.askProbe(ctx, addr, "/", nonce, probeAnswer); awake || !back {
		facts.Diagnosis = append(facts.Diagnosis, "freezing containers has no effect there, so idle apps are stopped instead")
		return ctx.Err()
	}
	facts.Freeze = true
	return nil
}

// probeReclaim finds out whether a frozen container's page cache can be taken
// back in the way that facts name, and takes it out of them where not.
func (n *Node) probeReclaim(ctx context.Context, name, addr, nonce string, facts *router.NodeFacts) error {
	way := facts.Reclaim
	facts.Reclaim = router.ReclaimNone
	if !facts.Freeze || way == router.ReclaimNone {
		return nil
	}
	before, ok := n.askProbe(ctx, addr, "/fill", nonce, probeAnswer)
	if !ok || before.Used == nil {
		facts.Diagnosis = append(facts.Diagnosis, "what containers hold cannot be measured inside of them, so page cache of frozen ones is not given back")
		return ctx.Err()
	}
	cctx, end := n.call(ctx, quickCall)
	defer end()
	if err := containers.Pause(cctx, name, nil); err != nil {
		return n.engineError(cctx, err)
	}
	failed := n.reclaim(ctx, name, way)
	if err := containers.Unpause(cctx, name, nil); err != nil {
		return n.engineError(cctx, err)
	}
	after, ok := n.askProbe(ctx, addr, "/", nonce, probeAnswer)
	switch {
	case ok && after.Used != nil && *before.Used-*after.Used > probeCache/2:
		facts.Reclaim = way
	case failed != nil:
		facts.Diagnosis = append(facts.Diagnosis, "page cache of frozen containers is not given back: "+engineText(failed))
	default:
		facts.Diagnosis = append(facts.Diagnosis, "page cache of frozen containers is not given back, so that where memory runs short they are stopped sooner: it takes a kernel from 5.19 on (memory.reclaim of cgroup v2) and an OCI runtime that sets it, or cgroup v1")
	}
	return ctx.Err()
}

// removeOldProbes clears away what checks left that were cut off. Young ones
// may be another gateway's, at work.
func (n *Node) removeOldProbes(ctx context.Context) {
	list, err := n.list(ctx, map[string][]string{"label": {labelProbe + "=" + n.owner}})
	if err != nil {
		n.log.Warn("leftover probes cannot be listed", "error", err)
		return
	}
	for _, c := range list {
		if time.Since(c.Created) < probeLife {
			continue
		}
		if err := n.remove(ctx, c.ID); err != nil {
			n.log.Warn("a leftover probe cannot be removed", "container", c.ID, "error", err)
		}
	}
}
