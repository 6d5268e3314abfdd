package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/fluxgate/fluxgate/autoscale"
	"github.com/fluxgate/fluxgate/gateway"
	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/podman"
	"github.com/fluxgate/fluxgate/podman/registry"
	"github.com/fluxgate/fluxgate/router"
	"github.com/fluxgate/fluxgate/router/state"
)

// How long starting and stopping may take.
const (
	startDeadline = time.Minute      // without getting on
	drainDeadline = 30 * time.Second // for requests in flight when told to stop
	stopDeadline  = 20 * time.Second // for everything after that
)

// serveConfig is all that a gateway can be told.
type serveConfig struct {
	Data      string // folder
	Domain    string
	HTTP      string // address:port
	HTTPS     string
	Redis     string   // URL; empty: a private one
	Nodes     []string // Podman API URLs of this gateway alone; empty: this machine's
	Registry  string   // folder or s3:// URL for images; empty: in the data folder
	NoLocal   bool     // this machine runs no apps
	SSHKey    string   // file of the private key for ssh:// nodes; empty: the agent's, or the user's own
	Email     string
	ACMECA    string
	ACMERoot  string // file with certificates to trust when talking to ACMECA
	PlainHTTP bool   // serve apps over HTTP too, instead of redirecting
	Out       io.Writer
	Log       *slog.Logger
}

// gatewayProcess is a running gateway: what it stands on, from the bottom up.
// Everything that was started has an entry in closers, and is closed in
// reverse.
type gatewayProcess struct {
	serveConfig
	id      string
	dir     *dataDir
	store   *state.Store
	redis   *state.Server // nil where --redis names another
	service *podman.Service
	pool    *podman.Pool

	registry *registry.Registry
	api      *api.Server

	fleet *fleet

	ownNodes []*podman.Node // of this machine
	catalog  *router.Catalog
	control  *autoscale.Controller
	edge     *gateway.Edge
	http     net.Listener
	https    net.Listener
	closers  []func(context.Context)
	starting *patience
	saying   sync.Mutex // for Out
}

// serve runs a gateway until ctx ends, then drains and stops it. Before it
// prints "ready" nothing is served; when it fails before that, nothing is left
// running.
func serve(ctx context.Context, cfg serveConfig) (err error) {
	g := &gatewayProcess{serveConfig: cfg}
	defer func() { err = errors.Join(err, g.stop()) }()

	sctx, starting := withPatience(ctx, startDeadline)
	defer starting.end()
	g.starting = starting
	failed := make(chan error, 1)
	for _, step := range []func(context.Context) error{
		g.openData, g.bind, g.openStore, g.openPodman, g.openRegistry, g.assemble, g.load, g.startControl, g.openBusy,
		func(context.Context) error { return g.openAPI(failed) }, g.openEdge, g.announceAdmin,
	} {
		starting.gotOn()
		if err := step(sctx); err != nil {
			if ctx.Err() != nil {
				return nil // told to stop while starting
			}
			return err
		}
	}
	g.say("ready", "%s", platformURL(g.Domain, port(g.https)))
	select {
	case <-ctx.Done():
		g.say("stopping", "requests in flight have %s to end", drainDeadline)
		return nil
	case err := <-failed:
		return err
	case <-g.store.Replaced():
		return errors.New("while this gateway started, Redis was empty, and another gateway has restored it since: start this one again")
	}
}

// onStop registers what undoes a step. The steps are undone in reverse order.
func (g *gatewayProcess) onStop(fn func(context.Context)) { g.closers = append(g.closers, fn) }

// stop undoes what was done, last first: the edge drains before what it stands
// on goes.
func (g *gatewayProcess) stop() error {
	for i := len(g.closers) - 1; i >= 0; i-- {
		ctx, cancel := context.WithTimeout(context.Background(), drainDeadline+stopDeadline)
		g.closers[i](ctx)
		cancel()
	}
	return nil
}

// background runs fn until the gateway stops.
func (g *gatewayProcess) background(fn func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(ctx)
	}()
	g.onStop(func(context.Context) {
		cancel()
		<-done
	})
}

