// Package autoscale decides how many instances an app has, where they run and
// how deep idle ones sleep, and carries it out: wakes, scaling, the idle
// ladder, deploys, and the reconciliation of records with containers.
//
// What decides is pure (package decide, place.go, ladder.go, plan.go); what
// carries out is the Controller.
package autoscale

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Store is where records live. Update must apply the result to the Catalog
// before it returns, so that whoever waits there goes on at once.
type Store interface {
	Load(ctx context.Context, app string) (router.AppState, error)
	Update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error)
}

// Runtime runs containers on the node that an instance names. Every method is
// safe to repeat and safe to call concurrently.
type Runtime interface {
	// Create makes the container and returns its ID; a container that exists
	// already under the instance's ID is returned as it is.
	Create(ctx context.Context, in router.Instance, rel router.Release) (string, error)
	// Start starts the container and returns where it answers from now on.
	Start(ctx context.Context, in router.Instance) (string, error)
	Freeze(ctx context.Context, in router.Instance) error
	Thaw(ctx context.Context, in router.Instance) error
	// Stop ends the container, frozen or running, and keeps it; it is killed
	// after grace.
	Stop(ctx context.Context, in router.Instance, grace time.Duration) error
	// Remove ends and deletes the container and keeps its last log lines.
	Remove(ctx context.Context, in router.Instance) error
	// Tail is the last lines that the container wrote.
	Tail(ctx context.Context, in router.Instance, lines int) (string, error)
	// Inspect looks at one container; CodeNotFound where there is none.
	Inspect(ctx context.Context, in router.Instance) (router.Container, error)
	// Containers lists ours on those of the named nodes that answer, or of all
	// where none is named, and names these.
	Containers(ctx context.Context, nodes ...string) (list []router.Container, answered []string)
	// Dial connects to where an instance on a node answers.
	Dial(ctx context.Context, node, addr string) (net.Conn, error)
	// Events calls fn for every event until ctx ends.
	Events(ctx context.Context, fn func(router.ContainerEvent))
	// Nodes are the nodes as last checked, by name; shared, not to be changed.
	Nodes() []*router.Node
	// Node is one of them by its name, without looking at all.
	Node(name string) (*router.Node, bool)
	// PruneImages removes our images but those in keep, and those that were
	// built so lately that no release may name them yet.
	PruneImages(ctx context.Context, keep []string) error
	// DropLogs forgets what is kept of an app's removed containers.
	DropLogs(app string) error
}

// Signals are what gateways measured.
type Signals interface {
	Rates(ctx context.Context, from, to time.Time) (map[int64]map[string]router.Sample, error)
	LastActive(ctx context.Context, apps []string) (map[string]time.Time, error)
}

// Cluster is what the gateways on one Redis know of each other.
type Cluster interface {
	// Lead tries to become or stay the one that ticks.
	Lead(ctx context.Context) (bool, error)
	Gateways(ctx context.Context) ([]string, error)
	// DrainAcks are the gateways that have let go of a draining instance, by
	// its DrainID.
	DrainAcks(ctx context.Context, drain string) ([]string, error)
	ClearAcks(ctx context.Context, drain string) error
}

// Journal keeps what happened to an app for `fluxgate why`.
type Journal interface {
	Record(ctx context.Context, app string, events ...router.Event) error
}

// Gauge reads the local gateway's live counters of one app.
type Gauge interface {
	Load(app string) (inFlight, queued int)
}

// Locality knows which images are where.
type Locality interface {
	// Missing is how many bytes of an image each node would have to fetch
	// before it can run it; nodes that lack none may be left out. It must
	// answer from memory.
	Missing(image string) map[string]router.Bytes

	// Prefetch brings an app's image to a node; one that is there is fine.
	Prefetch(ctx context.Context, node, app, image string) error
}

// Options are what a Controller stands on. All fields are required but Gauge,
// Memories, Locality, Recorder, Meters, Usages, Machines, Now and Log.
type Options struct {
	Gateway string // this process, as claims and acknowledgements name it
	Catalog *router.Catalog
	Store   Store
	Runtime Runtime
	Signals Signals
	Cluster Cluster
	Journal Journal
	Gauge   Gauge

	Memories Memories // may be nil: then what is learned of apps ends with the process
	Locality Locality // may be nil: then images are taken to be everywhere
	Recorder Recorder // may be nil: then traffic is not recorded
	Meters   Meters   // may be nil: then nobody looks at what instances use
	Usages   Usages   // goes with Meters

	Machines Machines // may be nil: then nothing makes room on nodes that run short

	Tick time.Duration // how often the lease holder decides; 1 s when 0
	Now  func() time.Time
	Log  *slog.Logger
}

