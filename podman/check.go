package podman

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/blang/semver/v4"
	"github.com/containers/podman/v4/libpod/define"
	"github.com/containers/podman/v4/pkg/bindings/system"

	"github.com/fluxgate/fluxgate/podman/site"
	"github.com/fluxgate/fluxgate/router"
)

// minimum is the oldest Podman server that has all that is used here.
var minimum = semver.MustParse("4.3.0")

// Check finds out what works on the node by really running a container there:
// limits, the freezer, and how containers are reached. The facts are kept for
// everything that the Node does from then on. What does not work, but can be
// done without, is in Diagnosis; an error means that the node cannot be used.
func (n *Node) Check(ctx context.Context) (router.NodeFacts, error) {
	facts, err := n.runProbes(ctx, n.tryNode)
	if err != nil {
		return facts, err
	}
	facts.Checked = time.Now()
	n.facts.Store(&facts)
	return facts, nil
}

// tryEngine finds out whether any container runs on the node, without a
// network, and which OCI runtime it is that does or does not work.
func (n *Node) tryEngine(ctx context.Context) (runtime string, err error) {
	facts, err := n.runProbes(ctx, n.tryRuntime)
	return facts.Runtime, err
}

// tryProbe runs one container with what facts say and corrects them. A
// CodeInternal error is why it did not run.
type tryProbe func(ctx context.Context, image string, facts *router.NodeFacts) error

func (n *Node) runProbes(ctx context.Context, try tryProbe) (router.NodeFacts, error) {
	info, err := n.info(ctx)
	if err != nil {
		return router.NodeFacts{}, err
	}
	facts := router.NodeFacts{
		Podman: info.Version.Version, Rootless: info.Host.Security.Rootless,
		CPUs: info.Host.CPUs, Memory: router.Bytes(info.Host.MemTotal),
	}
	facts.Reclaim = map[string]router.Reclaim{"v1": router.ReclaimLimit, "v2": router.ReclaimAsk}[info.Host.CgroupsVersion]
	// The API has a field for the runtime of a container; no server of version 4
	// heeds it. Containers, like builds, get the service's own.
	if info.Host.OCIRuntime != nil {
		facts.Runtime = info.Host.OCIRuntime.Name
	}
	if v, err := semver.ParseTolerant(facts.Podman); err != nil || v.LT(minimum) {
		return facts, router.Errorf(router.CodeUnavailable, "node %s has Podman %q; %s or later is needed: install a newer one there", n.name, facts.Podman, minimum)
	}
	if err := site.Available(); err != nil {
		return facts, router.Errorf(router.CodeInternal, "the node check has no program to run: %w", err)
	}
	n.removeOldProbes(ctx)
	image, err := n.probeImage(ctx)
	if err != nil {
		return facts, err
	}
	if err := n.findLimits(ctx, image, try, &facts); err != nil {
		if isCode(err, router.CodeInternal) && ctx.Err() == nil {
			err = router.Errorf(router.CodeUnavailable,
				"no container runs on node %s. With the OCI runtime %s, Podman says: %s; try another one there: install runc or crun, name it as runtime under [engine] in /etc/containers/containers.conf, and restart the Podman service",
				n.name, facts.Runtime, engineText(err))
		}
		return facts, err
	}
	return facts, nil
}

func (n *Node) info(ctx context.Context) (*define.Info, error) {
	ctx, end := n.call(ctx, changeCall)
	defer end()
	info, err := prompt(ctx, func() (*define.Info, error) { return system.Info(ctx, nil) })
	if err != nil {
		return nil, n.engineError(ctx, err)
	}
	if info.Host == nil || info.Store == nil {
		return nil, router.Errorf(router.CodeInternal, "node %s: Podman's answer to info is empty", n.name)
	}
	return info, nil
}

// findLimits runs probes until one works, with fewer limits where limits are
// what fails.
func (n *Node) findLimits(ctx context.Context, image string, try tryProbe, facts *router.NodeFacts) error {
	var refused error
	for _, u := range n.ulimitCandidates(ctx) {
		with := *facts
		with.NoFile, with.NProc = u.nofile, u.nproc
		with.LimitCPU, with.LimitMem, with.LimitPids = true, true, true
		err := try(ctx, image, &with)
		if ulimitRefused(err) && ctx.Err() == nil {
			refused = err
			continue
		}
		if isCode(err, router.CodeInternal) && ctx.Err() == nil {
			err = n.tryWithoutLimits(ctx, image, try, &with, err)
		}
		if err == nil {
			*facts = with
		}
		return err
	}
	return refused
}

// tryWithoutLimits finds out whether a limit is what failed, and which. The
// result is cause where the container does not run without limits either.
func (n *Node) tryWithoutLimits(ctx context.Context, image string, try tryProbe, facts *router.NodeFacts, cause error) error {
	without := *facts
	without.LimitCPU, without.LimitMem, without.LimitPids = false, false, false
	if err := try(ctx, image, &without); err != nil {
		return cause
	}
	limits := []struct {
		name string
		set  func(*router.NodeFacts) *bool
	}{
		{"cpu", func(f *router.NodeFacts) *bool { return &f.LimitCPU }},
		{"memory", func(f *router.NodeFacts) *bool { return &f.LimitMem }},
		{"pids", func(f *router.NodeFacts) *bool { return &f.LimitPids }},
	}
	for _, l := range limits {
		with := without
		*l.set(&with) = true
		err := try(ctx, image, &with)
		*l.set(&without) = err == nil && *l.set(&with)
		if err != nil {
			without.Diagnosis = append(without.Diagnosis, fmt.Sprintf("%s limits cannot be set, so apps run without them: %s", l.name, engineText(err)))
		}
	}
	*facts = without
	return nil
}

// ulimit is a pair of resource limits to ask for.
type ulimit struct{ nofile, nproc int64 }

// ulimitRefused knows an OCI runtime's words for a hard limit that it may not
// raise (it lacks CAP_SYS_RESOURCE).
func ulimitRefused(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(engineText(err)), "rlimit")
}

// wantedFiles is what a container gets where it may: enough for any server,
// and little enough for programs that close every possible descriptor at start.
const wantedFiles = 65536

// ulimitCandidates are limits to try, the highest first. Where the service's
// process can be seen, its own hard limits come before the guesses.
func (n *Node) ulimitCandidates(ctx context.Context) []ulimit {
	guesses := []ulimit{{wantedFiles, 4194304}, {wantedFiles, 32768}, {16384, 32768}, {4096, 4096}, {1024, 1024}}
	u, err := url.Parse(n.url)
	if err != nil || u.Scheme != "unix" {
		return guesses
	}
	pid, err := peerPid(ctx, u.Path)
	if err != nil {
		return guesses
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return guesses
	}
	hard := hardLimits(string(text))
	if hard.nofile == 0 || hard.nproc == 0 {
		return guesses
	}
	return append([]ulimit{{min(hard.nofile, wantedFiles), min(hard.nproc, 4194304)}}, guesses...)
}

// hardLimits reads /proc/PID/limits.
func hardLimits(text string) ulimit {
	value := func(name string) int64 {
		for _, line := range strings.Split(text, "\n") {
			rest, ok := strings.CutPrefix(line, name)
			if !ok {
				continue
			}
			fields := strings.Fields(rest)
			if len(fields) < 2 {
				return 0
			}
			if fields[1] == "unlimited" {
				return 1 << 40
			}
			var v int64
			_, _ = fmt.Sscan(fields[1], &v)
			return v
		}
		return 0
	}
	return ulimit{value("Max open files"), value("Max processes")}
}
