package autoscale

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// onEvent handles news from a node.
func (c *Controller) onEvent(ctx context.Context, e router.ContainerEvent) {
	switch e.Kind {
	case router.ContainerDied:
		if !c.stale(ctx, e) {
			c.onDeath(ctx, e)
		}
	case router.NodeConnected:
		c.reconcileSoon(e.Node) // deaths may have been missed
	case router.NodeLost:
		c.hurry(e.Node)
		c.abandons.ask(c, c.abandonLost)
	case router.NodeUnanswered:
		c.hurry(e.Node)
	}
}

// doubt is how long a death that may be an old one is left before its container
// is looked at again: by then one that was being started has been.
const doubt = 1500 * time.Millisecond

// stale reports whether a death is not one of the instance as it is now. A node
// that hangs, or a connection that broke, delivers events late: the end of a
// container that we stopped then arrives after it was started again. Times of
// two machines' clocks only raise the doubt; the container itself decides.
func (c *Controller) stale(ctx context.Context, e router.ContainerEvent) bool {
	in, ok := c.find(e.Instance)
	if !ok || in.State != router.Starting && in.State != router.Ready {
		return false
	}
	if in.State == router.Starting && !e.At.IsZero() && e.At.Before(in.Since) {
		c.goFor("doubt "+e.Instance, func(ctx context.Context) { c.lookAgain(ctx, e) })
		return true
	}
	return c.runs(ctx, in)
}

// runs reports whether an instance's container is known to run.
func (c *Controller) runs(ctx context.Context, in router.Instance) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	k, err := c.Runtime.Inspect(ctx, in)
	return err == nil && (k.State == router.ContainerRunning || k.State == router.ContainerPaused)
}

// lookAgain takes a doubtful death for one if the container is not running a
// moment later.
func (c *Controller) lookAgain(ctx context.Context, e router.ContainerEvent) {
	select {
	case <-time.After(doubt):
	case <-ctx.Done():
		return
	}
	in, ok := c.find(e.Instance)
	if ok && (in.State == router.Starting || in.State == router.Ready) && !c.runs(ctx, in) {
		c.onDeath(ctx, e)
	}
}

// onDeath marks an instance failed whose container ended without our doing:
// that takes it out of every Table, counts for the crash backoff, and has what
// is left removed.
func (c *Controller) onDeath(ctx context.Context, e router.ContainerEvent) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reason := deathReason(e.ExitCode, e.OOM)
	now := c.Now()
	var dead router.Instance
	raised := false // whoever is raising it looks at its last lines and removes it
	mark := func(st *router.AppState) error {
		in, ok := st.Instance(e.Instance)
		if !ok {
			return errAbort
		}
		ours := in.Claim.Op == "stop" || in.Claim.Op == "remove"
		if ours || in.State == router.Stopped || in.State == router.Failed {
			return errAbort
		}
		if in.Container != "" && e.Container != "" && in.Container != e.Container {
			return errAbort
		}
		raised = in.State == router.Starting && in.Claim.Holder == c.Gateway
		if err := in.To(router.Failed, now); err != nil {
			return errAbort
		}
		in.ExitCode, in.Reason = e.ExitCode, reason
		if in.Release == st.App.Current {
			st.App.Crash = st.App.Crash.After(now, reason)
		}
		dead = *in
		return nil
	}
	_, err := c.Store.Update(ctx, e.App, mark)
	if router.CodeOf(err) == router.CodeUnavailable && !errors.Is(err, errAbort) {
		// Redis is away: at least this gateway must send nothing there any more.
		if st, ok := c.Catalog.Get(e.App); ok {
			clone := st.Clone()
			if mark(&clone) == nil {
				c.later(dead, router.Failed)
			}
		}
		return
	}
	if err != nil {
		c.logFailure(err, "a death", e.Instance)
		return
	}
	c.Log.Warn("container died", "app", e.App, "instance", e.Instance, "reason", reason)
	fields := map[string]string{"instance": e.Instance, "exit": fmt.Sprint(e.ExitCode)}
	if advice := c.adviceOnDeath(ctx, dead, e.ExitCode, e.OOM); advice != "" {
		fields["advice"] = advice
	}
	c.note(e.App, router.Event{Kind: "crash", Text: fmt.Sprintf("%s died: %s", e.Instance, reason), Fields: fields})
	if !raised {
		c.goFor(e.Instance, func(ctx context.Context) {
			rctx, cancel := context.WithTimeout(ctx, stopGrace+claimMargin)
			defer cancel()
			c.remove(rctx, dead, nil)
			c.replace(dead.App)
		})
	}
}

// Suspect says that an instance which should be ready refuses connections. Its
// container is looked at: the event of its death may be late, or lost. It
// never blocks.
func (c *Controller) Suspect(instance string) {
	c.goFor("suspect "+instance, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		in, ok := c.find(instance)
		if !ok || in.State != router.Ready {
			return
		}
		k, err := c.Runtime.Inspect(ctx, in)
		switch {
		case router.CodeOf(err) == router.CodeNotFound && err != nil:
			c.onDeath(ctx, router.ContainerEvent{App: in.App, Instance: in.ID, ExitCode: -1})
		case err == nil && k.State == router.ContainerExited:
			c.onDeath(ctx, router.ContainerEvent{App: in.App, Instance: in.ID, Container: k.ID, ExitCode: k.ExitCode, OOM: k.OOM})
		}
	})
}

// find looks an instance up by its ID alone.
func (c *Controller) find(instance string) (router.Instance, bool) {
	app := instance
	for range 2 { // APP-RELEASE-CHANCE
		if i := strings.LastIndexByte(app, '-'); i > 0 {
			app = app[:i]
		}
	}
	st, ok := c.Catalog.Get(app)
	if !ok {
		return router.Instance{}, false
	}
	in, ok := st.Instance(instance)
	if !ok {
		return router.Instance{}, false
	}
	return *in, true
}

// replace brings back what a death took from an app that must not be without:
// one with min, once its backoff has passed. Others come back with the next
// request.
func (c *Controller) replace(app string) {
	st, ok := c.Catalog.Get(app)
	if !ok || st.App.Policy.Min == 0 || c.Now().Before(st.App.Crash.Until) {
		return // the tick does it after the backoff
	}
	c.raiseTo(st, st.App.Policy.Min, c.Now())
}

func deathReason(exit int, oom bool) string {
	switch {
	case oom:
		return "killed for using more memory than resources.memory allows"
	case exit < 0:
		return "its container was removed by somebody else"
	case exit == 137:
		return "killed (exit code 137)"
	case exit > 128 && exit < 160:
		return fmt.Sprintf("ended by signal %d (exit code %d)", exit-128, exit)
	}
	return fmt.Sprintf("exited with code %d", exit)
}
