package autoscale

import (
	"context"
	"errors"
	"slices"

	"github.com/fluxgate/fluxgate/router"
)

// engineCall is a call to a node's engine that a request or a deploy waits for.
type engineCall struct {
	node string
	end  context.CancelCauseFunc
}

// engine makes a call to a node's engine that ends when the engine is found not
// to answer and another node may do instead: its own deadline is for engines
// that are slow, and longer than anybody wants to wait for one that hangs.
func (c *Controller) engine(ctx context.Context, node string, call func(context.Context) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	k := &engineCall{node, end}
	c.mu.Lock()
	c.calls[k] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, k)
		c.mu.Unlock()
	}()
	err := call(ctx)
	var silent *router.Error
	if err != nil && errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return err
}

// hurry gives up the calls to a node that does not answer, if another may do.
func (c *Controller) hurry(node string) {
	c.mu.Lock()
	var calls []*engineCall
	for k := range c.calls {
		if k.node == node {
			calls = append(calls, k)
		}
	}
	c.mu.Unlock()
	if len(calls) == 0 || !c.elsewhere(node) {
		return
	}
	for _, k := range calls {
		k.end(errSilent(node))
	}
}

// elsewhere reports whether a node other than this one takes instances.
func (c *Controller) elsewhere(node string) bool {
	return slices.ContainsFunc(c.Runtime.Nodes(), func(n *router.Node) bool { return n.Name != node && !n.Down && !n.Cordoned })
}

// shun reports whether what sleeps on a node is to be left asleep: the node does
// not answer, and another takes instances. A new start there is sooner done than
// a call that hangs.
func (c *Controller) shun(node string) bool { return c.down(node) && c.elsewhere(node) }

// down reports whether a node is known not to answer.
func (c *Controller) down(node string) bool {
	n, ok := c.Runtime.Node(node)
	return ok && n.Down
}

// cordoned reports whether a node is to be empty.
func (c *Controller) cordoned(node string) bool {
	n, ok := c.Runtime.Node(node)
	return ok && n.Cordoned
}

func errSilent(node string) error {
	return router.Errorf(router.CodeUnavailable, "node %s does not answer", node)
}

// leave lets go of an instance whose node does not answer: what slept goes on
// sleeping as far as anybody can tell, and what was being created is removed
// when the node is back. Nothing is asked of the node now.
func (c *Controller) leave(ctx context.Context, r *raising, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), routeDeadline)
	defer cancel()
	c.ledger.failed(r.in.Node, c.Now())
	_, err := c.Store.Update(ctx, r.in.App, func(st *router.AppState) error {
		in, ok := st.Instance(r.in.ID)
		if !ok || in.State != router.Starting || in.Claim.Holder != c.Gateway {
			return errAbort
		}
		in.Claim = router.Claim{}
		switch r.step {
		case stepThaw:
			return in.To(router.Frozen, c.Now())
		case stepStart:
			return in.To(router.Stopped, c.Now())
		}
		in.Reason = firstLine(cause.Error())
		return in.To(router.Failed, c.Now())
	})
	if err != nil {
		c.logFailure(err, "an instance left on a silent node", r.in.ID)
	}
}
