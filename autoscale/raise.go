package autoscale

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// claimMargin is how long a claim outlives the deadline of what it is for, so
// that it cannot run out while its holder still works.
const claimMargin = 10 * time.Second

// tailLines is how much of a container's output goes into an error.
const tailLines = 20

// errAbort ends an Update without a write and without an error to report.
var errAbort = errors.New("nothing to do")

// raising is an instance that this process has claimed and is getting ready.
type raising struct {
	in      router.Instance
	rel     router.Release
	step    step
	phases  []router.Phase
	started time.Time
	first   bool // no other instance of the release was ready or on its way
	// offline: Redis could not be asked; the instance is woken without a claim,
	// which for a thaw or start is safe to do twice.
	offline bool
	late    <-chan claimed // for offline: the claim that the store has not answered yet; nil: it was not asked
	held    []string       // instances marked by hold
	probing func()         // called when the probe begins; nil: nobody wants to know
}

func (r *raising) phase(name string, since time.Time, now time.Time) {
	r.phases = append(r.phases, router.Phase{Name: name, Took: now.Sub(since)})
}

// claim writes into st that holder gets one more instance of rel ready, the
// way that s and id say. node is where a new one goes.
func claim(st *router.AppState, s step, id string, rel router.Release, node, holder string, now time.Time) (router.Instance, error) {
	until := router.Claim{Holder: holder, Op: string(s), Until: now.Add(st.App.Policy.WakeDeadline.D() + claimMargin)}
	if s == stepCreate {
		in := router.Instance{
			ID: id, App: st.App.Name, Release: rel.Number, Node: node,
			State: router.Starting, Since: now, Claim: until,
		}
		st.PutInstance(in)
		return in, nil
	}
	in, ok := st.Instance(id)
	if !ok {
		return router.Instance{}, router.Errorf(router.CodeConflict, "instance %s is gone", id)
	}
	if s == stepCancel {
		return *in, in.To(router.Ready, now)
	}
	if err := in.To(router.Starting, now); err != nil {
		return *in, err
	}
	in.Claim = until
	return *in, nil
}

// claimStep claims, for r, the instance that s and id say, or a new one where
// there is room for it.
func (c *Controller) claimStep(st *router.AppState, r *raising, s step, id string, rel router.Release, now time.Time) error {
	return c.claimStepOn(st, r, s, id, rel, now, nil)
}

// claimStepOn is claimStep with the nodes' accounts, in which a new instance is
// counted; nil: as they are.
func (c *Controller) claimStepOn(st *router.AppState, r *raising, s step, id string, rel router.Release, now time.Time, nodes []Candidate) error {
	node := ""
	if s == stepCreate {
		if nodes == nil {
			nodes = c.candidates(st.App.Name, &rel)
		}
		var err error
		if node, err = Place(st.App.Name, rel.Run.Placement, rel.Run.Reserve, nodes); err != nil {
			return err
		}
		occupy(nodes, node, st.App.Name, rel.Run.Reserve)
		id = router.NewInstanceID(st.App.Name, rel.Number)
	}
	c.hold(r, id)
	r.first = st.Count(rel.Number, router.Ready, router.Starting) == 0
	in, err := claim(st, s, id, rel, node, c.Gateway, now)
	r.in, r.rel, r.step = in, rel, s
	return err
}

// update is the store's Update for claims: where the store knows that others
// have filled the chosen node meanwhile, fn chooses again.
func (c *Controller) update(ctx context.Context, app string, fn func(*router.AppState) error) error {
	for tries := 0; ; tries++ {
		_, err := c.Store.Update(ctx, app, fn)
		var full *router.FullError
		if !errors.As(err, &full) || tries >= len(c.Runtime.Nodes()) {
			return err
		}
		c.ledger.full(full, c.Now())
	}
}

// bring gets a claimed instance to the point where it answers: thawed, started
// or created, and probed. It does not write the record.
func (c *Controller) bring(ctx context.Context, r *raising) error {
	if r.step == stepStart || r.step == stepCreate {
		c.makeRoom(ctx, r)
	}
	switch r.step {
	case stepThaw:
		t := c.Now()
		err := c.engine(ctx, r.in.Node, func(ctx context.Context) error { return c.Runtime.Thaw(ctx, r.in) })
		r.phase("thaw", t, c.Now())
		if err != nil {
			return err
		}
		// It was healthy when it was frozen. That it still listens shows in one
		// connection; a health check would take longer than the thaw.
		return c.probeOrDeath(ctx, r, router.Run{Port: r.rel.Run.Port})
	case stepCreate, stepStart:
		if err := c.start(ctx, r); err != nil {
			return err
		}
	}
	if r.probing != nil {
		r.probing()
	}
	return c.probeOrDeath(ctx, r, r.rel.Run)
}

// start creates the container, where there is none yet, and starts it when it is
// its turn on the node. Creating does not wait: it is quick, unless the image has
// to be fetched, for which nobody else should wait.
func (c *Controller) start(ctx context.Context, r *raising) error {
	if r.step == stepCreate {
		t := c.Now()
		err := c.engine(ctx, r.in.Node, func(ctx context.Context) (err error) {
			r.in.Container, err = c.Runtime.Create(ctx, r.in, r.rel)
			return err
		})
		r.phase("create", t, c.Now())
		if err != nil {
			return c.engineFailed(ctx, r, err)
		}
	}
	t := c.Now()
	var leave func()
	err := c.engine(ctx, r.in.Node, func(ctx context.Context) (err error) {
		leave, err = c.gates.enter(ctx, r.in.Node, c.startsAtOnce(r.in.Node), r.in.App, r.in.ID, r.first)
		return err
	})
	if waited := c.Now().Sub(t); waited > time.Millisecond {
		r.phase("turn", t, c.Now())
	}
	if err != nil {
		return err
	}
	defer leave()
	t = c.Now()
	addr := ""
	err = c.engine(ctx, r.in.Node, func(ctx context.Context) (err error) {
		addr, err = c.Runtime.Start(ctx, r.in)
		return err
	})
	r.phase("start", t, c.Now())
	if err != nil {
		return c.engineFailed(ctx, r, err)
	}
	r.in.Addr = addr
	return nil
}