// say prints a line about one thing that the gateway stands on.
func (g *gatewayProcess) say(what, format string, args ...any) {
	g.saying.Lock()
	defer g.saying.Unlock()
	fmt.Fprintf(g.Out, "%-10s %s\n", what, fmt.Sprintf(format, args...))
}

func (g *gatewayProcess) openData(context.Context) (err error) {
	if g.dir, err = openDataDir(g.Data); err != nil {
		return err
	}
	g.onStop(func(context.Context) { g.dir.Close() })
	if g.id, err = g.dir.gatewayID(); err != nil {
		return err
	}
	g.say("data", "%s", g.dir.path)
	return nil
}

// bind opens the listeners first, so that a taken port fails before anything
// is started. Connections wait in the backlog until the edge is up.
func (g *gatewayProcess) bind(context.Context) (err error) {
	if g.http, err = listen("http", g.HTTP); err != nil {
		return err
	}
	g.onStop(func(context.Context) { _ = g.http.Close() })
	if g.https, err = listen("https", g.HTTPS); err != nil {
		return err
	}
	g.onStop(func(context.Context) { _ = g.https.Close() })
	return nil
}

func (g *gatewayProcess) openStore(ctx context.Context) (err error) {
	url, how := g.Redis, "as told by --redis"
	if url == "" {
		if g.redis, err = state.StartServer(ctx, g.dir.join("redis"), g.Log); err != nil {
			return err
		}
		g.onStop(func(ctx context.Context) {
			if err := g.redis.Close(ctx); err != nil {
				g.Log.Warn("the private Redis did not stop", "err", err)
			}
		})
		url, how = g.redis.URL(), "private, started"
		if g.redis.Adopted() {
			how = "private, found running"
		}
	}
	if g.store, err = state.Open(ctx, state.Options{URL: url, Logger: g.Log}); err != nil {
		return err
	}
	g.onStop(func(context.Context) { _ = g.store.Close() })
	info, err := g.store.Info(ctx)
	if err != nil {
		return err
	}
	g.say("state", "%s (%s)", info, how)
	return nil
}

// assemble makes the Catalog and the two that follow its changes, before the
// first of them comes.
func (g *gatewayProcess) assemble(context.Context) error {
	roots, err := readRoots(g.ACMERoot)
	if err != nil {
		return err
	}
	g.catalog = router.NewCatalog()
	g.control = autoscale.New(autoscale.Options{
		Gateway: g.id, Catalog: g.catalog, Store: appliedStore{g.store, g.catalog}, Runtime: g.pool,
		Signals: g.store, Memories: g.store, Cluster: cluster{g.store, g.id}, Journal: g.store, Gauge: gauge{g},
		Locality: g.pool, Recorder: g.store, Meters: g.pool, Usages: g.store, Machines: g.pool, Log: g.Log,
	})
	g.onStop(func(context.Context) { g.control.Close() })
	g.edge, err = gateway.New(gateway.Options{
		Gateway: g.id, Domain: g.Domain, Catalog: g.catalog, Waker: g.control, Rates: g.store, Acks: g.store,
		Kick: g.control.Kick, Suspect: g.control.Suspect, Busy: g.control.Busy, Dial: g.pool.Dial, APIUpstream: g.apiSocket(), Certificates: g.store.Certificates(),
		Email: g.Email, ACMECA: g.ACMECA, ACMERoots: roots, PlainHTTP: g.PlainHTTP,
		HTTP: g.http, HTTPS: g.https, Logger: g.Log,
	})
	return err
}

