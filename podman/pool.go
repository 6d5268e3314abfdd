package podman

import (
	"context"
	"errors"
	"hash/fnv"
	"io"
	"sort"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Pool is the nodes of a gateway. Its methods choose the node by the instance;
// they are the Node's otherwise. A Pool may be used concurrently.
type Pool struct {
	nodes  []*Node
	byName map[string]*Node
}

// NewPool is a pool of nodes, each with a name of its own; at least one. They
// stay the caller's to close.
func NewPool(nodes ...*Node) *Pool {
	p := &Pool{nodes: nodes, byName: make(map[string]*Node, len(nodes))}
	for _, n := range nodes {
		p.byName[n.name] = n
		if n.archive.dir == nodes[0].archive.dir {
			n.archive = nodes[0].archive // one writer per file
		}
	}
	return p
}

func (p *Pool) node(name string) (*Node, error) {
	if n, ok := p.byName[name]; ok {
		return n, nil
	}
	return nil, router.Errorf(router.CodeNotFound, "there is no node %q", name)
}

// Nodes are the nodes with their facts, by name.
func (p *Pool) Nodes() []router.Node {
	out := make([]router.Node, len(p.nodes))
	for i, n := range p.nodes {
		out[i] = n.Node()
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
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

// Place is the node for an app: where its images are built, and so where its
// instances can run. It is always the same one while the nodes are.
func (p *Pool) Place(app string) string { return p.place(app).name }

func (p *Pool) place(app string) *Node {
	var best *Node
	var high uint64
	for _, n := range p.nodes { // rendezvous hashing: a node more or less moves few apps
		h := fnv.New64a()
		_, _ = io.WriteString(h, app+"\x00"+n.name)
		if v := h.Sum64(); best == nil || v > high {
			best, high = n, v
		}
	}
	return best
}

// Create is Node.Create on the instance's node.
func (p *Pool) Create(ctx context.Context, in router.Instance, rel router.Release) (string, error) {
	n, err := p.node(in.Node)
	if err != nil {
		return "", err
	}
	return n.Create(ctx, in, rel)
}

// Start is Node.Start on the instance's node.
func (p *Pool) Start(ctx context.Context, in router.Instance) (string, error) {
	n, err := p.node(in.Node)
	if err != nil {
		return "", err
	}
	return n.Start(ctx, in)
}

// Freeze is Node.Freeze on the instance's node.
func (p *Pool) Freeze(ctx context.Context, in router.Instance) error {
	n, err := p.node(in.Node)
	if err != nil {
		return err
	}
	return n.Freeze(ctx, in)
}

// Thaw is Node.Thaw on the instance's node.
func (p *Pool) Thaw(ctx context.Context, in router.Instance) error {
	n, err := p.node(in.Node)
	if err != nil {
		return err
	}
	return n.Thaw(ctx, in)
}

// Stop is Node.Stop on the instance's node.
func (p *Pool) Stop(ctx context.Context, in router.Instance, grace time.Duration) error {
	n, err := p.node(in.Node)
	if err != nil {
		return err
	}
	return n.Stop(ctx, in, grace)
}

// Remove is Node.Remove on the instance's node.
func (p *Pool) Remove(ctx context.Context, in router.Instance) error {
	n, err := p.node(in.Node)
	if err != nil {
		return err
	}
	return n.Remove(ctx, in)
}

// Inspect is Node.Inspect on the instance's node.
func (p *Pool) Inspect(ctx context.Context, in router.Instance) (router.Container, error) {
	n, err := p.node(in.Node)
	if err != nil {
		return router.Container{}, err
	}
	return n.Inspect(ctx, in)
}

// Tail is Node.Tail on the instance's node.
func (p *Pool) Tail(ctx context.Context, in router.Instance, lines int) (string, error) {
	n, err := p.node(in.Node)
	if err != nil {
		return "", err
	}
	return n.Tail(ctx, in, lines)
}

// Containers are those of all nodes. Where a node does not answer, the others'
// come together with the error.
func (p *Pool) Containers(ctx context.Context) ([]router.Container, error) {
	lists := make([][]router.Container, len(p.nodes))
	errs := make([]error, len(p.nodes))
	p.each(func(i int, n *Node) { lists[i], errs[i] = n.Containers(ctx) })
	var all []router.Container
	for _, l := range lists {
		all = append(all, l...)
	}
	return all, errors.Join(errs...)
}

// Events is Node.Events of all nodes. fn is called by one goroutine at a time.
func (p *Pool) Events(ctx context.Context, fn func(router.ContainerEvent)) {
	var mu sync.Mutex
	p.each(func(_ int, n *Node) {
		n.Events(ctx, func(e router.ContainerEvent) {
			mu.Lock()
			defer mu.Unlock()
			fn(e)
		})
	})
}

// Build is Node.Build on the node where Place puts the app.
func (p *Pool) Build(ctx context.Context, app string, src router.Source, files io.Reader, out io.Writer) (string, error) {
	return p.place(app).Build(ctx, app, src, files, out)
}

// ImageExists reports whether any node has the image.
func (p *Pool) ImageExists(ctx context.Context, image string) (bool, error) {
	errs := make([]error, 0, len(p.nodes))
	for _, n := range p.nodes {
		ok, err := n.ImageExists(ctx, image)
		if ok {
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, errors.Join(errs...)
}

// PruneImages is Node.PruneImages on all nodes.
func (p *Pool) PruneImages(ctx context.Context, keep []string) error {
	errs := make([]error, len(p.nodes))
	p.each(func(i int, n *Node) { errs[i] = n.PruneImages(ctx, keep) })
	return errors.Join(errs...)
}

// Logs calls fn for lines of the app's log, those of removed containers among
// them, in the order of their times and by one goroutine at a time. An error of
// fn ends it and is returned; so does the end of ctx, without an error where
// lines are followed.
func (p *Pool) Logs(ctx context.Context, app string, instances []router.Instance, o LogOptions, fn func(router.LogLine) error) error {
	source := func(in router.Instance) (*Node, bool) {
		n, ok := p.byName[in.Node]
		return n, ok
	}
	return appLogs{app, source, p.nodes[0].archive}.run(ctx, instances, o, fn)
}

// DropLogs forgets what is kept of the logs of an app that is removed.
func (p *Pool) DropLogs(app string) error { return p.nodes[0].archive.drop(app) }

// each runs fn for every node at once and waits.
func (p *Pool) each(fn func(i int, n *Node)) {
	var wg sync.WaitGroup
	for i, n := range p.nodes {
		wg.Go(func() { fn(i, n) })
	}
	wg.Wait()
}

// Ping asks whether a node answers.
func (p *Pool) Ping(ctx context.Context, node string) error {
	n, err := p.node(node)
	if err != nil {
		return err
	}
	return n.Ping(ctx)
}
