package podman

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containers/podman/v4/pkg/bindings/images"

	"github.com/fluxgate/fluxgate/podman/site"
	"github.com/fluxgate/fluxgate/router"
)

// pruneAge protects images that were made and are not in any record yet.
const pruneAge = time.Hour

// ImageExists reports whether the image, by ID or name, is on the node.
func (n *Node) ImageExists(ctx context.Context, image string) (bool, error) {
	ctx, end := n.call(ctx, quickCall)
	defer end()
	exists, err := prompt(ctx, func() (bool, error) { return images.Exists(ctx, image, nil) })
	return exists, n.engineError(ctx, err)
}

// PruneImages removes images that Build made for this installation, except
// those to keep (by ID), those in use, those that others are built upon, and
// young ones.
func (n *Node) PruneImages(ctx context.Context, keep []string) error {
	return n.pruneImages(ctx, setOf(keep))
}

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}

func (n *Node) pruneImages(ctx context.Context, keep map[string]bool) error {
	lctx, end := n.call(ctx, changeCall)
	defer end()
	filters := map[string][]string{"label": {labelImage}}
	list, err := images.List(lctx, new(images.ListOptions).WithAll(true).WithFilters(filters))
	if err != nil {
		return n.engineError(lctx, err)
	}
	parents := make(map[string]bool)
	for _, i := range list {
		parents[i.ParentId] = true
	}
	now := time.Now()
	var ids []string
	for _, i := range list {
		if !strings.HasPrefix(i.Labels[labelImage], n.owner+"/") {
			continue
		}
		id := imageID(i.ID)
		young := now.Sub(time.Unix(i.Created, 0)) < pruneAge || n.handedOut(id, now)
		if !young && !parents[i.ID] && !keep[id] && i.Containers == 0 {
			ids = append(ids, i.ID)
		}
	}
	for _, id := range ids {
		if err := n.removeImage(ctx, id); err != nil {
			n.log.Warn("an old image could not be removed", "image", id, "error", err)
		}
	}
	return ctx.Err()
}

// removeImage removes an image and the layers that only it stood on. One that
// is in use after all, or gone, is left.
func (n *Node) removeImage(ctx context.Context, id string) error {
	ctx, end := n.call(ctx, changeCall)
	defer end()
	_, errs := images.Remove(ctx, []string{id}, new(images.RemoveOptions).WithForce(false))
	for _, err := range errs {
		err = n.engineError(ctx, err)
		if !isCode(err, router.CodeNotFound) && !isCode(err, router.CodeConflict) && !strings.Contains(err.Error(), "in use") {
			return err
		}
	}
	return nil
}

// handOut remembers that a build's caller was given the image.
func (n *Node) handOut(id string) string {
	n.builtMu.Lock()
	defer n.builtMu.Unlock()
	now := time.Now()
	for old, at := range n.built {
		if now.Sub(at) > pruneAge {
			delete(n.built, old)
		}
	}
	n.built[id] = now
	return id
}

func (n *Node) handedOut(id string, now time.Time) bool {
	n.builtMu.Lock()
	defer n.builtMu.Unlock()
	at, ok := n.built[id]
	return ok && now.Sub(at) < pruneAge
}

// load puts an image on the node.
func (n *Node) load(ctx context.Context, a *site.Archive) error {
	ctx, end := n.call(ctx, buildCall)
	defer end()
	body, stop := stream(a.Write)
	defer stop()
	resp, err := n.request(ctx, http.MethodPost, "/images/load", url.Values{}, body, "application/x-tar")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// imageID is an ID as it stands in releases.
func imageID(id string) string { return "sha256:" + strings.TrimPrefix(id, "sha256:") }

// copyImage copies an image to another node, as a stream through this process.
// Its ID stays the same.
func (n *Node) copyImage(ctx context.Context, image string, to *Node) error {
	sctx, end := n.call(ctx, copyCall)
	defer end()
	resp, err := n.request(sctx, http.MethodGet, "/images/"+strings.TrimPrefix(image, "sha256:")+"/get", url.Values{"format": {"docker-archive"}}, nil, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lctx, done := to.call(ctx, copyCall)
	defer done()
	loaded, err := to.request(lctx, http.MethodPost, "/images/load", url.Values{}, resp.Body, "application/x-tar")
	if err != nil {
		return err
	}
	to.log.Info("an image was copied to the node", "image", image, "from", n.name)
	to.handOut(image)
	return loaded.Body.Close()
}