// load fills the Catalog and keeps it up to date.
func (g *gatewayProcess) load(ctx context.Context) error {
	synced := make(chan struct{}, 1)
	g.store.OnFlush(g.rebuild)
	read, all, told := 0, false, time.Now() // by the one goroutine of Watch
	g.background(func(ctx context.Context) {
		err := g.store.Watch(ctx, func(st router.AppState) {
			g.catalog.Apply(st)
			if read++; !all && read%1000 == 0 && g.starting.gotOn() && time.Since(told) > 5*time.Second {
				g.say("apps", "%d read so far", read)
				told = time.Now()
			}
		}, func() {
			all = true
			select {
			case synced <- struct{}{}:
			default:
			}
		})
		if err != nil && ctx.Err() == nil {
			g.Log.Error("the change stream ended", "err", err)
		}
	})
	select {
	case <-synced:
		// Reading very many apps leaves as much behind as it was.
		go debug.FreeOSMemory() // ends soon
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no more apps could be read from Redis for %s; is it overloaded?", startDeadline)
	}
}

// rebuild writes back what this gateway knows after Redis was emptied.
func (g *gatewayProcess) rebuild(ctx context.Context) error {
	all := g.catalog.All()
	states := make([]router.AppState, len(all))
	for i, st := range all {
		states[i] = *st
	}
	_, err := g.store.Rebuild(ctx, states)
	return err
}

// startControl starts deciding, after what runs already has been adopted.
func (g *gatewayProcess) startControl(ctx context.Context) error {
	if err := g.store.Announce(ctx, g.id, presenceTTL); err != nil {
		return err
	}
	g.onStop(func(ctx context.Context) { _ = g.store.Retire(ctx, g.id) })
	g.background(g.present)
	if err := g.control.Reconcile(ctx); err != nil {
		return fmt.Errorf("what runs already could not be adopted: %w", err)
	}
	g.background(g.control.Run)
	g.background(g.fleet.follow)
	g.background(g.collect)
	running, apps := 0, g.catalog.All()
	for _, st := range apps {
		running += len(st.Instances)
	}
	g.say("apps", "%d registered, %d containers adopted", len(apps), running)
	return nil
}

// openAPI serves the control API on a unix socket, which the edge proxies to.
func (g *gatewayProcess) openAPI(failed chan<- error) error {
	server, err := api.New(api.Backend{
		Apps: appliedStore{g.store, g.catalog}, Catalog: g.catalog, Deployer: g.control, Builder: g.pool,
		Logs: logReader{g.pool, g.catalog}, History: g.store, Activity: g.store, Tokens: g.store, Nodes: g.fleet, Recorder: recorder{g.store}, Doctor: g.doctor,
		Domain: g.Domain, HTTPSPort: port(g.https), Version: Version, SpoolDir: g.dir.join("spool"), Logger: g.Log,
	})
	if err != nil {
		return err
	}
	socket := g.apiSocket()
	_ = os.Remove(socket)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("the control API cannot listen on %s: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(err, ln.Close())
	}
	g.api = server
	hs := &http.Server{Handler: g.atRegistry(server), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(g.Log.Handler(), slog.LevelDebug)}
	go func() {
		if err := hs.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			report(failed, fmt.Errorf("the control API stopped: %w", err))
		}
	}()
	g.onStop(func(ctx context.Context) {
		if err := server.Shutdown(ctx); err != nil {
			g.Log.Warn("deploys were cut short", "err", err)
		}
		_ = hs.Shutdown(ctx)
		_ = hs.Close()
		_ = os.Remove(socket)
	})
	return nil
}

// apiSocket is short enough for a unix socket's address, which has 108 bytes.
func (g *gatewayProcess) apiSocket() string {
	socket := g.dir.join("api.sock")
	if len(socket) < 100 {
		return socket
	}
	return filepath.Join(os.TempDir(), g.id+"-api.sock")
}

// openEdge begins to serve.
func (g *gatewayProcess) openEdge(context.Context) error {
	g.edge.Start()
	g.onStop(func(ctx context.Context) {
		dctx, cancel := context.WithTimeout(ctx, drainDeadline)
		defer cancel()
		if err := g.edge.Shutdown(dctx); err != nil {
			g.Log.Warn("requests were cut short", "err", err)
		}
	})
	return nil
}

func report(failed chan<- error, err error) {
	select {
	case failed <- err:
	default:
	}
}
