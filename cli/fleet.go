package cli

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/podman"
	"github.com/fluxgate/fluxgate/router"
)

const (
	fleetLook    = time.Second      // how often the stored nodes are looked at
	fleetRetry   = 2 * time.Second  // between two tries to connect a node
	fleetGone    = 6 * time.Second  // a node that cannot be connected for that long is lost
	addDeadline  = 2 * time.Minute  // connecting and checking a new node
	skewMost     = 30 * time.Second // clocks may differ by that
	listDeadline = 5 * time.Second
	listAtOnce   = 512 // nodes that are asked at the same time how they are
)

// fleet keeps the pool in line with the nodes that are stored for all gateways,
// and adds and removes them. This machine's own nodes are in the pool from the
// start and stay there.
type fleet struct {
	g       *gatewayProcess
	owner   string
	version uint64

	mu      sync.Mutex
	own     map[string]bool // nodes of this gateway alone
	waiting map[string]*connecting
}

// connecting is a node that is not in the pool yet.
type connecting struct {
	node   router.Node
	since  time.Time
	err    error
	cancel context.CancelFunc
}

// follow looks at the stored nodes until ctx ends.
func (f *fleet) follow(ctx context.Context) {
	ticker := time.NewTicker(fleetLook)
	defer ticker.Stop()
	var tries sync.WaitGroup
	defer tries.Wait()
	for {
		if err := f.look(ctx, &tries); err != nil && ctx.Err() == nil {
			f.g.Log.Warn("the nodes cannot be read; those that are known go on", "err", err)
		}
		f.giveUp()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (f *fleet) look(ctx context.Context, tries *sync.WaitGroup) error {
	version, err := f.g.store.NodesVersion(ctx)
	if err != nil || version == f.version {
		return err
	}
	stored, err := f.g.store.Nodes(ctx)
	if err != nil {
		return err
	}
	f.apply(ctx, stored, tries)
	f.version = version
	return nil
}

// apply connects what is new, lets go of what is gone, and cordons.
func (f *fleet) apply(ctx context.Context, stored []router.Node, tries *sync.WaitGroup) {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := map[string]router.Node{}
	for _, n := range stored {
		if n.Gateway == "" || n.Gateway == f.g.id {
			want[n.Name] = n
		}
	}
	have := map[string]bool{}
	for _, n := range f.g.pool.Nodes() {
		have[n.Name] = true
		w, ok := want[n.Name]
		switch {
		case f.own[n.Name]:
			f.g.pool.Cordon(n.Name, w.Cordoned)
		case !ok || !sameWay(n, &w):
			f.close(n.Name)
			delete(have, n.Name)
		default:
			f.g.pool.Cordon(n.Name, w.Cordoned)
		}
	}
	for name, c := range f.waiting {
		if w, ok := want[name]; !ok || !sameWay(&c.node, &w) {
			c.cancel()
			delete(f.waiting, name)
		}
	}
	for name, n := range want {
		if have[name] || f.own[name] || f.waiting[name] != nil || n.Gateway != "" {
			continue
		}
		tctx, cancel := context.WithCancel(ctx)
		c := &connecting{node: n, since: time.Now(), cancel: cancel}
		f.waiting[name] = c
		tries.Go(func() { f.connect(tctx, c) })
	}
}

// close takes a node out of the pool.
func (f *fleet) close(name string) {
	if n := f.g.pool.Drop(name); n != nil {
		n.Close()
	}
}

func sameWay(a, b *router.Node) bool {
	return a.URL == b.URL && a.Address == b.Address && a.Tunnel == b.Tunnel && a.HostKey == b.HostKey
}

// connect tries until the node is in the pool or no longer wanted.
func (f *fleet) connect(ctx context.Context, c *connecting) {
	defer c.cancel()
	for {
		n, err := podman.Connect(ctx, f.options(c.node))
		if err == nil {
			f.mu.Lock()
			if ctx.Err() == nil {
				f.g.pool.Add(n)
				f.g.pool.Cordon(c.node.Name, c.node.Cordoned)
				delete(f.waiting, c.node.Name)
				f.mu.Unlock()
				f.g.Log.Info("node connected", "node", c.node.Name)
				return
			}
			f.mu.Unlock()
			n.Close()
			return
		}
		f.mu.Lock()
		if c.err == nil {
			f.g.Log.Warn("a node cannot be connected; trying again", "node", c.node.Name, "err", err)
		}
		c.err = err
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(fleetRetry):
		}
	}
}

// giveUp has what was on nodes replaced that did not come up with this gateway.
func (f *fleet) giveUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, c := range f.waiting {
		if c.err != nil && time.Since(c.since) > fleetGone && len(f.g.pool.Nodes()) > 0 {
			f.g.control.NodeGone(name)
		}
	}
}

