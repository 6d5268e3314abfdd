package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/podman"
	"github.com/fluxgate/fluxgate/router"
)

// openPodman connects the nodes and checks each by really running a container.
func (g *gatewayProcess) openPodman(ctx context.Context) error {
	owner, err := g.store.Installation(ctx)
	if err != nil {
		return err
	}
	g.pool = podman.NewPool()
	g.fleet = &fleet{g: g, owner: owner, own: map[string]bool{}, waiting: map[string]*connecting{}}
	urls := g.Nodes
	if len(urls) == 0 && !g.NoLocal {
		if g.service, err = podman.StartService(ctx, g.dir.join("podman"), g.Log); err != nil {
			return err
		}
		g.onStop(func(ctx context.Context) {
			if err := g.service.Close(ctx); err != nil {
				g.Log.Warn("the Podman service did not stop", "err", err)
			}
		})
		urls = []string{g.service.URL()}
	}
	g.onStop(func(context.Context) {
		for _, n := range g.pool.Nodes() {
			g.pool.Drop(n.Name).Close()
		}
	})
	for i, url := range urls {
		if err := g.ownNode(ctx, i, url, owner); err != nil {
			return err
		}
	}
	// Connect the nodes of all gateways; those that do not answer now may later.
	stored, err := g.store.Nodes(ctx)
	if err != nil {
		return err
	}
	g.connectStored(ctx, stored)
	if len(g.pool.Nodes()) == 0 {
		g.say("node", "none yet; add one: fluxgate node add ssh://user@host")
	}
	return nil
}

const (
	connectPatience = 10 * time.Second // for one node while starting; it goes on being tried
	connectHaste    = 3 * time.Second  // the same, where there are more nodes than are connected at once
	connectAtOnce   = 64               // logins cost both sides something
	nodesNamed      = 10               // nodes that `up` has a line each for
)

// connectStored connects the nodes of all gateways. Those that do not answer
// soon, as when a rack is without power, are left to follow.
func (g *gatewayProcess) connectStored(ctx context.Context, stored []router.Node) {
	stored = slices.DeleteFunc(stored, func(n router.Node) bool { return n.Gateway != "" })
	patience := connectPatience
	if len(stored) > connectAtOnce {
		patience = connectHaste
	}
	conns, problems := make([]*podman.Node, len(stored)), make([]error, len(stored))
	var group errgroup.Group
	group.SetLimit(connectAtOnce)
	for i, n := range stored {
		group.Go(func() error {
			cctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			conns[i], problems[i] = podman.Connect(cctx, g.fleet.options(n))
			return nil
		})
	}
	_ = group.Wait()
	g.pool.AddAll(slices.DeleteFunc(slices.Clone(conns), func(n *podman.Node) bool { return n == nil }))
	silent := 0
	for i, n := range stored {
		g.pool.Cordon(n.Name, n.Cordoned)
		switch {
		case problems[i] != nil:
			if silent++; silent <= nodesNamed {
				g.say("node", "%s does not answer: %v", n.Name, problems[i])
			}
		case len(stored) <= nodesNamed:
			g.say("node", "%s", describeNode(n.Name, n.Facts))
		}
	}
	if len(stored) > nodesNamed {
		g.say("nodes", "%d connected, %d do not answer", len(stored)-silent, silent)
	}
}

// ownNode connects and checks a node that this gateway alone uses. With a Redis
// that others may share, its name says whose it is.
func (g *gatewayProcess) ownNode(ctx context.Context, i int, url, owner string) error {
	name := "local"
	if i > 0 {
		name = fmt.Sprintf("node%d", i+1)
	}
	if g.Redis != "" {
		name += "-" + g.id[max(0, len(g.id)-6):]
	}
	n, err := podman.Connect(ctx, podman.Options{Name: name, URL: url, Owner: owner, DataDir: g.dir.path, Logger: g.Log, Identity: g.SSHKey, BusyPort: busyPort})
	if err != nil {
		return err
	}
	facts, err := n.Check(ctx)
	if err != nil {
		n.Close()
		return err
	}
	g.pool.Add(n)
	g.fleet.own[name] = true
	g.ownNodes = append(g.ownNodes, n)
	node := *n.Node()
	node.Gateway = g.id
	if err := g.store.PutNode(ctx, node); err != nil {
		return err
	}
	g.say("node", "%s", describeNode(name, facts))
	return nil
}

