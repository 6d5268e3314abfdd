package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"runtime/debug"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/fluxgate/fluxgate/router"
)

// callTimeout bounds every answer that is not a stream.
const callTimeout = 2 * time.Minute

// deployTimeout bounds what goes on when a client is gone.
const deployTimeout = 15 * time.Minute

// Server is the control API's http.Handler. Its http.Server needs no write
// timeout: streams set their own deadlines.
type Server struct {
	b    Backend
	log  *slog.Logger
	now  func() time.Time
	mux  *http.ServeMux
	huma huma.API

	busy     busyApps
	tokensMu sync.Mutex // makes "not the last one" hold over a deletion

	stopping context.Context // ends when Shutdown begins
	stop     context.CancelFunc
	base     context.Context // ends when running deploys are given up
	giveUp   context.CancelFunc
	mu       sync.Mutex // guards the start of work against Shutdown
	work     sync.WaitGroup
}

// New makes the server and its spool folder, and removes from it what an
// earlier process left.
func New(b Backend) (*Server, error) {
	s := &Server{b: b, log: b.Logger, now: b.Now, mux: http.NewServeMux()}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := prepareSpool(b.SpoolDir); err != nil {
		return nil, err
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.base, s.giveUp = context.WithCancel(context.Background())

	config := huma.DefaultConfig("Fluxgate control API", b.Version)
	config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", nil
	config.RejectUnknownQueryParameters = true
	config.Transformers = []huma.Transformer{asProblem}
	config.Security = []map[string][]string{{"token": {}}}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "a token from `fluxgate token create NAME`: fgt_…"},
	}
	s.huma = humago.New(s.mux, config)
	s.registerSystem()
	s.registerApps()
	s.registerReleases()
	s.registerEnv()
	s.registerDomains()
	s.registerPolicy()
	s.registerTraffic()
	s.registerPush()
	s.registerLogs()
	s.registerTokens()
	s.registerNodes()
	// huma describes its own error type too, which asProblem replaces.
	for _, name := range []string{"ErrorModel", "ErrorDetail"} {
		delete(config.Components.Schemas.Map(), name)
	}
	return s, nil
}

// OpenAPI is the description of the API, as /openapi.json answers.
func (s *Server) OpenAPI() *huma.OpenAPI { return s.huma.OpenAPI() }

// Shutdown ends log streams, refuses new deploys and waits for the running
// ones; when ctx ends it cancels them and waits for that. Call it before
// http.Server.Shutdown, which waits for the streams.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	select {
	case <-done:
		s.giveUp()
		return nil
	case <-ctx.Done():
		s.giveUp()
		<-done
		return ctx.Err()
	}
}

// begin counts a deploy as running, unless the server is stopping.
func (s *Server) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Err() != nil {
		return &router.Error{Code: router.CodeUnavailable, Message: "the gateway is stopping; try again in a moment", RetryAfter: 5 * time.Second}
	}
	s.work.Add(1)
	return nil
}

// deployContext lasts on when the client has gone: a deploy that has begun is
// carried out.
func (s *Server) deployContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deployTimeout)
	stop := context.AfterFunc(s.base, cancel)
	return ctx, func() { stop(); cancel() }
}

type exchangeKey struct{}

// exchange is the raw request, for handlers that huma does not fit.
type exchange struct {
	w     http.ResponseWriter
	r     *http.Request
	rc    *http.ResponseController
	token router.Token
}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// caller is the name of the token that asks.
func caller(ctx context.Context) string { return exchangeOf(ctx).token.Name }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &statusWriter{ResponseWriter: w}
	x := &exchange{w: rec, rc: http.NewResponseController(w)}
	x.r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	start := time.Now()
	defer func() {
		if v := recover(); v != nil {
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.log.Error("control API panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			if rec.status == 0 {
				writeProblem(rec, ProblemOf(errors.New("panic")))
			}
		}
		s.log.Debug("control API", "method", r.Method, "path", r.URL.Path, "status", rec.status, "token", x.token.ID, "took", time.Since(start))
	}()
	rec.Header().Set("X-Content-Type-Options", "nosniff")
	rec.Header().Set("Cache-Control", "no-store")
	if !public[r.URL.Path] {
		token, err := s.authenticate(x.r)
		if err != nil {
			s.logFailure(x.r, err)
			writeProblem(rec, ProblemOf(err))
			return
		}
		x.token = token
	}
	if h, pattern := s.mux.Handler(x.r); pattern == "" {
		s.unmatched(rec, x.r, h)
		return
	}
	s.mux.ServeHTTP(rec, x.r)
}