// engineFailed notes an error of a node's engine that is not the app's fault.
func (c *Controller) engineFailed(ctx context.Context, r *raising, err error) error {
	if router.CodeOf(err) != router.CodeFailed && ctx.Err() == nil {
		c.ledger.failed(r.in.Node, c.Now())
	}
	return err
}

// probeOrDeath probes until the instance answers as run says, ctx ends, or the
// container's death is noticed.
func (c *Controller) probeOrDeath(ctx context.Context, r *raising, run router.Run) error {
	t := c.Now()
	defer func() { r.phase("probe", t, c.Now()) }()
	pctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		st, err := c.Catalog.Await(pctx, r.in.App, func(st *router.AppState) bool {
			in, ok := st.Instance(r.in.ID)
			return !ok || in.State == router.Failed
		})
		switch {
		case pctx.Err() != nil:
		case err != nil:
			cancel(err)
		default:
			reason := "it was removed"
			if in, ok := st.Instance(r.in.ID); ok {
				reason = in.Reason
			}
			cancel(router.Errorf(router.CodeFailed, "%s", reason))
		}
	}()
	err := probe(pctx, c.dialer(r.in.Node), r.in.Addr, run)
	death := context.Cause(pctx)
	cancel(nil)
	<-done
	if err == nil {
		return nil
	}
	if death != nil && ctx.Err() == nil {
		return death
	}
	what := fmt.Sprintf("nothing answers on port %d", run.Port)
	if run.Health != "" {
		what = fmt.Sprintf("%s on port %d is not healthy", run.Health, run.Port)
	}
	return router.Errorf(router.CodeFailed, "%s (%s); the app must listen on 0.0.0.0:$PORT, or set http.port in fluxgate.toml", what, lastError(err))
}

// lastError drops the machinery's addresses from a network error.
func lastError(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, ": "); i >= 0 && strings.Contains(s[:i], "dial tcp") {
		s = s[i+2:]
	}
	return s
}

// settle writes that raised instances are ready, and what more does, at once.
func (c *Controller) settle(ctx context.Context, app string, raised []*raising, more func(*router.AppState) error) (router.AppState, error) {
	return c.Store.Update(ctx, app, func(st *router.AppState) error {
		for _, r := range raised {
			in, ok := st.Instance(r.in.ID)
			if !ok {
				return router.Errorf(router.CodeConflict, "instance %s was removed while it started", r.in.ID)
			}
			if err := in.To(router.Ready, c.Now()); err != nil {
				return err
			}
			in.Container, in.Addr = r.in.Container, r.in.Addr
		}
		if more != nil {
			return more(st)
		}
		return nil
	})
}

// scrap removes the container and the record of an instance that did not come
// up, counts it as a crash where crash is set, and returns cause with the
// container's last lines. It works on although ctx may have ended.
func (c *Controller) scrap(ctx context.Context, r *raising, cause error, crash bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	told := c.withTail(ctx, r.in, cause)
	c.remove(ctx, r.in, func(st *router.AppState) {
		if in, ok := st.Instance(r.in.ID); crash && (!ok || in.State != router.Failed) {
			// A death that was noticed as an event is counted already.
			st.App.Crash = st.App.Crash.After(c.Now(), firstLine(cause.Error()))
		}
	})
	return told
}

// withTail is cause with the container's last lines.
func (c *Controller) withTail(ctx context.Context, in router.Instance, cause error) error {
	tail, err := c.Runtime.Tail(ctx, in, tailLines)
	if tail = strings.TrimRight(tail, "\n"); err != nil || tail == "" {
		return cause
	}
	return router.Errorf(router.CodeOf(cause), "%w\nits last lines:\n%s", cause, indent(tail))
}

// remove deletes an instance's container, then its record; the record stays
// where the container could not be removed, for the next reconciliation.
func (c *Controller) remove(ctx context.Context, in router.Instance, more func(*router.AppState)) {
	err := errSilent(in.Node)
	if !c.down(in.Node) {
		err = c.Runtime.Remove(ctx, in)
	}
	if err != nil {
		c.Log.Warn("container not removed, will be tried again", "instance", in.ID, "node", in.Node, "err", err)
	}
	// A node that hangs has used up the time; the record has its own.
	wctx, cancel := context.WithTimeout(c.ctx, routeDeadline)
	defer cancel()
	_, uerr := c.Store.Update(wctx, in.App, func(st *router.AppState) error {
		if st.Version == 0 {
			return errAbort
		}
		if more != nil {
			more(st)
		}
		if err == nil {
			st.DropInstance(in.ID)
			return nil
		}
		if p, ok := st.Instance(in.ID); ok {
			p.State, p.Claim, p.Reason = router.Failed, router.Claim{}, "its container could not be removed"
		}
		return nil
	})
	if uerr != nil && !errors.Is(uerr, errAbort) {
		c.Log.Warn("instance not dropped, will be tried again", "instance", in.ID, "err", uerr)
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }
