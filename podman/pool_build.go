package podman

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// A build lasts as long as it takes, so it has no deadline that would find a
// hanging engine. It is given up when its node has not answered for a while; a
// node that is only busy with it answers in between.
const (
	buildLook   = 3 * time.Second
	buildMisses = 5 // looks in a row at which the node did not answer
)

// Build is Node.Build on a node that it chooses by the app. The image then goes
// to the depot, too; one that is there is taken from there. Where a node does not
// answer or has no room, and files can be read again, another one builds.
func (p *Pool) Build(ctx context.Context, app string, src router.Source, files io.Reader, out io.Writer) (string, error) {
	var failed []string
	var cause error
	for {
		n, err := p.place(app, failed...)
		if err != nil {
			if cause != nil {
				err = cause
			}
			return "", err
		}
		id, err := p.buildOn(ctx, n, app, src, files, out)
		if !isCode(err, router.CodeUnavailable) || ctx.Err() != nil || !rewind(files) {
			return id, err
		}
		n.log.Warn("the build is tried on another node", "app", app, "error", err)
		if cause == nil {
			cause = err
		}
		failed = append(failed, n.name)
	}
}

// rewind makes files start over, if they can.
func rewind(files io.Reader) bool {
	if files == nil {
		return true
	}
	again, ok := files.(io.Seeker)
	if !ok {
		return false
	}
	_, err := again.Seek(0, io.SeekStart)
	return err == nil
}

func (p *Pool) buildOn(ctx context.Context, n *Node, app string, src router.Source, files io.Reader, out io.Writer) (id string, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go n.endWhenSilent(ctx, end)
	if what, ok := p.fromDepot(src); ok {
		if id, err = p.depot.pull(ctx, n, what, orDiscard(out)); err == nil {
			n.handOut(id)
		}
	} else {
		id, err = n.Build(ctx, app, src, files, out)
	}
	var silent *router.Error
	if err != nil && errors.As(context.Cause(ctx), &silent) {
		return "", silent
	}
	if err == nil {
		p.inventory.add(n.name, id)
		p.land(n, app, id)
	}
	return id, err
}

// endWhenSilent calls end when the node has not answered for a while. It returns
// then, or when ctx ends.
func (n *Node) endWhenSilent(ctx context.Context, end context.CancelCauseFunc) {
	ticker := time.NewTicker(buildLook)
	defer ticker.Stop()
	for missed := 0; missed < buildMisses; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if missed++; !n.Node().Down {
			missed = 0
		}
	}
	e := router.Errorf(router.CodeUnavailable, "node %s stopped answering; see whether Podman hangs there: podman --url %s ps", n.name, n.url)
	e.RetryAfter = time.Second
	end(e)
}
