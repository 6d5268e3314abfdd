package podman

import (
	"context"
	"sort"
	"strconv"

	"github.com/containers/podman/v4/pkg/bindings/containers"
	"github.com/containers/podman/v4/pkg/domain/entities"
	"golang.org/x/sync/errgroup"

	"github.com/fluxgate/fluxgate/router"
)

// inspectsAtOnce bounds the load of listing a node with many containers.
const inspectsAtOnce = 8

// Containers are all of this installation's containers on the node, by
// instance. Those that go away while they are listed may be missing.
func (n *Node) Containers(ctx context.Context) ([]router.Container, error) {
	list, err := n.list(ctx, map[string][]string{"label": {labelOwner + "=" + n.owner}})
	if err != nil {
		return nil, err
	}
	out := make([]router.Container, len(list))
	gone := make([]bool, len(list))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inspectsAtOnce)
	for i, c := range list {
		release, _ := strconv.Atoi(c.Labels[labelRelease])
		out[i] = router.Container{
			ID: c.ID, Node: n.name, Instance: c.Labels[labelInstance], App: c.Labels[labelApp], Release: release,
			State: stateOf(c.State), ExitCode: int(c.ExitCode),
		}
		// Neither addresses nor the reason of a kill are in the list.
		if out[i].State == router.ContainerCreated || (out[i].State == router.ContainerExited && out[i].ExitCode != 137) {
			continue
		}
		group.Go(func() error {
			full, err := n.inspect(ctx, c.ID)
			if isCode(err, router.CodeNotFound) {
				gone[i] = true
				return nil
			}
			if err == nil {
				out[i] = n.container(full)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	kept := out[:0]
	for i, c := range out {
		if !gone[i] {
			kept = append(kept, c)
		}
	}
	sort.Slice(kept, func(i, j int) bool { return kept[i].Instance < kept[j].Instance })
	return kept, nil
}

func (n *Node) list(ctx context.Context, filters map[string][]string) ([]entities.ListContainer, error) {
	ctx, end := n.call(ctx, quickCall)
	defer end()
	list, err := prompt(ctx, func() ([]entities.ListContainer, error) {
		return containers.List(ctx, new(containers.ListOptions).WithAll(true).WithFilters(filters))
	})
	return list, n.engineError(ctx, err)
}
