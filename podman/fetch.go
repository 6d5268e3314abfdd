package podman

import (
	"context"
	"errors"
	"hash/fnv"
	"io"
	"slices"

	"github.com/fluxgate/fluxgate/router"
)

// place is the node where an app's images are built: the same one while the
// nodes are. One whose disk is full is the last choice, and those not to be are
// none.
func (p *Pool) place(app string, not ...string) (*Node, error) {
	var best *Node
	var high uint64
	full := false
	for _, n := range p.nodes() { // rendezvous hashing: a node more or less moves few apps
		node := n.Node()
		if node.Down || node.Cordoned || slices.Contains(not, n.name) || best != nil && node.Full && !full {
			continue
		}
		h := fnv.New64a()
		_, _ = io.WriteString(h, app+"\x00"+n.name)
		if v := h.Sum64(); best == nil || v > high || full && !node.Full {
			best, high, full = n, v, node.Full
		}
	}
	if best == nil {
		return nil, router.Errorf(router.CodeUnavailable, "no node answers at present: `fluxgate node ls` shows them")
	}
	return best, nil
}

// fetch brings an image to a node: through the depot, or copied whole where
// that is not possible.
func (p *Pool) fetch(ctx context.Context, to *Node, app, image string) error {
	if p.depot != nil {
		done := p.copies.DoChan(to.name+" depot "+image, func() (any, error) {
			// It goes on where the one who asked first gives up: the next try
			// finds it there.
			cctx, cancel := context.WithTimeout(p.depot.life, copyCall)
			defer cancel()
			return nil, p.throughDepot(cctx, to, app, image)
		})
		select {
		case r := <-done:
			if r.Err == nil {
				p.inventory.add(to.name, image)
				return nil
			}
			if !errors.Is(r.Err, errNoDepot) {
				to.log.Warn("an image did not come through the registry; copying it", "image", image, "app", app, "error", r.Err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := p.bring(ctx, to, image)
	if err == nil {
		p.inventory.add(to.name, image)
	}
	return err
}

// bring copies an image to a node, once however many want it there. It goes on
// where the one who asked first gives up: the next try finds it there.
func (p *Pool) bring(ctx context.Context, to *Node, image string) error {
	done := p.copies.DoChan(to.name+" "+image, func() (any, error) {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), copyCall)
		defer cancel()
		from, err := p.holder(cctx, to, image)
		if err == nil {
			err = from.copyImage(cctx, image, to)
		}
		return nil, err
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ImageExists reports whether any node has the image.
func (p *Pool) ImageExists(ctx context.Context, image string) (bool, error) {
	var errs []error
	for _, n := range p.nodes() {
		if n.lost.Load() {
			continue
		}
		ok, err := n.ImageExists(ctx, image)
		if ok {
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, errors.Join(errs...)
}

// PruneImages is Node.PruneImages on all nodes that answer.
func (p *Pool) PruneImages(ctx context.Context, keep []string) error {
	nodes := p.nodes()
	errs, set := make([]error, len(nodes)), setOf(keep)
	each(nodes, func(i int, n *Node) {
		if !n.Node().Down {
			errs[i] = n.pruneImages(ctx, set)
		}
	})
	return errors.Join(errs...)
}
