package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/valyala/fasthttp"

	"github.com/fluxgate/fluxgate/router"
)

// Options is what an Edge is made of. Fields not marked optional must be set.
type Options struct {
	Gateway string          // ID of this gateway among all
	Domain  string          // apps are at NAME.Domain
	Catalog *router.Catalog // New registers a hook with it: call New before its first Apply
	Waker   Waker
	Rates   RateSink
	Acks    Acker

	Kick func(app string) // optional: a queue has formed although instances are ready; must not block
	// Busy is optional: an instance asked not to be stopped before a time; one
	// that is past ends what it asked before. It must not block.
	Busy func(app, instance string, until time.Time)

	Suspect func(instance string) // optional: an instance that should be ready refuses connections; must not block

	// Dial is optional: it connects to an instance's address on its node, where
	// that is reached by another way than the network.
	Dial func(ctx context.Context, node, addr string) (net.Conn, error)

	APIUpstream string // optional: unix socket of the control API, served at router.PlatformHost(Domain) and router.RegistryHost(Domain)

	HTTP      net.Listener // owned by the Edge from New on
	HTTPS     net.Listener // optional: without it nothing is served over TLS
	PlainHTTP bool         // serve apps on HTTP, too, instead of redirecting to HTTPS

	Certificates certmagic.Storage // where certificates and the local CA live; needed with HTTPS
	Email        string            // optional: ACME account's address
	ACMECA       string            // optional: ACME directory; Let's Encrypt's if empty
	ACMERoots    *x509.CertPool    // optional: trusted for the ACME server's own certificate

	Logger *slog.Logger
}

// Edge is the request path. Make it with New, start it with Start, end it with
// Shutdown. All methods may be called concurrently.
type Edge struct {
	opts    Options
	log     *slog.Logger
	table   atomic.Pointer[router.Table[*target]]
	api     *upstream // nil without control API
	fleet   *fleet
	meter   *meter
	tls     *certificates // nil without HTTPS
	server  *fasthttp.Server
	conns   connections
	hangups hangups
	waiters sync.Pool // of *waiter

	changes    sync.Mutex // held over every change of the Table; guards the two maps
	hosts      map[string][]string
	admissions map[string]*admission

	draining atomic.Bool     // Shutdown has begun
	stopped  chan struct{}   // closed when those who still wait are sent away
	life     context.Context // ends after the last request
	end      context.CancelFunc
	tasks    tasks
}

// New makes an Edge that serves nothing yet.
func New(opts Options) (*Edge, error) {
	switch {
	case opts.Gateway == "" || opts.Domain == "" || opts.Catalog == nil || opts.Waker == nil || opts.Rates == nil || opts.Acks == nil || opts.Logger == nil:
		return nil, errors.New("gateway: Gateway, Domain, Catalog, Waker, Rates, Acks and Logger must be set")
	case opts.HTTP == nil && opts.HTTPS == nil:
		return nil, errors.New("gateway: no listener")
	case opts.HTTPS != nil && opts.Certificates == nil:
		return nil, errors.New("gateway: HTTPS needs a place for certificates")
	}
	e := &Edge{
		opts:       opts,
		log:        opts.Logger,
		hosts:      map[string][]string{},
		admissions: map[string]*admission{},
		stopped:    make(chan struct{}),
	}
	e.life, e.end = context.WithCancel(context.Background())
	e.meter = newMeter(opts)
	e.fleet = newFleet(opts.Gateway, opts.Acks)
	e.fleet.life, e.fleet.spawn, e.fleet.dial = e.life, e.spawn, opts.Dial
	e.table.Store(e.platformTable())
	e.server = e.newServer()
	if opts.HTTPS != nil {
		tls, err := newCertificates(e)
		if err != nil {
			return nil, err
		}
		e.tls = tls
	}
	opts.Catalog.OnChange(e.changed)
	return e, nil
}

// platformTable is the Table before any app is known: it holds the control API.
func (e *Edge) platformTable() *router.Table[*target] {
	empty := &router.Table[*target]{}
	if e.opts.APIUpstream == "" {
		return empty
	}
	e.api = newUpstream("", "unix", e.opts.APIUpstream, func(*upstream) {})
	t := &target{
		admission: &admission{edge: e},
		endpoints: []*upstream{e.api},
		limit:     unlimited,
		policy:    router.DefaultPolicy(),
		timeout:   10 * time.Minute, // a push answers after its build
	}
	t.admission.target.Store(t)
	return empty.With(map[string]*target{router.PlatformHost(e.opts.Domain): t, router.RegistryHost(e.opts.Domain): t}, nil)
}

// Start begins to accept connections. It returns at once.
func (e *Edge) Start() {
	e.spawn(func() { e.meter.run(e.life) })
	e.spawn(e.housekeeping)
	if err := e.hangups.start(); err != nil {
		e.log.Warn("clients that hang up while they wait are noticed a second later", "error", err)
	} else {
		e.spawn(e.hangups.run)
	}
	if e.opts.HTTP != nil {
		e.spawn(func() { e.accept(e.opts.HTTP, false) })
	}
	if e.opts.HTTPS != nil {
		e.spawn(func() { e.accept(e.opts.HTTPS, true) })
		e.spawn(func() { e.tls.prepare(e.life) })
	}
}

// housekeeping closes what is idle for too long.
func (e *Edge) housekeeping() {
	tick := time.NewTicker(idleConnKept / 3)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			e.upstreams(func(u *upstream) { u.sweep(now.Add(-idleConnKept)) })
		case <-e.life.Done():
			return
		}
	}
}

// upstreams calls fn for every upstream, the control API included.
func (e *Edge) upstreams(fn func(*upstream)) {
	e.fleet.each(fn)
	if e.api != nil {
		fn(e.api)
	}
}

// Shutdown stops accepting connections, lets the requests in flight finish and
// returns. Requests that still come on open connections are answered, each
// with "Connection: close". When ctx ends, what is left is cut (WebSockets and
// long streams, most likely) and Shutdown returns ctx's error.
func (e *Edge) Shutdown(ctx context.Context) error {
	e.draining.Store(true)
	for _, ln := range []net.Listener{e.opts.HTTP, e.opts.HTTPS} {
		if ln != nil {
			closeListener(ln)
		}
	}
	err := e.conns.drain(ctx)
	close(e.stopped)
	if err != nil {
		e.upstreams((*upstream).cut)
		e.conns.cut()
		err = fmt.Errorf("requests that were still running have been cut: %w", err)
	}
	e.end()
	e.hangups.stop()
	e.tasks.stop()
	e.upstreams((*upstream).dropIdle)
	if e.tls != nil {
		e.tls.stop()
	}
	return err
}

// tasks are the goroutines that belong to the Edge.
type tasks struct {
	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup
}

// spawn runs fn in a goroutine that Shutdown waits for. It reports false, and
// fn does not run, once Shutdown waits.
func (e *Edge) spawn(fn func()) bool {
	t := &e.tasks
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.running.Add(1)
	go func() {
		defer t.running.Done()
		fn()
	}()
	return true
}

func (t *tasks) stop() {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.running.Wait()
}