func (f *fleet) options(n router.Node) podman.Options {
	return podman.Options{
		Name: n.Name, URL: n.URL, Owner: f.owner, DataDir: f.g.dir.path, Labels: n.Labels, Logger: f.g.Log,
		Address: n.Address, Tunnel: n.Tunnel, HostKey: n.HostKey, Identity: f.g.SSHKey, Facts: n.Facts,
	}
}

// List is what the API shows of the nodes.
func (f *fleet) List(ctx context.Context) ([]api.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, listDeadline)
	defer cancel()
	nodes := f.g.pool.Nodes()
	list := make([]api.Node, len(nodes))
	var group errgroup.Group
	group.SetLimit(listAtOnce)
	for i, n := range nodes {
		group.Go(func() error {
			list[i] = f.show(ctx, n)
			return nil
		})
	}
	_ = group.Wait()
	f.mu.Lock()
	for _, c := range f.waiting {
		n := nodeShape(&c.node)
		n.Health, n.Problem = "unreached", "not connected yet"
		if c.err != nil {
			n.Problem = c.err.Error()
		}
		list = append(list, n)
	}
	f.mu.Unlock()
	f.count(list)
	slices.SortFunc(list, func(a, b api.Node) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func (f *fleet) show(ctx context.Context, n *router.Node) api.Node {
	s := nodeShape(n)
	if n.Lost {
		s.Health, s.Problem = "lost", "the machine cannot be reached"
		return s
	}
	took, err := f.g.pool.Latency(ctx, n.Name)
	if err != nil {
		s.Health, s.Problem = "silent", err.Error()
		return s
	}
	s.LatencyMS = float64(took.Microseconds()) / 1000
	if n.Full {
		s.Health, s.Problem = "full", "its disk is full"
	}
	return s
}

func nodeShape(n *router.Node) api.Node {
	return api.Node{
		Name: n.Name, URL: n.URL, Address: n.Address, Tunnel: n.Tunnel, Labels: n.Labels, Health: "ok", Cordoned: n.Cordoned,
		CPUs: n.Facts.CPUs, Memory: int64(n.Facts.Memory), Podman: n.Facts.Podman, Runtime: n.Facts.Runtime,
		HostKey: n.HostKey, Diagnosis: n.Facts.Diagnosis, Checked: n.Facts.Checked, Instances: map[string]int{},
	}
}

// count fills in what runs where.
func (f *fleet) count(list []api.Node) {
	byName := map[string]*api.Node{}
	for i := range list {
		byName[list[i].Name] = &list[i]
	}
	for _, st := range f.g.catalog.Living() {
		for _, in := range st.Instances {
			n := byName[in.Node]
			if n == nil {
				continue
			}
			n.Instances[string(in.State)]++
			switch in.State {
			case router.Starting, router.Ready, router.Draining:
				if rel, ok := st.Release(in.Release); ok {
					n.Reserved += int64(rel.Run.Reserve)
				}
			}
		}
	}
}

// HostKey asks a machine for its SSH host key.
func (f *fleet) HostKey(ctx context.Context, url string) (api.HostKey, error) {
	key, fingerprint, err := podman.HostKey(ctx, url)
	return api.HostKey{Key: key, Fingerprint: fingerprint}, err
}

// Add connects a node, checks it, and stores it for all gateways.
func (f *fleet) Add(ctx context.Context, a api.AddNode) (api.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, addDeadline)
	defer cancel()
	n, err := f.planned(ctx, a)
	if err != nil {
		return api.Node{}, err
	}
	conn, err := podman.Connect(ctx, f.options(n))
	if err != nil {
		return api.Node{}, err
	}
	if err := f.examine(ctx, conn); err != nil {
		conn.Close()
		return api.Node{}, err
	}
	n = *conn.Node()
	f.mu.Lock()
	f.g.pool.Add(conn)
	f.mu.Unlock()
	if err := f.g.store.PutNode(ctx, n); err != nil {
		f.mu.Lock()
		f.close(n.Name)
		f.mu.Unlock()
		return api.Node{}, err
	}
	return f.show(ctx, &n), nil
}

