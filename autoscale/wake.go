package autoscale

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Wake brings an app to at least one ready instance of its serving release and
// returns what that took. When it returns, the Catalog holds the instance. It
// may be called by many at once, here and on other gateways: the claim in the
// store lets one of them start something, the others wait for it.
//
// Errors: CodeNotFound (no such app, or nothing deployed), CodeUnavailable with
// RetryAfter (the app keeps crashing, no room, ctx ended, or Redis is away and
// the app has no container to wake).
func (c *Controller) Wake(ctx context.Context, app string) (router.Wake, error) {
	started := c.Now()
	c.Kick(app) // one instance may not be enough for those that wait
	var last error
	offline := true // until it was tried in vain: then only the store can tell another way
	waits := 0
	for {
		r, err := c.claimWake(ctx, app, offline)
		switch {
		case c.awaitRoom(ctx, app, err, &waits):
			continue
		case err != nil:
			return router.Wake{}, c.wakeError(app, err, last)
		case r == nil: // ready already
			return router.Wake{App: app, From: router.RungReady, At: started, Took: c.Now().Sub(started)}, nil
		}
		r.started = started
		if r.step != stepCancel {
			err = c.carry(ctx, r)
		}
		c.letGo(r)
		if err == nil {
			w := router.Wake{App: app, Instance: r.in.ID, From: r.step.rung(), Phases: r.phases, At: started, Took: c.Now().Sub(started)}
			c.noteWake(w)
			return w, nil
		}
		offline = offline && !r.offline
		c.Log.Warn("wake failed", "app", app, "instance", r.in.ID, "step", string(r.step), "err", firstLine(err.Error()))
		c.note(app, router.Event{Kind: "crash", Text: fmt.Sprintf("%s did not come up (%s): %s", r.in.ID, r.step, firstLine(err.Error())), Phases: r.phases})
		silent := router.CodeOf(err) == router.CodeUnavailable && !r.offline
		if ctx.Err() != nil || router.CodeOf(err) == router.CodeExhausted || silent && !c.elsewhere(r.in.Node) {
			return router.Wake{}, c.wakeError(app, err, err)
		}
		last = err
	}
}

// claimWake claims the way to a ready instance; nil where one is ready. It
// waits while others are at it. With offline, it does not wait for a store that
// does not answer where the app has a sleeping instance.
func (c *Controller) claimWake(ctx context.Context, app string, offline bool) (*raising, error) {
	for {
		got := c.claimSoon(ctx, app, offline)
		if got.err != nil || got.wait == "" {
			return got.r, got.err
		}
		c.gates.hurry(got.wait)
		if err := c.awaitChange(ctx, app, got.wait); err != nil {
			return nil, err
		}
	}
}

// claimed is what became of asking the store for a claim: an instance to raise,
// one to wait for, an error, or none of these where one is ready.
type claimed struct {
	r      *raising
	wait   string
	err    error
	silent bool // err is the store's: it does not answer
}

// claimOnce asks the store once.
func (c *Controller) claimOnce(ctx context.Context, app string) claimed {
	r := &raising{}
	wait := ""
	var refusal error // ours, not the store's
	t := c.Now()
	decide := func(st *router.AppState) (err error) {
		defer func() { refusal = err }()
		rel, ok := st.Serving()
		if st.Version == 0 || !ok {
			return router.Errorf(router.CodeNotFound, "there is no app %q, or nothing is deployed", app)
		}
		now := c.Now()
		s, id := planWake(st, c.Gateway, now, c.shun)
		r.step, wait = s, ""
		switch s {
		case stepNone:
			return errAbort
		case stepWait:
			wait = id
			return errAbort
		case stepStart, stepCreate:
			if now.Before(st.App.Crash.Until) {
				return &router.Error{
					Code: router.CodeUnavailable, RetryAfter: st.App.Crash.Until.Sub(now),
					Message: fmt.Sprintf("%s stopped %d times in a row (%s); the next try is in %s", app, st.App.Crash.Count, st.App.Crash.Reason, st.App.Crash.Until.Sub(now).Round(time.Second)),
				}
			}
		}
		return c.claimStep(st, r, s, id, *rel, now)
	}
	err := c.update(ctx, app, decide)
	r.phase("claim", t, c.Now())
	if err != nil {
		c.letGo(r)
	}
	switch {
	case err == nil:
		return claimed{r: r}
	case refusal == nil && router.CodeOf(err) == router.CodeUnavailable:
		return claimed{err: err, silent: true}
	case !errors.Is(err, errAbort):
		return claimed{err: err}
	}
	return claimed{wait: wait}
}

