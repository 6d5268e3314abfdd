package podman

import (
	"context"
	"io"
	"net"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/fluxgate/fluxgate/router"
)

// Pool is the nodes of a gateway. Its methods choose the node by the instance;
// they are the Node's otherwise. Nodes may come and go. A Pool may be used
// concurrently.
type Pool struct {
	mu      sync.Mutex // held by those who change the members
	members atomic.Pointer[members]
	copies  singleflight.Group // of images, by node and image

	inventory *inventory
	depot     *depot // nil: images are copied whole
}

// members is one state of a Pool; it never changes.
type members struct {
	nodes   []*Node // by name
	byName  map[string]*Node
	changed chan struct{} // closed when another state has come
}

// NewPool is a pool of nodes, each with a name of its own. They stay the
// caller's to close.
func NewPool(nodes ...*Node) *Pool {
	p := &Pool{inventory: newInventory()}
	p.members.Store(&members{byName: map[string]*Node{}, changed: make(chan struct{})})
	p.AddAll(nodes)
	return p
}

// AddAll puts nodes into the pool whose names are not in it.
func (p *Pool) AddAll(add []*Node) {
	p.change(func(nodes []*Node) []*Node {
		for _, n := range add {
			p.share(n, nodes)
			nodes = append(nodes, n)
		}
		return nodes
	})
}

// share has all nodes that keep logs in one folder write there through one
// archive: there is one writer to a file.
func (p *Pool) share(n *Node, nodes []*Node) {
	if len(nodes) > 0 && n.archive.dir == nodes[0].archive.dir {
		n.archive = nodes[0].archive
	}
}

// Add puts a node into the pool. It returns the one of the same name that it
// replaces, or nil.
func (p *Pool) Add(n *Node) (old *Node) {
	p.change(func(nodes []*Node) []*Node {
		p.share(n, nodes)
		nodes = slices.DeleteFunc(nodes, func(o *Node) bool {
			if o.name == n.name {
				old = o
			}
			return o.name == n.name
		})
		return append(nodes, n)
	})
	return old
}

// Drop takes a node out of the pool and returns it; nil where it was not there.
func (p *Pool) Drop(name string) (old *Node) {
	p.change(func(nodes []*Node) []*Node {
		return slices.DeleteFunc(nodes, func(o *Node) bool {
			if o.name == name {
				old = o
			}
			return o.name == name
		})
	})
	return old
}

func (p *Pool) change(fn func([]*Node) []*Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.members.Load()
	next := &members{nodes: fn(slices.Clone(now.nodes)), byName: map[string]*Node{}, changed: make(chan struct{})}
	sort.Slice(next.nodes, func(i, j int) bool { return next.nodes[i].name < next.nodes[j].name })
	for _, n := range next.nodes {
		next.byName[n.name] = n
		n.among.Store(int64(len(next.nodes)))
	}
	p.members.Store(next)
	close(now.changed)
}

func (p *Pool) nodes() []*Node { return p.members.Load().nodes }

func (p *Pool) node(name string) (*Node, error) {
	if n, ok := p.members.Load().byName[name]; ok {
		return n, nil
	}
	return nil, router.Errorf(router.CodeNotFound, "there is no node %q", name)
}

// at is the node of an instance. Where it is not in the pool, it may be there
// all the same, for others: CodeUnavailable.
func (p *Pool) at(in router.Instance) (*Node, error) {
	n, err := p.node(in.Node)
	if err != nil {
		err = router.Errorf(router.CodeUnavailable, "instance %s is on node %q, which this gateway cannot reach", in.ID, in.Node)
	}
	return n, err
}

// Nodes are the nodes with their facts, by name. They are shared and must not be
// changed.
func (p *Pool) Nodes() []*router.Node {
	nodes := p.nodes()
	out := make([]*router.Node, len(nodes))
	for i, n := range nodes {
		out[i] = n.Node()
	}
	return out
}

// Node is a node with its facts; false where it is not in the pool.
func (p *Pool) Node(name string) (*router.Node, bool) {
	n, err := p.node(name)
	if err != nil {
		return nil, false
	}
	return n.Node(), true
}

// Cordon sets whether a node takes no new instances.
func (p *Pool) Cordon(name string, on bool) {
	if n, err := p.node(name); err == nil {
		n.cordoned.Store(on)
	}
}

// Facts are what the last check of a node found.
func (p *Pool) Facts(node string) (router.NodeFacts, bool) {
	n, err := p.node(node)
	if err != nil {
		return router.NodeFacts{}, false
	}
	facts, err := n.checked()
	return facts, err == nil
}

// Create is Node.Create on the instance's node. An image that is not there is
// brought from a node that has it.
func (p *Pool) Create(ctx context.Context, in router.Instance, rel router.Release) (string, error) {
	n, err := p.at(in)
	if err != nil {
		return "", err
	}
	id, err := n.Create(ctx, in, rel)
	if !isCode(err, router.CodeNotFound) {
		return id, err
	}
	if err := p.fetch(ctx, n, in.App, rel.Image); err != nil {
		return "", err
	}
	return n.Create(ctx, in, rel)
}

