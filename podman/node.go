// Package podman runs containers, builds images and reads logs and events on
// nodes, through the Podman v4 bindings against servers from 4.3 on. It knows
// instances and releases, and nothing of why they should run.
package podman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containers/podman/v4/pkg/bindings"

	"github.com/fluxgate/fluxgate/router"
)

// Labels of everything that an installation owns on a node.
const (
	labelOwner    = "fluxgate.owner"
	labelInstance = "fluxgate.instance"
	labelApp      = "fluxgate.app"
	labelRelease  = "fluxgate.release"
	labelPort     = "fluxgate.port"
	labelProbe    = "fluxgate.probe"
	labelImage    = "fluxgate.image" // of images: owner/app
)

// Deadlines of calls that have no natural length of their own. They are far
// beyond what a healthy node needs: they are for one that hangs.
const (
	quickCall  = 10 * time.Second // reads, pause and unpause
	changeCall = 60 * time.Second // create, start and remove, many of them at once
	buildCall  = time.Hour
	copyCall   = 15 * time.Minute // one image from one node to another
)

// idleConn is how long a connection that nobody uses is kept. Pings keep one
// open.
const idleConn = 10 * time.Second

// manyNodes are so many that what every gateway does for each of them now and
// then adds up: connections, which are files, and calls.
const manyNodes = 1000

// beat is how long to wait between two looks at the node, of which one is to
// follow the other after usual: with more than manyNodes, each is looked at more
// rarely, so that all of them together are asked as often.
func (n *Node) beat(usual time.Duration) time.Duration {
	return max(usual, usual*time.Duration(n.among.Load())/manyNodes)
}

// stagger is how long to wait before the first look at a node: not at all, but
// for very many nodes, which are not to be asked all at once.
func (n *Node) stagger() time.Duration { return rand.N(n.beat(time.Second) - time.Second + 1) }

// spareFile closes connections to the node that nobody uses sooner than idleConn,
// where there are very many nodes: one to each of them, beside that of the event
// stream, is more files than some processes may open.
func (n *Node) spareFile() {
	if n.among.Load() > manyNodes {
		n.client.CloseIdleConnections()
	}
}

// Options say how to reach a node.
type Options struct {
	Name    string            // of the node; "local" where empty
	URL     string            // unix:///run/podman/podman.sock
	Owner   string            // ID of this installation: several that share one Podman never touch each other's containers; "default" where empty
	DataDir string            // the logs of removed containers are kept in its folder logs, uploads while they are built in tmp
	Labels  map[string]string // of the node
	Logger  *slog.Logger      // slog.Default() where nil

	Address  string           // data address: containers' ports are published there and reached there; empty: at the containers' own addresses or on loopback
	Tunnel   bool             // for ssh: requests travel through the connection to ports published on the node's loopback
	HostKey  string           // for ssh: the pinned key
	Identity string           // for ssh: file of the private key; empty: the agent, then the user's default keys
	BusyPort int              // apps are told that they can ask there, on this machine, not to be stopped; 0: they are not
	Facts    router.NodeFacts // of an earlier Check; with Checked set, none is needed
}

// Node is one machine's Podman. All methods may be called concurrently; none
// lasts longer than its context, nor than a deadline of its own.
type Node struct {
	name, url, owner string
	labels           map[string]string
	dataDir          string
	log              *slog.Logger
	conn             context.Context // carries the bindings' connection; read for its values only
	client           *http.Client    // of that connection
	archive          *archive
	facts            atomic.Pointer[router.NodeFacts]
	last             atomic.Pointer[view]
	network          networkOnce
	address          string
	tunnelled        bool
	hostKey          string
	tunnel           *Tunnel    // for ssh
	forward          *Forwarder // for ssh: the local end of the node's socket
	cordoned         atomic.Bool
	broken           atomic.Bool // the engine does not answer
	lost             atomic.Bool // the machine does not answer
	there            atomic.Pointer[there]
	full             atomic.Bool  // its disk has no room
	among            atomic.Int64 // nodes in its pool
	mute             atomic.Int64 // until when its machine is not asked how full it is, in Unix nanoseconds
	identity         atomic.Pointer[string]
	host             atomic.Pointer[string] // this machine's address in the containers' network
	busyPort         int
	wire             wire // for tcp: the connection of the event stream

	builtMu sync.Mutex
	built   map[string]time.Time // image ID -> when handed out: not to be pruned before anybody could record it
}

