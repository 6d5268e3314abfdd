package autoscale

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// busyPause is how long it takes until a lease that could not be written is
// tried again. Nothing is stopped meanwhile, for that needs Redis, too.
const busyPause = time.Second

// Busy takes in that an instance asks not to be stopped before a time; one that
// is past ends what it asked before. It never blocks: what is asked for the same
// instance while an earlier wish is being written replaces it.
//
// A lease is granted within the policy's busy_max, counted from each time that
// it is asked for, and only to instances of the serving release: those of
// another one keep what they have. As long as it lasts, the instance is not
// drained, frozen or stopped. A removal of the app, the loss of its machine and
// the death of its container end it all the same.
func (c *Controller) Busy(app, instance string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, writing := c.leases[instance]
	c.leases[instance] = until
	if !writing && c.ctx.Err() == nil {
		c.group.Go(func() { c.writeLease(app, instance) })
	}
}

// writeLease writes an instance's wishes down until there is no newer one.
func (c *Controller) writeLease(app, instance string) {
	for {
		c.mu.Lock()
		until := c.leases[instance]
		c.mu.Unlock()
		err := c.grantLease(app, instance, until)
		retry := router.CodeOf(err) == router.CodeUnavailable && c.Now().Before(until)
		if err != nil && !retry {
			c.logFailure(err, "a busy lease", instance)
		}
		c.mu.Lock()
		done := !retry && c.leases[instance].Equal(until)
		if done {
			delete(c.leases, instance)
		}
		c.mu.Unlock()
		if done {
			return
		}
		if retry {
			select {
			case <-time.After(busyPause):
			case <-c.ctx.Done():
				return
			}
		}
	}
}

// Lease is Busy that waits until the lease is written, and returns until when it
// reaches; the zero time where there is none. CodeConflict: the instance gets no
// longer one, for its release does not serve, or it is not running.
func (c *Controller) Lease(ctx context.Context, app, instance string, until time.Time) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, routeDeadline)
	defer cancel()
	done := make(chan error, 1)
	c.group.Go(func() { done <- c.grantLease(app, instance, until) })
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, errAbort) {
			return time.Time{}, err
		}
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
	st, ok := c.Catalog.Get(app)
	if !ok {
		return time.Time{}, router.Errorf(router.CodeNotFound, "there is no app %q", app)
	}
	in, ok := st.Instance(instance)
	now := c.Now()
	if !ok || until.After(now) && !in.BusyUntil.After(now) {
		return time.Time{}, router.Errorf(router.CodeConflict, "%s gets no lease: it does not run, its release does not serve any more, or the policy's busy_max is 0", instance)
	}
	return in.BusyUntil, nil
}

func (c *Controller) grantLease(app, instance string, until time.Time) error {
	ctx, cancel := context.WithTimeout(c.ctx, routeDeadline)
	defer cancel()
	var began time.Time
	_, err := c.Store.Update(ctx, app, func(st *router.AppState) error {
		began = time.Time{}
		in, ok := st.Instance(instance)
		if !ok || in.State != router.Ready && in.State != router.Draining {
			return errAbort
		}
		now := c.Now()
		lease := router.Lease(until, now, st.App.Policy.BusyMax.D())
		if lease.Equal(in.BusyUntil) || in.Release != st.App.Current && lease.After(in.BusyUntil) {
			return errAbort
		}
		if !in.Busy(now) {
			began = lease
		}
		in.BusyUntil = lease
		return nil
	})
	if err == nil && !began.IsZero() {
		c.note(app, router.Event{
			Kind: "rung", Text: fmt.Sprintf("%s is busy, it asks not to be stopped before %s", instance, began.UTC().Format(time.RFC3339)),
			Fields: map[string]string{"instance": instance, "busy_until": began.UTC().Format(time.RFC3339)},
		})
	}
	return err
}