// unmatched answers 404 or 405. h is the mux's own answer, whose text is of no
// use but whose status and Allow header are.
func (s *Server) unmatched(w http.ResponseWriter, r *http.Request, h http.Handler) {
	probe := &statusWriter{ResponseWriter: discard{http.Header{}}}
	h.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		allow := probe.Header().Get("Allow")
		w.Header().Set("Allow", allow)
		writeProblem(w, newProblem(http.StatusMethodNotAllowed, router.CodeInvalid, fmt.Sprintf("%s does not answer %s; it answers %s", r.URL.Path, r.Method, allow)))
		return
	}
	writeProblem(w, newProblem(http.StatusNotFound, router.CodeNotFound, fmt.Sprintf("the API has no %s; see /openapi.json", r.URL.Path)))
}

// logFailure keeps for the operator what the answer leaves out.
func (s *Server) logFailure(r *http.Request, err error) {
	if p := ProblemOf(err); p.Status >= 500 && !errors.Is(err, context.Canceled) {
		s.log.Error("control API failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
}

// describe adds to an operation what all have.
func (s *Server) describe(op *huma.Operation) {
	op.BodyReadTimeout = 10 * time.Second
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses["default"] = &huma.Response{
		Description: "Error",
		Content: map[string]*huma.MediaType{problemType: {
			Schema: s.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, ""),
		}},
	}
}

// reply is an answer with a JSON body.
type reply[T any] struct{ Body T }

// register adds an endpoint that answers with JSON.
func register[I, T any](s *Server, op huma.Operation, fn func(context.Context, *I) (T, error)) {
	s.describe(&op)
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*reply[T], error) {
		out, err := call(ctx, s, in, fn)
		if err != nil {
			return nil, err
		}
		return &reply[T]{Body: out}, nil
	})
}

// registerEmpty adds an endpoint that answers 204.
func registerEmpty[I any](s *Server, op huma.Operation, fn func(context.Context, *I) error) {
	s.describe(&op)
	op.DefaultStatus = http.StatusNoContent
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*struct{}, error) {
		_, err := call(ctx, s, in, func(ctx context.Context, in *I) (struct{}, error) { return struct{}{}, fn(ctx, in) })
		return nil, err
	})
}

// call runs a handler within the deadline that bounds all of them.
func call[I, T any](ctx context.Context, s *Server, in *I, fn func(context.Context, *I) (T, error)) (T, error) {
	x := exchangeOf(ctx)
	// huma's deadline for the body would end a slow handler's context too.
	_ = x.rc.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := fn(ctx, in)
	if err != nil {
		s.logFailure(x.r, err)
		return out, ProblemOf(err)
	}
	return out, nil
}

// busyApps holds the apps that something is being done to, so that two pushes
// of one app do not run at once.
type busyApps struct {
	mu   sync.Mutex
	apps map[string]string
}

// claim takes an app for doing what it is said to do; the func gives it back.
func (b *busyApps) claim(app, what string) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other, ok := b.apps[app]; ok {
		return nil, router.Errorf(router.CodeConflict, "a %s of %s is already running; wait until it ends and try again", other, app)
	}
	if b.apps == nil {
		b.apps = map[string]string{}
	}
	b.apps[app] = what
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.apps, app)
	}, nil
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// discard is a ResponseWriter whose body nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