// Controller carries decisions out. Its methods may be called concurrently,
// from New on; Run must run for ticks, drains and container deaths to be
// handled.
type Controller struct {
	Options
	minds   minds
	agenda  agenda
	folded  int64           // last second that ticks took in; the tick loop's alone
	cordons map[string]bool // nodes, as the last tick saw them; the tick loop's alone
	ledger  *ledger
	gates   *gates
	journal chan entry
	kicks   chan string
	leads   atomic.Bool // this process holds the lease, as of the last tick
	away    atomic.Bool // Redis was asked and did not answer, and has not answered since
	claims  *claims

	lastTick atomic.Pointer[TickReport]

	prune     rounds // of images
	strains   strains
	relief    rounds // of making room on nodes that run short
	abandons  rounds // of letting go of what was on lost nodes
	reconcile struct {
		rounds
		nodes pending // to be looked at
	}

	mu     sync.Mutex
	busy   map[string]bool      // instances that a goroutine of ours is lowering or removing
	raised map[string]int       // instances that calls of ours are getting ready
	saving map[string]unsaved   // changes made while Redis was away
	calls  map[*engineCall]bool // under way, of those that may be given up for another node
	leases map[string]time.Time // wishes of busy instances that are being written
	group  sync.WaitGroup
	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
}

type entry struct {
	app   string
	event router.Event
}

// New makes a Controller; Close it.
func New(o Options) *Controller {
	if o.Tick == 0 {
		o.Tick = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Controller{
		Options: o,
		ledger:  newLedger(o.Catalog),
		claims:  newClaims(o.Catalog),
		gates:   newGates(),
		journal: make(chan entry, 1024),
		kicks:   make(chan string, 256),
		busy:    map[string]bool{},
		raised:  map[string]int{},
		saving:  map[string]unsaved{},
		calls:   map[*engineCall]bool{},
		leases:  map[string]time.Time{},
		ctx:     ctx,
		cancel:  cancel,
	}
	o.Catalog.OnChange(func(prev, next *router.AppState) {
		c.learnWake(prev, next)
		c.notePlace(prev, next)
		if next != nil && (prev != nil || !rests(next)) {
			c.agenda.put(next.App.Name, c.Now())
		}
	})
	return c
}

// Run ticks, follows container events and keeps the journal, until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { c.Runtime.Events(ctx, func(e router.ContainerEvent) { c.onEvent(ctx, e) }) })
	loops.Go(func() { c.writeJournal(ctx) })
	loops.Go(func() { c.answerKicks(ctx) })
	if c.Recorder != nil {
		loops.Go(func() { c.recordTraffic(ctx) })
	}
	if c.Meters != nil {
		loops.Go(func() { c.gaugeUsage(ctx) })
	}
	c.tickLoop(ctx)
	loops.Wait()
}

// Close stops what the Controller still carries out and waits for it. What it
// leaves half done is taken up by the next one's reconciliation.
func (c *Controller) Close() {
	c.cancel()
	c.group.Wait()
}

// begin marks an instance as being worked on; false if it already is.
func (c *Controller) begin(instance string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[instance] {
		return false
	}
	c.busy[instance] = true
	return true
}

func (c *Controller) end(instance string) {
	c.mu.Lock()
	delete(c.busy, instance)
	c.mu.Unlock()
}

// hold marks an instance as being got ready here, for as long as r is under
// way; letGo ends that.
func (c *Controller) hold(r *raising, instance string) {
	if slices.Contains(r.held, instance) {
		return
	}
	r.held = append(r.held, instance)
	c.mu.Lock()
	c.raised[instance]++
	c.mu.Unlock()
}

func (c *Controller) letGo(r *raising) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range r.held {
		if c.raised[id]--; c.raised[id] == 0 {
			delete(c.raised, id)
		}
	}
	r.held = nil
}

// working reports whether anything here is changing an instance.
func (c *Controller) working(instance string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy[instance] || c.raised[instance] > 0
}

// goFor runs fn in a goroutine of the Controller's, at most one per instance.
func (c *Controller) goFor(instance string, fn func(context.Context)) {
	if c.ctx.Err() != nil || !c.begin(instance) {
		return
	}
	c.group.Go(func() {
		defer c.end(instance)
		fn(c.ctx)
	})
}

// note puts an event into the app's history without waiting for Redis; with
// the journal's queue full it is dropped, for history must not slow a wake.
func (c *Controller) note(app string, e router.Event) {
	if e.At.IsZero() {
		e.At = c.Now()
	}
	select {
	case c.journal <- entry{app, e}:
	default:
	}
}

func (c *Controller) writeJournal(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-c.journal:
			wctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			if err := c.Journal.Record(wctx, e.app, e.event); err != nil && ctx.Err() == nil {
				c.Log.Warn("history not written", "app", e.app, "err", err)
			}
			cancel()
		}
	}
}