func describeNode(name string, f router.NodeFacts) string {
	limits := []string{}
	for what, ok := range map[string]bool{"cpu": f.LimitCPU, "memory": f.LimitMem, "pids": f.LimitPids} {
		if !ok {
			limits = append(limits, "no "+what+" limits")
		}
	}
	if !f.Freeze {
		limits = append(limits, "no freezing")
	}
	if f.Reclaim == router.ReclaimNone {
		limits = append(limits, "no reclaiming of page cache")
	}
	text := fmt.Sprintf("%s: Podman %s, %s, %d cores, %.1f GB of memory", name, f.Podman, f.Runtime, f.CPUs, float64(f.Memory)/(1<<30))
	if len(limits) > 0 {
		text += ", " + strings.Join(limits, ", ")
	}
	return text
}

// doctor checks what the gateway stands on, for `fluxgate doctor`.
func (g *gatewayProcess) doctor(ctx context.Context) []api.Check {
	checks := []api.Check{g.checkData(), g.checkState(ctx), g.checkAutoscaler()}
	nodes := g.pool.Nodes()
	if open, limit, ok := openFiles(); ok {
		checks = append(checks, checkFiles(open, limit, len(nodes)))
	}
	ofNodes := make([]api.Check, len(nodes))
	var group errgroup.Group
	group.SetLimit(connectAtOnce)
	for i, n := range nodes {
		group.Go(func() error {
			ofNodes[i] = g.checkNode(ctx, n)
			return nil
		})
	}
	_ = group.Wait()
	return append(append(checks, ofNodes...), api.Check{Name: "root certificate", Status: api.CheckOK, Detail: g.dir.join("ca.crt")})
}

func (g *gatewayProcess) checkData() api.Check {
	c := api.Check{Name: "data", Status: api.CheckOK, Detail: g.dir.path}
	if err := g.dir.tryWrite(); err != nil {
		c.Status, c.Detail, c.Remedy = api.CheckFailed, dataDirError(g.dir.path, err).Error(), "free some space on its disk"
	}
	return c
}

func (g *gatewayProcess) checkState(ctx context.Context) api.Check {
	info, err := g.store.Info(ctx)
	if err != nil {
		return api.Check{Name: "state", Status: api.CheckFailed, Detail: err.Error(), Remedy: "running apps are served on; see that Redis is up"}
	}
	return api.Check{Name: "state", Status: api.CheckOK, Detail: info}
}

// checkAutoscaler says whether this gateway decides, and whether it keeps up.
func (g *gatewayProcess) checkAutoscaler() api.Check {
	c := api.Check{Name: "autoscaler", Status: api.CheckOK, Detail: "another gateway decides at present"}
	if t := g.control.LastTick(); t != nil {
		c.Detail = fmt.Sprintf("this gateway decides; the last round took %s for %d apps that are awake, on %d nodes", t.Took.Round(100*time.Microsecond), t.Apps, t.Nodes)
		if t.Took > g.control.Tick {
			c.Status, c.Remedy = api.CheckWarning, "give this machine more processor time: a round should take less than "+g.control.Tick.String()
		}
	}
	return c
}

func (g *gatewayProcess) checkNode(ctx context.Context, n *router.Node) api.Check {
	c := api.Check{Name: "node " + n.Name, Status: api.CheckOK, Detail: describeNode(n.Name, n.Facts)}
	if err := g.pool.Ping(ctx, n.Name); err != nil {
		c.Status, c.Detail, c.Remedy = api.CheckFailed, err.Error(), "see that the Podman service on that node runs"
		return c
	}
	if n.Full {
		c.Status, c.Detail, c.Remedy = api.CheckWarning, "its disk is full; what can goes to other nodes", "free some space there, such as with podman system prune"
		return c
	}
	if len(n.Facts.Diagnosis) > 0 {
		c.Status, c.Remedy = api.CheckWarning, strings.Join(n.Facts.Diagnosis, " ")
	}
	return c
}
