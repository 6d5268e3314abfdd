package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/containers/podman/v4/pkg/bindings/images"
	"github.com/containers/podman/v4/pkg/domain/entities"

	"github.com/fluxgate/fluxgate/router"
)

// refresh is how long looking for a newer image may hold up a push that has a
// local one to fall back to.
const refresh = 15 * time.Second

var localID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{12,64}$`)

// pull brings the image onto the node and returns its ID. A name that may move
// is looked up at its registry even where the node has such an image; without
// an answer from there, the node's is good enough.
func (n *Node) pull(ctx context.Context, reference string, out io.Writer) (string, error) {
	id, err := n.localImage(ctx, reference)
	switch {
	case err == nil:
		if localID.MatchString(reference) || strings.Contains(reference, "@sha256:") || strings.HasPrefix(reference, "localhost/") {
			return id, nil
		}
		rctx, cancel := context.WithTimeout(ctx, refresh)
		defer cancel()
		newer, err := n.pullWith(rctx, reference, "newer", out)
		if err == nil {
			return newer, nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		fmt.Fprintf(out, "%s: the registry gave no answer, using the image on the node\n", reference)
		return id, nil
	case !isCode(err, router.CodeNotFound):
		return "", err
	case localID.MatchString(reference):
		return "", router.Errorf(router.CodeFailed, "there is no image %s on node %s: `podman images` there lists those that are", reference, n.name)
	}
	return n.pullWith(ctx, reference, "missing", out)
}

// localImage is the ID of an image on the node, or CodeNotFound.
func (n *Node) localImage(ctx context.Context, reference string) (string, error) {
	ctx, end := n.call(ctx, quickCall)
	defer end()
	image, err := images.GetImage(ctx, reference, nil)
	if err != nil {
		return "", n.engineError(ctx, err)
	}
	if image.ImageData == nil || image.ID == "" {
		return "", router.Errorf(router.CodeInternal, "node %s: Podman's answer about image %s has no ID", n.name, reference)
	}
	return imageID(image.ID), nil
}

func (n *Node) pullWith(ctx context.Context, reference, policy string, out io.Writer) (string, error) {
	ctx, end := n.call(ctx, buildCall)
	defer end()
	resp, err := n.request(ctx, http.MethodPost, "/images/pull", url.Values{"reference": {reference}, "policy": {policy}}, nil, "")
	if err != nil {
		if isCode(err, router.CodeInternal) { // the reference itself is refused
			err = n.pullFailed(reference, engineText(err), err)
		}
		return "", err
	}
	defer resp.Body.Close()
	return n.readPull(ctx, resp.Body, reference, out)
}

// readPull reads what the engine says of a pull: the image's ID, or why there is
// none.
func (n *Node) readPull(ctx context.Context, body io.Reader, reference string, out io.Writer) (string, error) {
	dec := json.NewDecoder(body)
	var id, failure string
	for {
		var report entities.ImagePullReport
		if err := dec.Decode(&report); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", n.engineError(ctx, err)
		}
		switch {
		case report.Error != "":
			failure = strings.TrimSpace(report.Error)
		case report.Stream != "":
			if _, err := io.WriteString(out, report.Stream); err != nil {
				return "", err
			}
		case report.ID != "":
			id = report.ID
		case len(report.Images) > 0:
			id = report.Images[len(report.Images)-1]
		}
	}
	if failure != "" || id == "" {
		return "", n.pullFailed(reference, failure, nil)
	}
	return imageID(id), nil
}

// pullFailed says why there is no image, and what to do.
func (n *Node) pullFailed(reference, failure string, cause error) error {
	if full := n.diskFull(failure); full != nil {
		return full
	}
	hint := "check the name and tag"
	text := strings.ToLower(failure)
	switch {
	case strings.Contains(text, "short-name") || strings.Contains(text, "short name") || strings.Contains(text, "unqualified-search"):
		hint = "write the name in full, such as docker.io/library/" + reference
	case strings.Contains(text, "unauthorized") || strings.Contains(text, "denied") || strings.Contains(text, "authentication required"):
		hint = "check the name, or log in on the node: podman login"
	case strings.Contains(text, "no such host") || strings.Contains(text, "connection refused") || strings.Contains(text, "timeout") || strings.Contains(text, "unreachable"):
		hint = "the registry cannot be reached from the node; check the name and the node's network, or put the image there yourself: podman load, podman build"
	}
	if cause == nil {
		cause = errors.New(failure)
	}
	e := router.Errorf(router.CodeFailed, "the image %s cannot be had on node %s: %s: %w", reference, n.name, hint, cause)
	return e
}