// Connect opens the connection to a node and pings it. Run Check before
// creating containers there.
func Connect(ctx context.Context, o Options) (*Node, error) {
	if o.Name == "" {
		o.Name = "local"
	}
	if o.Owner == "" {
		o.Owner = "default"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	n := &Node{
		name: o.Name, url: o.URL, owner: o.Owner, labels: o.Labels, dataDir: o.DataDir,
		address: o.Address, tunnelled: o.Tunnel, hostKey: o.HostKey, busyPort: o.BusyPort,
		log: o.Logger.With("node", o.Name), archive: newArchive(o.DataDir), built: make(map[string]time.Time),
	}
	n.there.Store(newThere())
	if !o.Facts.Checked.IsZero() {
		n.facts.Store(&o.Facts)
	}
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	if err := n.connect(ctx, o.Identity); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// connect opens the way to the engine: its socket itself, or one of ours that
// leads to it through SSH.
func (n *Node) connect(ctx context.Context, identity string) error {
	url := n.url
	if strings.HasPrefix(url, "ssh://") {
		var err error
		if n.tunnel, err = NewTunnel(SSHOptions{URL: n.url, HostKey: n.hostKey, Identity: identity, Logger: n.log}); err != nil {
			return err
		}
		// The bindings tell nobody why a connection failed: find out first.
		probe, err := n.tunnel.Dial(ctx, "unix", "")
		if err != nil {
			return err
		}
		_ = probe.Close()
		dir := filepath.Join(n.dataDir, "nodes")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return router.Errorf(router.CodeInternal, "the folder for the nodes' sockets cannot be made: %w", err)
		}
		socket := filepath.Join(dir, n.name+".sock")
		if len(socket) > socketPath {
			return router.Errorf(router.CodeInvalid, "the path %s is longer than a socket's may be (%d bytes): choose a shorter data folder or node name", socket, socketPath)
		}
		n.forward, err = Forward(socket, func(ctx context.Context) (net.Conn, error) { return n.tunnel.Dial(ctx, "unix", "") }, n.log)
		if err != nil {
			return err
		}
		url = "unix://" + socket
	}
	conn, err := bindings.NewConnection(ctx, url)
	if err != nil {
		return router.Errorf(router.CodeUnavailable, "Podman does not answer at %s: is `podman system service` running there? (%w)", n.url, err)
	}
	c, err := bindings.GetClient(conn)
	if err != nil {
		return err
	}
	// The bindings leave two idle connections per host, which is a new
	// connection for nearly every call when many start at once.
	if t, ok := c.Client.Transport.(*http.Transport); ok {
		t.MaxIdleConns, t.MaxIdleConnsPerHost, t.IdleConnTimeout = 64, 64, idleConn
	}
	n.conn, n.client = conn, c.Client
	return nil
}

// Close drops idle connections, and the SSH connection where there is one.
func (n *Node) Close() {
	if n.client != nil {
		n.client.CloseIdleConnections()
	}
	if n.forward != nil {
		_ = n.forward.Close()
	}
	if n.tunnel != nil {
		_ = n.tunnel.Close()
	}
}

// publishAt is the node's address on which containers' ports are published.
func (n *Node) publishAt() string {
	if n.address != "" && !n.tunnelled {
		return n.address
	}
	return "127.0.0.1"
}

// view is the node as it was shown last, and the facts that this was made from.
type view struct {
	router.Node
	from *router.NodeFacts
}

// Node is what is known of the node, the facts of its last Check among it. It is
// shared and must not be changed: very many nodes are asked for it in each wake.
func (n *Node) Node() *router.Node {
	lost := n.lost.Load()
	cordoned, down, full, facts := n.cordoned.Load(), n.broken.Load() || lost, n.full.Load(), n.facts.Load()
	if v := n.last.Load(); v != nil && v.Cordoned == cordoned && v.Down == down && v.Lost == lost && v.Full == full && v.from == facts {
		return &v.Node
	}
	v := &view{router.Node{
		Name: n.name, URL: n.url, Labels: n.labels, Address: n.address, Tunnel: n.tunnelled, HostKey: n.hostKey,
		Cordoned: cordoned, Down: down, Lost: lost, Full: full,
	}, facts}
	if facts != nil {
		v.Facts = *facts
	}
	n.last.Store(v)
	return &v.Node
}

// checked is the facts, or an error where no Check has succeeded.
func (n *Node) checked() (router.NodeFacts, error) {
	if f := n.facts.Load(); f != nil {
		return *f, nil
	}
	return router.NodeFacts{}, router.Errorf(router.CodeUnavailable, "node %s has not been checked yet", n.name)
}

// Ping asks whether the node answers at all.
func (n *Node) Ping(ctx context.Context) error {
	ctx, end := n.call(ctx, 2*time.Second)
	defer end()
	defer n.spareFile()
	resp, err := n.request(ctx, http.MethodGet, "/_ping", nil, nil, "")
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10)) // else the connection is of no more use
	return errors.Join(n.engineError(ctx, err), resp.Body.Close())
}

// callContext is the caller's context with the bindings' connection among its
// values.
type callContext struct {
	context.Context
	conn context.Context
}

func (c callContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.conn.Value(key)
}

// call prepares one call to the engine. The result of end is to be called when
// it is over. The loss of the machine ends the call, and while it is lost every
// call ends at once: nobody need wait for what cannot come.
func (n *Node) call(ctx context.Context, limit time.Duration) (_ context.Context, end context.CancelFunc) {
	ctx, late := context.WithTimeoutCause(ctx, limit, deadline{n.name, limit})
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.there.Load().ctx, func() { cancel(errLost) })
	return callContext{ctx, n.conn}, func() {
		stop()
		cancel(nil)
		late()
	}
}

// there is one time of the machine's being there.
type there struct {
	ctx context.Context // ends with the loss
	end context.CancelFunc
}

func newThere() *there {
	t := &there{}
	t.ctx, t.end = context.WithCancel(context.Background())
	return t
}

// setLost says whether the machine is lost; it reports whether that is news.
func (n *Node) setLost(lost bool) bool {
	if !n.lost.CompareAndSwap(!lost, lost) {
		return false
	}
	if lost {
		n.there.Load().end()
	} else {
		n.there.Store(newThere())
	}
	return true
}

// deadline is the cause of the end of a call that took longer than allowed.
type deadline struct {
	node  string
	limit time.Duration
}

func (d deadline) Error() string {
	return fmt.Sprintf("node %s did not answer within %s", d.node, d.limit)
}

// containerName is the same for the whole life of an instance: what makes
// creating it twice impossible.
func containerName(instance string) string { return "fluxgate-" + instance }

func (n *Node) labelsFor(in router.Instance, rel router.Release) map[string]string {
	return map[string]string{
		labelOwner:    n.owner,
		labelInstance: in.ID,
		labelApp:      in.App,
		labelRelease:  strconv.Itoa(rel.Number),
		labelPort:     strconv.Itoa(rel.Run.Port),
	}
}
