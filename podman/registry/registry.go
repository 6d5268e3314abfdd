package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the default storage
	_ "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"     // the storage that several gateways share
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus" //nolint:depguard // to silence it: the library logs through it
)

// Action is what a client wants to do with a repository.
type Action string

// The actions.
const (
	ActionPull   Action = "pull"
	ActionPush   Action = "push"
	ActionDelete Action = "delete"
)

// Errors that Options.Authenticate returns.
var (
	ErrUnauthorized = errors.New("log in first: any name, and a Fluxgate token as the password")
	ErrDenied       = errors.New("this token may not do that")
)

// Push is a manifest that was stored under a tag.
type Push struct {
	Repository string
	Tag        string
	Digest     string // of the manifest: sha256:…
	MediaType  string
	User       string // as Authenticate named it
}

// Options say where images are kept and who may do what. Of Dir and S3 exactly
// one is given.
type Options struct {
	Dir string // folder of the file system
	S3  *S3    // S3-compatible storage, which several gateways may share

	// Secret is the same in all gateways that share a storage, so that an upload
	// that began at one may go on at another.
	Secret string

	// Authenticate says who a client is: the user's name to tell in Push; or
	// ErrUnauthorized, ErrDenied, or another error, which the client is told
	// as a failure of ours. It is called for each request, by many at once.
	Authenticate func(ctx context.Context, r *http.Request, repository string, action Action) (user string, err error)

	// Pushed, if given, is called after a manifest was stored under a tag, and
	// before the client is answered: its error is the answer, and the client
	// shows its text. The tag stays all the same.
	Pushed func(ctx context.Context, p Push) error

	// Grace is how long what nothing refers to stays: a client may be about to
	// refer to it. An hour unless given.
	Grace time.Duration

	Log *slog.Logger // may be nil
}

// Registry is an OCI registry as an http.Handler. Its methods may be called
// concurrently. Close it.
type Registry struct {
	opts   Options
	app    *handlers.App
	driver driver.StorageDriver
	images distribution.Namespace
	end    context.CancelFunc

	mu     sync.Mutex
	recent map[digest.Digest]time.Time // what clients asked about or referred to, and when: not to be swept
	sweep  sync.RWMutex                // held to write manifests (shared) and to delete blobs
}

// The library logs through logrus's global logger; what matters of it comes
// back to clients as errors.
func init() { logrus.SetOutput(io.Discard) }

// New opens a registry. ctx bounds nothing but values; Close ends what runs.
func New(ctx context.Context, o Options) (_ *Registry, err error) {
	if (o.Dir == "") == (o.S3 == nil) {
		return nil, errors.New("the registry needs one storage: a folder or S3")
	}
	if o.Grace == 0 {
		o.Grace = time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	kind, params := "filesystem", configuration.Parameters{"rootdirectory": o.Dir}
	if o.S3 != nil {
		kind, params = "s3", o.S3.parameters()
	}
	conf := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{
			kind:          params,
			"delete":      {"enabled": true},
			"redirect":    {"disable": true}, // nodes reach the gateway, not its storage
			"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	conf.Catalog.MaxEntries = 1000 // of a page
	conf.HTTP.Secret = o.Secret
	conf.HTTP.RelativeURLs = true // it has several addresses
	// Layers that stay elsewhere are the node's to fetch.
	conf.Validation.Manifests.URLs.Allow = []string{"^https?://"}

	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if p := recover(); p != nil { // the library panics where its storage does not open
			err = fmt.Errorf("the registry's storage cannot be opened: %v", p)
		}
		if err != nil {
			end()
		}
	}()
	r := &Registry{opts: o, end: end, recent: map[digest.Digest]time.Time{}}
	if r.driver, err = factory.Create(ctx, kind, params); err != nil {
		return nil, fmt.Errorf("the registry's storage cannot be opened: %w", err)
	}
	if r.images, err = storage.NewRegistry(ctx, r.driver, storage.EnableDelete); err != nil {
		return nil, fmt.Errorf("the registry's storage cannot be opened: %w", err)
	}
	r.app = handlers.NewApp(ctx, conf)
	return r, nil
}

// Close ends what runs in the background. Requests must have ended.
func (r *Registry) Close() error {
	err := r.app.Shutdown()
	r.end()
	return err
}

// ServeHTTP serves the registry's API below /v2/.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	rt, ok := parseRoute(req)
	if !ok {
		refuse(w, http.StatusNotFound, "NAME_INVALID", "there is nothing here but an OCI registry below /v2/")
		return
	}
	user, ok := r.admit(w, req, rt)
	if !ok {
		return
	}
	switch {
	case rt.kind == kindReferrers:
		r.serveReferrers(w, req, rt)
	case rt.kind == kindManifest && req.Method == http.MethodPut:
		r.putManifest(w, req, rt, user)
	case rt.kind == kindManifest && req.Method == http.MethodDelete:
		r.deleteManifest(w, req, rt)
	case r.mountAlias(w, req, rt):
	default:
		// Whoever asks whether a blob is there may refer to it next.
		query := req.URL.Query()
		for _, text := range []string{rt.reference, query.Get("mount"), query.Get("digest")} {
			if d, err := digest.Parse(text); err == nil {
				r.touch(d)
				if kept, err := r.canonical(req.Context(), linkOf(rt.kind), rt.repository, d); err == nil {
					r.touch(kept)
				}
				w = &named{ResponseWriter: w, digest: d}
			}
		}
		r.app.ServeHTTP(w, req)
	}
}

// linkOf is where a repository keeps the links to a kind of content.
func linkOf(k kind) func(string, digest.Digest) string {
	if k == kindManifest {
		return revisionLink
	}
	return layerLink
}

// named is an answer about a blob by the digest it was asked for: the library
// names it by its SHA-256, whichever the client uses.
type named struct {
	http.ResponseWriter
	digest digest.Digest
}

func (n *named) WriteHeader(status int) {
	if h := n.Header(); h.Get("Docker-Content-Digest") != "" && n.digest.Algorithm() != digest.Canonical {
		h.Set("Docker-Content-Digest", n.digest.String())
	}
	n.ResponseWriter.WriteHeader(status)
}

// Unwrap lets the server's own controls through.
func (n *named) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// touch notes that somebody is about to refer to a blob.
func (r *Registry) touch(digests ...digest.Digest) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range digests {
		r.recent[d] = now
	}
	if len(r.recent) > maxRecent {
		for d, at := range r.recent {
			if now.Sub(at) > r.opts.Grace {
				delete(r.recent, d)
			}
		}
	}
}

const maxRecent = 10_000

func (r *Registry) touched(d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.recent[d]
	return ok && time.Since(at) < r.opts.Grace
}
