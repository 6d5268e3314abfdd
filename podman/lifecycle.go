package podman

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containers/podman/v4/libpod/define"
	"github.com/containers/podman/v4/pkg/bindings/containers"

	"github.com/fluxgate/fluxgate/router"
)

// Start starts the container of an instance and returns where it answers: a
// fresh address, for it changes with every start. Starting one that runs is
// fine, and one that is frozen is thawed. CodeNotFound: there is no container.
// CodeFailed: the app's program could not be run, or was seen to have ended.
func (n *Node) Start(ctx context.Context, in router.Instance) (string, error) {
	name := containerName(in.ID)
	known := n.askPublished(ctx, name)
	err := n.start(ctx, name)
	addr := <-known
	if err != nil {
		if !stateImproper(err) {
			return "", err
		}
		if err := n.Thaw(ctx, in); err != nil {
			return "", err
		}
	}
	if addr != "" {
		return addr, nil
	}
	c, err := n.inspect(ctx, name)
	if err != nil {
		return "", err
	}
	if !c.State.Running {
		return "", ended(c)
	}
	return n.addressOf(c)
}

// askPublished asks, while the container is started, where its port is
// published, which is settled when it is created: one call less to wait for. It
// gives exactly one answer, empty where the port is not published or nothing
// could be learned.
func (n *Node) askPublished(ctx context.Context, name string) <-chan string {
	answer := make(chan string, 1)
	if facts, err := n.checked(); err != nil || facts.Direct {
		answer <- ""
		return answer
	}
	go func() { // ends with its call
		addr := ""
		// One that has ended is for Start to look at.
		if c, err := n.inspect(ctx, name); err == nil && (stateOf(c.State.Status) == router.ContainerCreated || c.State.Running) {
			addr, _ = n.addressOf(c)
		}
		answer <- addr
	}()
	return answer
}

// transientStarts is how often a start is tried again after a failure of the
// engine that is known to pass.
const transientStarts = 3

func (n *Node) start(ctx context.Context, name string) error {
	ctx, end := n.call(ctx, changeCall)
	defer end()
	for attempt := 1; ; attempt++ {
		err := promptly(ctx, func() error { return containers.Start(ctx, name, nil) })
		if err == nil {
			return nil
		}
		text := engineText(err)
		err = n.engineError(ctx, err)
		switch {
		case isCode(err, router.CodeInternal) && appFault(err):
			return router.Errorf(router.CodeFailed, "the container's program cannot be run: %w", err)
		case strings.Contains(text, "address already in use"):
			return router.Errorf(router.CodeConflict, "node %s: the port published for the container was taken meanwhile; create it anew: %w", n.name, err)
		case !isCode(err, router.CodeInternal) || !transient(text) || attempt == transientStarts:
			return err
		}
		n.log.Warn("starting again after a passing failure of the engine", "container", name, "error", text)
		select {
		case <-ctx.Done():
			return n.engineError(ctx, ctx.Err())
		case <-time.After(time.Duration(attempt) * 50 * time.Millisecond):
		}
	}
}

// transient knows failures that come from many containers starting at once.
func transient(text string) bool {
	for _, sign := range []string{"database is locked", "resource temporarily unavailable", "xtables lock", "try again", "device or resource busy"} {
		if strings.Contains(strings.ToLower(text), sign) {
			return true
		}
	}
	return false
}

// Freeze stops a running container in the cgroup freezer; its memory stays.
// Freezing a frozen one is fine. CodeNotFound: there is no container.
// CodeFailed: it does not run.
func (n *Node) Freeze(ctx context.Context, in router.Instance) error {
	return n.freezer(ctx, in, containers.Pause, router.ContainerPaused)
}

// Thaw lets a frozen container go on. Thawing one that runs is fine.
// CodeNotFound: there is no container. CodeFailed: it does not run.
func (n *Node) Thaw(ctx context.Context, in router.Instance) error {
	return n.freezer(ctx, in, func(ctx context.Context, name string, _ *containers.PauseOptions) error {
		return containers.Unpause(ctx, name, nil)
	}, router.ContainerRunning)
}

// freezer makes the one call, and looks only when it failed.
func (n *Node) freezer(ctx context.Context, in router.Instance, move func(context.Context, string, *containers.PauseOptions) error, want router.ContainerState) error {
	cctx, end := n.call(ctx, quickCall)
	defer end()
	err := promptly(cctx, func() error { return move(cctx, containerName(in.ID), nil) })
	if err == nil {
		return nil
	}
	err = n.engineError(cctx, err)
	if !isCode(err, router.CodeInternal) {
		return err
	}
	c, inspectErr := n.inspect(ctx, containerName(in.ID))
	if inspectErr != nil {
		return inspectErr
	}
	switch stateOf(c.State.Status) {
	case want:
		return nil
	case router.ContainerExited, router.ContainerCreated:
		return ended(c)
	}
	return err
}

// Stop asks the app to end, by the image's stop signal, and kills it after
// grace, which is rounded up to whole seconds. A frozen one is thawed for that.
// Stopping one that does not run is fine. CodeNotFound: there is no container.
func (n *Node) Stop(ctx context.Context, in router.Instance, grace time.Duration) error {
	err := n.stop(ctx, in, grace)
	if err == nil || !stateImproper(err) {
		return err
	}
	if err := n.Thaw(ctx, in); err != nil {
		if isCode(err, router.CodeFailed) {
			return nil // it ended by itself
		}
		return err
	}
	return n.stop(ctx, in, grace)
}

