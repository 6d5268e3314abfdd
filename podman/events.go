package podman

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	"github.com/containers/podman/v4/pkg/domain/entities"

	"github.com/fluxgate/fluxgate/router"
)

const (
	eventsRetry  = 250 * time.Millisecond // the first wait before connecting again; doubles up to eventsRetryMax
	eventsMax    = 2 * time.Second
	eventsSettle = 300 * time.Millisecond // Podman answers before it listens to its own events
	eventsPing   = 3 * time.Second        // a silent stream may be that of an engine that hangs
)

// Events calls fn for every event of this installation's containers on the
// node, one at a time, until ctx ends. It connects again by itself. A
// NodeConnected comes whenever the stream is open: what happened before it may
// have been missed, so look at Containers then. A NodeUnanswered comes when it
// breaks.
func (n *Node) Events(ctx context.Context, fn func(router.ContainerEvent)) { n.follow(ctx, nil, fn) }

// follow is Events. A stream is opened when there is room in turns; nil has room
// for all.
func (n *Node) follow(ctx context.Context, turns chan struct{}, fn func(router.ContainerEvent)) {
	wait := eventsRetry
	for ctx.Err() == nil {
		opened, err := n.eventStream(ctx, turns, fn)
		if ctx.Err() != nil {
			return
		}
		n.log.Warn("the node's event stream broke; connecting again", "error", err)
		fn(router.ContainerEvent{Node: n.name, Kind: router.NodeUnanswered, At: time.Now()})
		if opened {
			wait = eventsRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, eventsMax)
	}
}

// eventStream follows one stream until it breaks. It reports whether it was
// ever open.
func (n *Node) eventStream(ctx context.Context, turns chan struct{}, fn func(router.ContainerEvent)) (opened bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if turns != nil {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	// The deadline is for the answer to begin; the stream itself has none. Where
	// it passes just then, reading the stream fails.
	late := time.AfterFunc(quickCall, func() { cancel(deadline{n.name, quickCall}) })
	body, err := n.openEvents(ctx)
	late.Stop()
	if turns != nil {
		<-turns
	}
	if err != nil {
		return false, err
	}
	defer body.Close()
	defer n.wire.drop()

	events := make(chan entities.Event)
	readErr := make(chan error, 1)
	go func() { // ends with the body, which is closed when this function returns
		dec := json.NewDecoder(body)
		for {
			var e entities.Event
			if err := dec.Decode(&e); err != nil {
				readErr <- err
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				readErr <- ctx.Err()
				return
			}
		}
	}()
	settled := time.After(eventsSettle)
	ping := time.NewTimer(n.beat(eventsPing))
	defer ping.Stop()
	for {
		select {
		case <-settled:
			fn(router.ContainerEvent{Node: n.name, Kind: router.NodeConnected, At: time.Now()})
		case e := <-events:
			n.died(ctx, e, fn)
		case <-ping.C:
			if err := n.Ping(ctx); err != nil {
				return true, err
			}
			ping.Reset(n.beat(eventsPing))
		case err := <-readErr:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return true, err
		}
	}
}

func (n *Node) openEvents(ctx context.Context) (io.ReadCloser, error) {
	filters, err := json.Marshal(map[string][]string{"type": {"container"}, "event": {"died"}, "label": {labelOwner + "=" + n.owner}})
	if err != nil {
		return nil, err
	}
	// A connection that lasts: it tells whether the machine is there.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { n.wire.hold(c.Conn) }})
	resp, err := n.request(ctx, http.MethodGet, "/events", url.Values{"stream": {"true"}, "filters": {string(filters)}}, nil, "")
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (n *Node) died(ctx context.Context, e entities.Event, fn func(router.ContainerEvent)) {
	labels := e.Actor.Attributes
	if e.Action != "died" || labels[labelInstance] == "" {
		return
	}
	code, _ := strconv.Atoi(labels["containerExitCode"])
	event := router.ContainerEvent{
		Node: n.name, Container: e.Actor.ID, Instance: labels[labelInstance], App: labels[labelApp],
		Kind: router.ContainerDied, ExitCode: code, At: time.Unix(0, e.TimeNano),
	}
	if code == 137 { // killed; only the container itself knows whether by the kernel
		ictx, cancel := context.WithTimeout(ctx, 2*time.Second) // a node that hangs is to be noticed here
		if c, err := n.inspect(ictx, e.Actor.ID); err == nil {
			event.OOM = c.State.OOMKilled
		}
		cancel()
	}
	fn(event)
}
