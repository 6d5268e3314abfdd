package podman

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	spec "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/fluxgate/fluxgate/router"
)

// Reclaim has the kernel take back the page cache of an instance's frozen
// container; what the program itself holds stays, unless the machine has swap.
// Where the node has no way to do it, nothing happens. It is safe to repeat.
// CodeNotFound: there is no container.
func (n *Node) Reclaim(ctx context.Context, in router.Instance) error {
	facts, err := n.checked()
	if err != nil || facts.Reclaim == router.ReclaimNone {
		return err
	}
	return n.reclaim(ctx, containerName(in.ID), facts.Reclaim)
}

func (n *Node) reclaim(ctx context.Context, name string, way router.Reclaim) error {
	c, err := n.inspect(ctx, name)
	if err != nil || stateOf(c.State.Status) != router.ContainerPaused {
		return err
	}
	switch way {
	case router.ReclaimAsk:
		// The kernel says EAGAIN where it got less than asked, which it always
		// does here: much stays.
		_, err = n.update(ctx, name, spec.LinuxResources{Unified: map[string]string{"memory.reclaim": strconv.Itoa(1 << 40)}})
	case router.ReclaimLimit:
		// No container has less than a page. Lowered below what it has, the limit
		// makes the kernel take what it can, and then say EBUSY and leave the old
		// one. (Version 2 would kill the container instead.)
		var lowered bool
		page, before := int64(4096), int64(-1)
		if c.HostConfig != nil && c.HostConfig.Memory > 0 {
			before = c.HostConfig.Memory
		}
		lowered, err = n.update(ctx, name, spec.LinuxResources{Memory: &spec.LinuxMemory{Limit: &page}})
		if lowered {
			_, err = n.update(ctx, name, spec.LinuxResources{Memory: &spec.LinuxMemory{Limit: &before}})
		}
	}
	return err
}

// update changes the limits of a container at once. done is false where the
// kernel refused; an error is only what kept the engine from asking it.
func (n *Node) update(ctx context.Context, name string, r spec.LinuxResources) (done bool, err error) {
	ctx, end := n.call(ctx, quickCall)
	defer end()
	body, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	resp, err := n.request(ctx, http.MethodPost, "/containers/"+name+"/update", nil, strings.NewReader(string(body)), "application/json")
	if err == nil {
		return true, resp.Body.Close()
	}
	if isCode(err, router.CodeInternal) && ctx.Err() == nil {
		return false, nil
	}
	return false, err
}