// planned is the node that is asked for, where nothing is known against it.
func (f *fleet) planned(ctx context.Context, a api.AddNode) (router.Node, error) {
	n := router.Node{Name: a.Name, URL: a.URL, Address: a.Address, Tunnel: a.Tunnel, HostKey: strings.TrimSpace(a.HostKey), Labels: a.Labels}
	u, err := url.Parse(a.URL)
	if err != nil {
		return n, router.Errorf(router.CodeInvalid, "the URL of the node cannot be read")
	}
	if n.Name == "" {
		n.Name = nameFromURL(u)
	}
	if n.Address == "" && !n.Tunnel && u.Scheme != "unix" {
		ip, err := resolve(ctx, u.Hostname())
		if err != nil {
			return n, err
		}
		n.Address = ip
	}
	if u.Scheme == "ssh" && n.HostKey == "" {
		return n, router.Errorf(router.CodeInvalid, "the SSH host key of %s is to be pinned: `fluxgate node add` shows it and asks", u.Host)
	}
	stored, err := f.g.store.Nodes(ctx)
	if err != nil {
		return n, err
	}
	for _, o := range stored {
		switch {
		case o.Name == n.Name:
			return n, router.Errorf(router.CodeConflict, "there is a node %s already, at %s: choose another name with --name, or remove that one first", o.Name, o.URL)
		case o.URL == n.URL && o.Gateway == "":
			return n, router.Errorf(router.CodeConflict, "%s is a node already: %s", n.URL, o.Name)
		}
	}
	return n, nil
}

// examine refuses a machine that cannot be used.
func (f *fleet) examine(ctx context.Context, n *podman.Node) error {
	skew, err := n.Clock(ctx)
	if err != nil {
		return err
	}
	if skew.Abs() > skewMost {
		return router.Errorf(router.CodeUnavailable, "the node's clock is %s off this machine's: set it there (timedatectl set-ntp true), for logs and deadlines would be wrong", skew.Round(time.Second))
	}
	if err := n.CheckDisk(ctx); err != nil {
		return err
	}
	if _, err := n.Check(ctx); err != nil {
		return err
	}
	same, err := f.g.pool.Same(ctx, n)
	if err == nil && same != "" {
		err = router.Errorf(router.CodeConflict, "this machine's Podman is a node already: %s", same)
	}
	return err
}

// Cordon drains a node, or lets it take instances again.
func (f *fleet) Cordon(ctx context.Context, name string, on bool) (api.Node, error) {
	n, err := f.stored(ctx, name)
	if err != nil {
		return api.Node{}, err
	}
	if n.Cordoned != on {
		n.Cordoned = on
		if err := f.g.store.PutNode(ctx, n); err != nil {
			return api.Node{}, err
		}
	}
	f.g.pool.Cordon(name, on)
	list, err := f.List(ctx)
	for _, s := range list {
		if s.Name == name {
			return s, nil
		}
	}
	return nodeShape(&n), err
}

// Remove forgets a node.
func (f *fleet) Remove(ctx context.Context, name string, force bool) error {
	n, err := f.stored(ctx, name)
	if err != nil {
		return err
	}
	if n.Gateway != "" {
		return router.Errorf(router.CodeConflict, "%s is the machine of the gateway %s itself: start that one with --no-local to do without it", name, n.Gateway)
	}
	count := 0
	for _, st := range f.g.catalog.Living() {
		for _, in := range st.Instances {
			if in.Node == name {
				count++
			}
		}
	}
	if count > 0 && !force {
		return router.Errorf(router.CodeConflict, "node %s has %d instances: drain it first (fluxgate node drain %s), or pass --force where it is gone for good", name, count, name)
	}
	if err := f.g.store.DropNode(ctx, name); err != nil {
		return err
	}
	f.mu.Lock()
	f.close(name)
	f.mu.Unlock()
	if count > 0 {
		f.g.control.NodeGone(name)
	}
	return nil
}

func (f *fleet) stored(ctx context.Context, name string) (router.Node, error) {
	nodes, err := f.g.store.Nodes(ctx)
	if err != nil {
		return router.Node{}, err
	}
	for _, n := range nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return router.Node{}, router.Errorf(router.CodeNotFound, "there is no node %q; `fluxgate node ls` lists them", name)
}

var notInNodeName = regexp.MustCompile(`[^a-z0-9-]+`)

// nameFromURL is a node's name where none is given.
func nameFromURL(u *url.URL) string {
	host := strings.ToLower(u.Hostname())
	if u.Scheme == "unix" {
		host = strings.ToLower(strings.TrimSuffix(u.Path[strings.LastIndexByte(u.Path, '/')+1:], ".sock"))
	}
	name := strings.Trim(notInNodeName.ReplaceAllString(host, "-"), "-")
	return orElse(name[:min(len(name), 40)], fmt.Sprintf("node-%d", time.Now().Unix()%100000))
}
