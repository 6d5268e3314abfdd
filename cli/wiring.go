package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/podman"
	"github.com/fluxgate/fluxgate/router"
	"github.com/fluxgate/fluxgate/router/state"
)

// How long other gateways and the autoscaler's lease believe in one that is
// silent, and how often it speaks.
const (
	presenceTTL  = 5 * time.Second
	presenceBeat = time.Second
	leaseTTL     = 3 * time.Second // it is asked for each second, so it moves within 5 s
)

// appliedStore is the store, with every write of this process in the Catalog
// when Update returns: nobody here waits for the change stream.
type appliedStore struct {
	*state.Store
	catalog *router.Catalog
}

func (s appliedStore) Update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error) {
	st, err := s.Store.Update(ctx, app, fn)
	if err == nil && st.Version > 0 {
		s.catalog.Apply(st)
	}
	return st, err
}

// cluster is what the Controller asks of the other gateways.
type cluster struct {
	*state.Store
	id string
}

func (c cluster) Lead(ctx context.Context) (bool, error) {
	_, ok, err := c.Acquire(ctx, "autoscaler", c.id, leaseTTL)
	return ok, err
}

// present tells the other gateways that this one lives.
func (g *gatewayProcess) present(ctx context.Context) {
	ticker := time.NewTicker(presenceBeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			actx, cancel := context.WithTimeout(ctx, presenceTTL)
			if err := g.store.Announce(actx, g.id, presenceTTL); err != nil && ctx.Err() == nil {
				g.Log.Warn("other gateways cannot be told that this one lives", "err", err)
			}
			cancel()
		}
	}
}

// gauge reads the edge, which is made after the Controller.
type gauge struct{ g *gatewayProcess }

func (a gauge) Load(app string) (inFlight, queued int) {
	if a.g.edge == nil {
		return 0, 0
	}
	return a.g.edge.Load(app)
}

// logReader is the pool's logs as the API asks for them.
type logReader struct {
	pool    *podman.Pool
	catalog *router.Catalog
}

func (l logReader) Logs(ctx context.Context, app string, instances []router.Instance, o api.LogOptions, fn func(router.LogLine) error) error {
	return l.pool.Logs(ctx, app, instances, podman.LogOptions{
		Lines: o.Lines, Since: o.Since, Follow: o.Follow,
		Instances: func() []router.Instance {
			if st, ok := l.catalog.Get(app); ok {
				return st.Instances
			}
			return nil
		},
	}, fn)
}

// readRoots reads certificates to trust beside the system's; none for "".
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--acme-root: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--acme-root: %s holds no certificate in PEM form", file)
	}
	return pool, nil
}