// awaitChange waits until somebody's work on an instance ends or its claim runs
// out.
func (c *Controller) awaitChange(ctx context.Context, app, instance string) error {
	st, ok := c.Catalog.Get(app)
	if !ok {
		return router.Errorf(router.CodeNotFound, "there is no app %q", app)
	}
	in, ok := st.Instance(instance)
	if !ok {
		return nil
	}
	before := *in
	left := time.Until(before.Claim.Until)
	if left <= 0 {
		// The claim seen in the store is not in the Catalog yet.
		left = 50 * time.Millisecond
	}
	wctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	_, err := c.Catalog.Await(wctx, app, func(st *router.AppState) bool {
		in, ok := st.Instance(instance)
		return !ok || in.State != before.State || in.Claim != before.Claim
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if router.CodeOf(err) == router.CodeNotFound {
		return err
	}
	return nil
}

// carry brings a claimed instance up, or undoes it. When it returns, requests
// may go to the instance: the Catalog says so, and the record soon will.
func (c *Controller) carry(ctx context.Context, r *raising) error {
	if r.offline {
		return c.carryOffline(ctx, r)
	}
	if err := c.bring(ctx, r); err != nil {
		return c.giveUp(ctx, r, err)
	}
	ready := r.in
	ready.State, ready.Claim, ready.Since = router.Ready, router.Claim{}, c.Now()
	c.Catalog.Amend(ready.App, func(st *router.AppState) {
		// Only what was claimed is ours to change.
		if in, ok := st.Instance(ready.ID); ok && in.State == router.Starting {
			*in = ready
		}
	})
	held := &raising{}
	c.hold(held, r.in.ID)
	c.group.Go(func() {
		defer c.letGo(held)
		c.writeReady(r)
	})
	return nil
}

// writeReady writes down that an instance serves. Where that cannot be, because
// its app or its record went meanwhile, its container goes, too.
func (c *Controller) writeReady(r *raising) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), routeDeadline)
	defer cancel()
	_, err := c.settle(ctx, r.in.App, []*raising{r}, nil)
	switch {
	case err == nil:
	case router.CodeOf(err) == router.CodeUnavailable:
		// Redis went away in between: the instance runs, so let it serve.
		c.saveLater(r.in)
	default:
		c.Log.Warn("an instance came up for nothing", "instance", r.in.ID, "err", err)
		c.remove(ctx, r.in, nil)
	}
}

// giveUp undoes what was begun: an instance that did not thaw or start is
// scrapped, so that the next try makes a new one; one whose node does not answer
// is left there, so that the next try goes elsewhere at once.
func (c *Controller) giveUp(ctx context.Context, r *raising, cause error) error {
	if router.CodeOf(cause) == router.CodeUnavailable {
		c.leave(ctx, r, cause)
		return cause
	}
	// An engine that failed or a caller that gave up is not the app's crash.
	crash := router.CodeOf(cause) == router.CodeFailed && r.step != stepThaw
	return c.scrap(ctx, r, cause, crash)
}

// wakeError makes what a gateway shows of a failed wake.
func (c *Controller) wakeError(app string, err, last error) error {
	switch router.CodeOf(err) {
	case router.CodeNotFound, router.CodeUnavailable:
		return err
	}
	retry := time.Duration(0) // but for a backoff, the gateway's own measurements tell better
	if st, ok := c.Catalog.Get(app); ok {
		retry = max(retry, st.App.Crash.Until.Sub(c.Now()))
	}
	if last != nil {
		err = last
	}
	return &router.Error{Code: router.CodeUnavailable, RetryAfter: retry, Message: fmt.Sprintf("%s could not be woken: %s", app, firstLine(err.Error()))}
}

func (c *Controller) noteWake(w router.Wake) {
	c.note(w.App, router.Event{
		At: w.At, Kind: "wake",
		Text:   fmt.Sprintf("woken from %s in %s", w.From, w.Took.Round(10*time.Microsecond)),
		Fields: map[string]string{"instance": w.Instance, "from": string(w.From)},
		Phases: w.Phases,
	})
}
