package api

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// Apps reads and writes the stored aggregate of one app; router/state's Store
// is one. Load answers CodeNotFound for an app that is not there. Update hands
// fn a zero AppState with the name set for such an app.
type Apps interface {
	Load(ctx context.Context, app string) (router.AppState, error)
	Update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error)
}

// Catalog is the gateway's own copy of all apps; router.Catalog is one.
type Catalog interface {
	All() []*router.AppState
	Living() []*router.AppState
	Owner(domain string) (app string, ok bool)
	Get(name string) (*router.AppState, bool)
}

// Deployer changes what serves; autoscale's Controller is one. progress is
// called at the start of each step, from one goroutine at a time.
type Deployer interface {
	Deploy(ctx context.Context, d router.Deploy, progress func(router.DeployStep)) (router.AppState, error)
	Rollback(ctx context.Context, app string, number int, by string, progress func(router.DeployStep)) (router.AppState, error)
	Delete(ctx context.Context, app string) error
	Kick(app string)
}

// Builder makes an image; podman's Pool is one. tarball is a gzipped tar, nil
// for images; out gets the build's output.
type Builder interface {
	Build(ctx context.Context, app string, src router.Source, tarball io.Reader, out io.Writer) (image string, err error)
}

// LogOptions chooses what Logs reads.
type LogOptions struct {
	Lines  int // last lines to begin with; 0 means all that are kept
	Since  time.Time
	Follow bool // go on until the context ends
}

// LogReader reads an app's output, of the instances given and of those that are
// gone. fn is called from one goroutine at a time; its error ends the reading
// and is returned.
type LogReader interface {
	Logs(ctx context.Context, app string, instances []router.Instance, opts LogOptions, fn func(router.LogLine) error) error
}

// History is the record of what happened to an app (the last events, or those
// around at) and of who changed its policy, both newest first.
type History interface {
	History(ctx context.Context, app string, at time.Time, limit int) ([]router.Event, error)
	PolicyHistory(ctx context.Context, app string) ([]router.PolicyEdit, error)
}

// Activity is what the gateways count.
type Activity interface {
	LastActive(ctx context.Context, apps []string) (map[string]time.Time, error)
	Rates(ctx context.Context, from, to time.Time) (map[int64]map[string]router.Sample, error)
	Usage(ctx context.Context, nodes []string) (map[string]router.NodeUsage, error)
}

// Recorder has the traffic of the last 24 hours. Seconds before the first that
// was recorded are left out. It answers what is Unrecorded for an app that was
// never called.
type Recorder interface {
	Traffic(ctx context.Context, app string, from, to time.Time) (router.Traffic, error)
}

// Tokens stores tokens. Token answers CodeNotFound for an unknown ID.
type Tokens interface {
	PutToken(ctx context.Context, t router.Token) error
	Token(ctx context.Context, id string) (router.Token, error)
	Tokens(ctx context.Context) ([]router.Token, error)
	DeleteToken(ctx context.Context, id string) error
}

// Backend is everything that the API stands on. Fields are
// needed unless they say otherwise.
type Backend struct {
	Apps     Apps
	Catalog  Catalog
	Deployer Deployer
	Builder  Builder
	Logs     LogReader
	History  History
	Activity Activity
	Tokens   Tokens
	Nodes    Nodes    // optional: without it there is nothing to manage
	Recorder Recorder // optional: without it there is no traffic to rehearse on
	Doctor   func(context.Context) []Check

	Domain    string // apps live at NAME.Domain
	HTTPSPort int    // as users reach it
	Version   string
	SpoolDir  string // uploads are kept here until they are built; must be the server's alone

	Logger *slog.Logger     // nil: slog.Default
	Now    func() time.Time // nil: time.Now
}