func (n *Node) stop(ctx context.Context, in router.Instance, grace time.Duration) error {
	ctx, end := n.call(ctx, grace+changeCall)
	defer end()
	seconds := uint((max(grace, 0) + time.Second - 1) / time.Second)
	err := promptly(ctx, func() error {
		return containers.Stop(ctx, containerName(in.ID), new(containers.StopOptions).WithTimeout(seconds))
	})
	return n.engineError(ctx, err)
}

// Remove kills and removes the container of an instance, after putting its log
// aside for Logs. Removing one that is not there is fine.
func (n *Node) Remove(ctx context.Context, in router.Instance) error {
	name := containerName(in.ID)
	c, err := n.inspect(ctx, name)
	switch {
	case isCode(err, router.CodeNotFound):
		return nil
	case err != nil:
		return err
	case c.Config.Labels[labelOwner] != n.owner:
		return router.Errorf(router.CodeConflict, "node %s: the container %s is not ours to remove", n.name, name)
	}
	if c.State.Running && !c.State.Paused {
		// Dead before its log is read, so that the log is whole.
		if err := n.stop(ctx, in, 0); err != nil && !stateImproper(err) && !isCode(err, router.CodeNotFound) {
			n.log.Warn("a container to be removed did not stop; it is removed by force", "instance", in.ID, "error", err)
		}
	}
	if err := n.archiveLog(ctx, c.Config.Labels[labelApp], in.ID); err != nil {
		n.log.Warn("the log of a removed container is lost", "instance", in.ID, "error", err)
	}
	return n.remove(ctx, name)
}

func (n *Node) remove(ctx context.Context, name string) error {
	ctx, end := n.call(ctx, changeCall)
	defer end()
	err := promptly(ctx, func() error {
		_, err := containers.Remove(ctx, name, new(containers.RemoveOptions).WithForce(true).WithIgnore(true).WithVolumes(true).WithTimeout(0))
		return err
	})
	if err = n.engineError(ctx, err); err == nil || isCode(err, router.CodeNotFound) {
		return nil
	}
	// When two remove it at once, Podman fails one of them in the middle.
	if _, gone := n.inspect(ctx, name); isCode(gone, router.CodeNotFound) {
		return nil
	}
	return err
}

// Inspect is the state of an instance's container. CodeNotFound: there is none.
func (n *Node) Inspect(ctx context.Context, in router.Instance) (router.Container, error) {
	c, err := n.inspect(ctx, containerName(in.ID))
	if err != nil {
		return router.Container{}, err
	}
	return n.container(c), nil
}

func (n *Node) inspect(ctx context.Context, name string) (*define.InspectContainerData, error) {
	ctx, end := n.call(ctx, quickCall)
	defer end()
	c, err := prompt(ctx, func() (*define.InspectContainerData, error) { return containers.Inspect(ctx, name, nil) })
	if err != nil {
		return nil, n.engineError(ctx, err)
	}
	if c.State == nil || c.Config == nil || c.NetworkSettings == nil {
		return nil, router.Errorf(router.CodeInternal, "node %s: Podman's answer about container %s has no state", n.name, name)
	}
	return c, nil
}

func (n *Node) container(c *define.InspectContainerData) router.Container {
	release, _ := strconv.Atoi(c.Config.Labels[labelRelease])
	out := router.Container{
		ID: c.ID, Node: n.name, Instance: c.Config.Labels[labelInstance], App: c.Config.Labels[labelApp], Release: release,
		State: stateOf(c.State.Status), ExitCode: int(c.State.ExitCode), OOM: c.State.OOMKilled,
	}
	if out.State == router.ContainerRunning || out.State == router.ContainerPaused {
		out.Addr, _ = n.addressOf(c)
	}
	return out
}

func (n *Node) addressOf(c *define.InspectContainerData) (string, error) {
	facts, err := n.checked()
	if err != nil {
		return "", err
	}
	ip := c.NetworkSettings.IPAddress
	for _, net := range c.NetworkSettings.Networks {
		if net != nil && net.IPAddress != "" {
			ip = net.IPAddress
		}
	}
	published := make(map[string]string)
	for port, hosts := range c.NetworkSettings.Ports {
		if len(hosts) > 0 {
			published[port] = hosts[0].HostPort
		}
	}
	addr, err := address(facts.Direct, ip, n.publishAt(), published, c.Config.Labels[labelPort])
	if err != nil {
		return "", router.Errorf(router.CodeInternal, "node %s, container %s: %w", n.name, c.Name, err)
	}
	return addr, nil
}

// stateOf maps an engine's state to those that matter here.
func stateOf(status string) router.ContainerState {
	switch status {
	case "created", "configured", "initialized":
		return router.ContainerCreated
	case "running":
		return router.ContainerRunning
	case "paused":
		return router.ContainerPaused
	}
	return router.ContainerExited
}

// stateImproper is the engine's refusal because of the container's state.
func stateImproper(err error) bool {
	return isCode(err, router.CodeInternal) && strings.Contains(engineText(err), define.ErrCtrStateInvalid.Error())
}

// ended says what a container that should run came to.
func ended(c *define.InspectContainerData) error {
	what := fmt.Sprintf("exited with code %d", c.State.ExitCode)
	switch {
	case stateOf(c.State.Status) == router.ContainerCreated:
		what = "was never started"
	case c.State.OOMKilled:
		what = "was killed because it used more memory than its limit"
	case c.State.ExitCode == 137:
		what = "was killed (exit code 137), as happens to one that uses more memory than its limit"
	}
	return router.Errorf(router.CodeFailed, "the container %s", what)
}