// Start is Node.Start on the instance's node.
func (p *Pool) Start(ctx context.Context, in router.Instance) (string, error) {
	n, err := p.at(in)
	if err != nil {
		return "", err
	}
	return n.Start(ctx, in)
}

// Freeze is Node.Freeze on the instance's node.
func (p *Pool) Freeze(ctx context.Context, in router.Instance) error {
	n, err := p.at(in)
	if err != nil {
		return err
	}
	return n.Freeze(ctx, in)
}

// Thaw is Node.Thaw on the instance's node.
func (p *Pool) Thaw(ctx context.Context, in router.Instance) error {
	n, err := p.at(in)
	if err != nil {
		return err
	}
	return n.Thaw(ctx, in)
}

// Stop is Node.Stop on the instance's node.
func (p *Pool) Stop(ctx context.Context, in router.Instance, grace time.Duration) error {
	n, err := p.at(in)
	if err != nil {
		return err
	}
	return n.Stop(ctx, in, grace)
}

// Remove is Node.Remove on the instance's node.
func (p *Pool) Remove(ctx context.Context, in router.Instance) error {
	n, err := p.at(in)
	if err != nil {
		return err
	}
	return n.Remove(ctx, in)
}

// Reclaim is Node.Reclaim on the instance's node.
func (p *Pool) Reclaim(ctx context.Context, in router.Instance) error {
	n, err := p.at(in)
	if err != nil {
		return err
	}
	return n.Reclaim(ctx, in)
}

// Measure is Node.Measure of the named node.
func (p *Pool) Measure(ctx context.Context, node string) (router.NodeUse, error) {
	n, err := p.at(router.Instance{Node: node})
	if err != nil {
		return router.NodeUse{}, err
	}
	return n.Measure(ctx)
}

// Inspect is Node.Inspect on the instance's node.
func (p *Pool) Inspect(ctx context.Context, in router.Instance) (router.Container, error) {
	n, err := p.at(in)
	if err != nil {
		return router.Container{}, err
	}
	return n.Inspect(ctx, in)
}

// Dial is Node.Dial of the named node. An address of a node that is not in the
// pool is dialled as it stands.
func (p *Pool) Dial(ctx context.Context, node, addr string) (net.Conn, error) {
	if n, err := p.node(node); err == nil {
		return n.Dial(ctx, addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// Tail is Node.Tail on the instance's node.
func (p *Pool) Tail(ctx context.Context, in router.Instance, lines int) (string, error) {
	n, err := p.at(in)
	if err != nil {
		return "", err
	}
	return n.Tail(ctx, in, lines)
}

// Containers are those of the named nodes, or of all where none is named, that
// answer, and which nodes these are.
func (p *Pool) Containers(ctx context.Context, names ...string) (all []router.Container, answered []string) {
	nodes := p.nodes()
	if len(names) > 0 {
		nodes = nil
		for _, name := range names {
			if n, err := p.node(name); err == nil {
				nodes = append(nodes, n)
			}
		}
	}
	lists := make([][]router.Container, len(nodes))
	errs := make([]error, len(nodes))
	each(nodes, func(i int, n *Node) {
		if n.lost.Load() {
			errs[i] = errLost
			return
		}
		lists[i], errs[i] = n.Containers(ctx)
	})
	for i, n := range nodes {
		if errs[i] != nil {
			n.log.Warn("the node's containers cannot be listed", "error", errs[i])
			continue
		}
		all = append(all, lists[i]...)
		answered = append(answered, n.name)
	}
	return all, answered
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// Logs calls fn for lines of the app's log, those of removed containers among
// them, in the order of their times and by one goroutine at a time. An error of
// fn ends it and is returned; so does the end of ctx, without an error where
// lines are followed.
func (p *Pool) Logs(ctx context.Context, app string, instances []router.Instance, o LogOptions, fn func(router.LogLine) error) error {
	source := func(in router.Instance) (*Node, bool) {
		n, err := p.node(in.Node)
		return n, err == nil
	}
	nodes := p.nodes()
	if len(nodes) == 0 {
		return nil
	}
	return appLogs{app, source, nodes[0].archive}.run(ctx, instances, o, fn)
}

// DropLogs forgets what is kept of the logs of an app that is removed.
func (p *Pool) DropLogs(app string) error {
	nodes := p.nodes()
	if len(nodes) == 0 {
		return nil
	}
	return nodes[0].archive.drop(app)
}

// each runs fn for every node, for very many at once, and waits.
func each(nodes []*Node, fn func(i int, n *Node)) {
	var group errgroup.Group
	group.SetLimit(eachAtOnce)
	for i, n := range nodes {
		group.Go(func() error {
			fn(i, n)
			n.spareFile()
			return nil
		})
	}
	_ = group.Wait()
}

// eachAtOnce is how many nodes are asked at once, of very many: each is a
// connection more. Some that hang must not hold the others up.
const eachAtOnce = 512

// Ping asks whether a node answers.
func (p *Pool) Ping(ctx context.Context, node string) error {
	n, err := p.node(node)
	if err != nil {
		return err
	}
	return n.Ping(ctx)
}
