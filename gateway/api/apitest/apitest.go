// Package apitest runs a control API for tests: the real server over a real
// Redis, with an engine that only remembers.
package apitest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
	"github.com/fluxgate/fluxgate/router/state"
)

// Rig is a running control API and what it stands on.
type Rig struct {
	URL     string
	Token   router.Secret // of the token named admin
	Client  *api.Client   // with that token
	Server  *api.Server
	Store   *state.Store
	Catalog *router.Catalog
	Engine  *Engine
	Spool   string   // the server's SpoolDir
	Log     *LogText // everything that the server logged

	mu    sync.Mutex
	last  context.Context // of the last request
	clock time.Time       // the server's, where it was set
}

// SetNow stops the server's clock at a moment.
func (r *Rig) SetNow(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = at
}

func (r *Rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clock.IsZero() {
		return time.Now()
	}
	return r.clock
}

// LastRequest is the context of the request that came last. It ends when the
// server has noticed that the client is gone, or has answered.
func (r *Rig) LastRequest() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// Start runs a control API until the test ends.
func Start(t testing.TB) *Rig {
	t.Helper()
	r := &Rig{Store: openStore(t), Catalog: router.NewCatalog(), Spool: t.TempDir(), Log: &LogText{}}
	apps := applied{r.Store, r.Catalog}
	r.Engine = &Engine{apps: apps, Checks: []api.Check{{Name: "redis", Status: api.CheckOK, Detail: "answers"}}}
	server, err := api.New(api.Backend{
		Apps: apps, Catalog: r.Catalog, Deployer: r.Engine, Builder: r.Engine, Logs: r.Engine,
		History: r.Store, Activity: r.Store, Tokens: r.Store, Recorder: r.Engine,
		Doctor: func(context.Context) []api.Check { return r.Engine.Checks },
		Domain: "localhost", HTTPSPort: 8443, Version: "v0.0.0-test", SpoolDir: r.Spool,
		Now:    r.now,
		Logger: slog.New(slog.NewTextHandler(r.Log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = server
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.last = req.Context()
		r.mu.Unlock()
		server.ServeHTTP(w, req)
	}))
	t.Cleanup(func() {
		r.Engine.Release()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		listener.Close()
	})
	r.URL = listener.URL
	token, text := router.NewToken("admin", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	if err := r.Store.PutToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	r.Token = text
	if r.Client, err = api.NewClient(api.ClientOptions{URL: r.URL, Token: text}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Client.Close)
	return r
}

func openStore(t testing.TB) *state.Store {
	t.Helper()
	dir, err := os.MkdirTemp("", "fg") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	silent := slog.New(slog.DiscardHandler)
	redis, err := state.StartServer(t.Context(), dir, silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := redis.Close(ctx); err != nil {
			t.Errorf("closing redis: %v", err)
		}
	})
	store, err := state.Open(t.Context(), state.Options{URL: redis.URL(), Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// applied is a store whose writes reach the Catalog at once, as in the product.
type applied struct {
	*state.Store
	catalog *router.Catalog
}

func (a applied) Update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error) {
	st, err := a.Store.Update(ctx, app, fn)
	if err == nil {
		a.catalog.Apply(st)
	}
	return st, err
}

// Update changes an app's record as somebody else would.
func (r *Rig) Update(t testing.TB, app string, fn func(*router.AppState)) router.AppState {
	t.Helper()
	st, err := applied{r.Store, r.Catalog}.Update(t.Context(), app, func(st *router.AppState) error { fn(st); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// Created is when Deployed's apps came to be.
var Created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Deployed makes an app whose release v1 serves.
func (r *Rig) Deployed(t testing.TB, app string) router.AppState {
	t.Helper()
	return r.Update(t, app, func(st *router.AppState) {
		st.App.Owner, st.App.Created, st.App.Policy = "admin", Created, router.DefaultPolicy()
		st.App.Current = st.AddRelease(router.Release{
			Image: "sha256:0001", Source: router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"},
			Run: router.DefaultRun(), Env: map[string]string{"GREETING": "hi"}, Digest: "sha256:1", By: "admin", Note: "push", Created: Created,
		})
	})
}

// Load is an app's stored record.
func (r *Rig) Load(t testing.TB, app string) router.AppState {
	t.Helper()
	st, err := r.Store.Load(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// LogText keeps what is written to it.
type LogText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *LogText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String is all of it.
func (l *LogText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

var _ io.Writer = (*LogText)(nil)
