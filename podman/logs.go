package podman

import (
	"context"
	"errors"
	"sort"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fluxgate/fluxgate/router"
)

// LogOptions choose lines of an app's log.
type LogOptions struct {
	Lines  int       // only the last so many of those before now; 0: all
	Since  time.Time // only lines from then on; the zero time: all that are kept
	Follow bool      // go on with new lines until the context ends

	// Instances are the app's instances now, for Follow: those that appear are
	// followed too. Without it, those given in the call are followed.
	Instances func() []router.Instance
}

// followEvery is how often a follower looks for new instances, and for
// containers that were started again.
const followEvery = 500 * time.Millisecond

// logSource is where an instance's log is read.
type logSource func(in router.Instance) (*Node, bool)

// appLogs reads the log of one app from its archive and its containers.
type appLogs struct {
	app     string
	node    logSource
	archive *archive
}

// run calls fn for the lines of the app in the order of their times, from one
// goroutine. An error of fn ends it and is returned. Without Follow it returns
// when all is read; with Follow at the end of ctx, without an error.
func (a appLogs) run(ctx context.Context, instances []router.Instance, o LogOptions, fn func(router.LogLine) error) error {
	lines, marks, err := a.past(ctx, instances, o)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := fn(l); err != nil {
			return err
		}
	}
	if !o.Follow {
		return nil
	}
	return a.follow(ctx, instances, o, marks, fn)
}

// mark is how far an instance's log has been read. The API's times are whole
// seconds, so it counts lines within the last one.
type mark struct {
	second time.Time
	lines  int
}

func (m *mark) pass(l router.LogLine) {
	second := l.At.Truncate(time.Second)
	if !second.Equal(m.second) {
		m.second, m.lines = second, 0
	}
	m.lines++
}

// past is everything up to now, merged by time.
func (a appLogs) past(ctx context.Context, instances []router.Instance, o LogOptions) ([]router.LogLine, map[string]mark, error) {
	live := make([][]router.LogLine, len(instances))
	at := make([]mark, len(instances))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(inspectsAtOnce)
	for i, in := range instances {
		node, ok := a.node(in)
		if !ok {
			continue
		}
		group.Go(func() error {
			if node.Node().Down {
				return router.Errorf(router.CodeUnavailable, "node %s does not answer, and the log of %s is there: `fluxgate node ls` shows it", node.name, in.ID)
			}
			err := node.containerLog(gctx, in.ID, logQuery{}, func(l router.LogLine) error {
				at[i].pass(l)
				live[i] = append(live[i], l)
				if o.Lines > 0 && len(live[i]) > 2*o.Lines {
					live[i] = append(live[i][:0], live[i][len(live[i])-o.Lines:]...)
				}
				return nil
			})
			if isCode(err, router.CodeNotFound) {
				return nil // not created yet, or gone into the archive
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	marks := make(map[string]mark)
	for i, in := range instances {
		marks[in.ID] = at[i]
	}
	// After the containers, so that the log of one that is removed meanwhile is
	// found in at least one place.
	archived, err := a.archive.read(a.app)
	if err != nil {
		return nil, nil, err
	}
	lines := archived[:0]
	for _, l := range archived {
		if marks[l.Instance].lines == 0 {
			lines = append(lines, l)
		}
	}
	for _, l := range live {
		lines = append(lines, l...)
	}
	if !o.Since.IsZero() {
		since := o.Since.Truncate(time.Second)
		kept := lines[:0]
		for _, l := range lines {
			if !l.At.Before(since) {
				kept = append(kept, l)
			}
		}
		lines = kept
	}
	sort.SliceStable(lines, func(i, j int) bool { return lines[i].At.Before(lines[j].At) })
	if o.Lines > 0 && len(lines) > o.Lines {
		lines = lines[len(lines)-o.Lines:]
	}
	return lines, marks, nil
}

// follow passes on new lines of all instances, present and to come.
func (a appLogs) follow(ctx context.Context, instances []router.Instance, o LogOptions, marks map[string]mark, fn func(router.LogLine) error) error {
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan router.LogLine)
	var followers errgroup.Group
	defer func() { cancel(); _ = followers.Wait() }()

	followed := make(map[string]bool)
	start := func(all []router.Instance) {
		for _, in := range all {
			node, ok := a.node(in)
			if !ok || followed[in.ID] {
				continue
			}
			followed[in.ID] = true
			m := marks[in.ID]
			followers.Go(func() error {
				node.followInstance(ctx, in.ID, m, out)
				return nil
			})
		}
	}
	start(instances)
	look := time.NewTicker(followEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-out:
			if err := fn(l); err != nil {
				return err
			}
		case <-look.C:
			if o.Instances != nil {
				start(o.Instances())
			}
		}
	}
}

// followInstance sends the lines after m until ctx ends or the container is
// gone. The engine ends the stream with the container, which may be started
// again: then it goes on from where it was.
func (n *Node) followInstance(ctx context.Context, instance string, m mark, out chan<- router.LogLine) {
	seen := false
	for {
		skip := m.lines
		err := n.containerLog(ctx, instance, logQuery{since: m.second, follow: true}, func(l router.LogLine) error {
			seen = true
			if skip > 0 && l.At.Truncate(time.Second).Equal(m.second) {
				skip--
				return nil
			}
			skip = 0
			m.pass(l)
			select {
			case out <- l:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if isCode(err, router.CodeNotFound) && (seen || m.lines > 0) {
			return // it was there, and has been removed
		}
		if err != nil && ctx.Err() == nil && !isCode(err, router.CodeNotFound) && !errors.Is(err, context.Canceled) {
			n.log.Debug("following a log was interrupted", "instance", instance, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(followEvery):
		}
	}
}
