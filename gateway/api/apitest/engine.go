package apitest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

// Engine deploys by writing the record and starts nothing; it builds by reading
// the context to its end. The fields may be set before a call.
type Engine struct {
	BuildErr  error // Build fails with it, after its output
	DeployErr error // Deploy fails with it, before it writes
	Output    string
	Lines     []router.LogLine
	Checks    []api.Check
	Recorded  router.Traffic // what Traffic cuts its answers from

	apps api.Apps

	mu      sync.Mutex
	builds  []Build
	kicked  []string
	holdAt  string // "build" or "deploy": who waits for hold
	hold    chan struct{}
	held    chan struct{}
	deploys int
}

// Build is what one build got.
type Build struct {
	App     string
	Source  router.Source
	Context []byte // nil where there was none
}

// Hold makes every "build" or every "deploy" wait until Release. The func waits
// until one does.
func (e *Engine) Hold(at string) (await func(testing.TB)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := make(chan struct{}, 100)
	e.holdAt, e.hold, e.held = at, make(chan struct{}), held
	return func(t testing.TB) {
		t.Helper()
		select {
		case <-held:
		case <-time.After(10 * time.Second):
			t.Fatalf("no %s within 10s", at)
		}
	}
}

// Release ends Hold.
func (e *Engine) Release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hold != nil {
		close(e.hold)
		e.hold = nil
	}
}

func (e *Engine) wait(ctx context.Context, what string) error {
	e.mu.Lock()
	hold, held, at := e.hold, e.held, e.holdAt
	e.mu.Unlock()
	if hold == nil || at != what {
		return ctx.Err()
	}
	held <- struct{}{}
	select {
	case <-hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Builds are all builds so far.
func (e *Engine) Builds() []Build {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Build(nil), e.builds...)
}

// Deploys is how many deploys were asked for.
func (e *Engine) Deploys() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.deploys
}

// Kicked are the apps that were kicked.
func (e *Engine) Kicked() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.kicked...)
}

// Build implements api.Builder. The image's ID follows from what it got.
func (e *Engine) Build(ctx context.Context, app string, src router.Source, tarball io.Reader, out io.Writer) (string, error) {
	b := Build{App: app, Source: src}
	if tarball != nil {
		var err error
		if b.Context, err = io.ReadAll(tarball); err != nil {
			return "", err
		}
	}
	e.mu.Lock()
	e.builds = append(e.builds, b)
	e.mu.Unlock()
	if _, err := io.WriteString(out, e.Output); err != nil {
		return "", err
	}
	if err := e.wait(ctx, "build"); err != nil {
		return "", err
	}
	if e.BuildErr != nil {
		return "", e.BuildErr
	}
	sum := sha256.Sum256(append(b.Context, src.Path...))
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Deploy implements api.Deployer.
func (e *Engine) Deploy(ctx context.Context, d router.Deploy, progress func(router.DeployStep)) (router.AppState, error) {
	e.mu.Lock()
	e.deploys++
	e.mu.Unlock()
	progress(router.DeployStep{Name: "start", Text: "starting the first instance"})
	if err := e.wait(ctx, "deploy"); err != nil {
		return router.AppState{}, err
	}
	if e.DeployErr != nil {
		return router.AppState{}, e.DeployErr
	}
	progress(router.DeployStep{Name: "probe", Text: "waiting until it answers"})
	return e.apps.Update(ctx, d.App, func(st *router.AppState) error {
		if st.Version == 0 {
			st.App.Owner, st.App.Created, st.App.Policy = d.By, Created, router.DefaultPolicy()
		}
		next, bad := st.App.Policy.With(d.Scale, "scale.")
		if len(bad) > 0 {
			return router.Invalid("the push", bad)
		}
		st.App.SetPolicy(next, d.By, Created)
		if d.Domains != nil {
			st.App.Domains = d.Domains
		}
		for name, secret := range d.Secrets {
			if secret == nil {
				delete(st.App.Secrets, name)
				continue
			}
			if st.App.Secrets == nil {
				st.App.Secrets = map[string]router.Secret{}
			}
			st.App.Secrets[name] = *secret
		}
		rel := d.Release
		rel.By, rel.Secrets, rel.Created = d.By, st.App.Secrets, Created
		st.App.Current = st.AddRelease(rel)
		return nil
	})
}

// Rollback implements api.Deployer.
func (e *Engine) Rollback(ctx context.Context, app string, number int, _ string, progress func(router.DeployStep)) (router.AppState, error) {
	progress(router.DeployStep{Name: "start", Text: "thawing an instance"})
	return e.apps.Update(ctx, app, func(st *router.AppState) error {
		if number == 0 {
			number = st.App.Current - 1
		}
		if _, ok := st.Release(number); !ok {
			return router.Errorf(router.CodeNotFound, "%s has no release before v%d", app, st.App.Current)
		}
		st.App.Current = number
		return nil
	})
}

// Delete implements api.Deployer.
func (e *Engine) Delete(ctx context.Context, app string) error {
	_, err := e.apps.Update(ctx, app, func(st *router.AppState) error { st.Deleted = true; return nil })
	return err
}

// Kick implements api.Deployer.
func (e *Engine) Kick(app string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kicked = append(e.kicked, app)
}

// Logs implements api.LogReader: the last of Lines, and when following, then
// nothing until the context ends.
func (e *Engine) Logs(ctx context.Context, _ string, _ []router.Instance, opts api.LogOptions, fn func(router.LogLine) error) error {
	lines := e.Lines
	if opts.Lines > 0 && len(lines) > opts.Lines {
		lines = lines[len(lines)-opts.Lines:]
	}
	for _, l := range lines {
		if l.At.Before(opts.Since) {
			continue
		}
		if err := fn(l); err != nil {
			return fmt.Errorf("handing on a line: %w", err)
		}
	}
	if opts.Follow {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// Traffic implements api.Recorder.
func (e *Engine) Traffic(ctx context.Context, _ string, from, to time.Time) (router.Traffic, error) {
	t := e.Recorded
	if from.After(t.From) {
		t.Requests = t.Requests[min(len(t.Requests), int(from.Sub(t.From)/time.Second)):]
		t.From = from
	}
	t.Requests = t.Requests[:max(0, min(len(t.Requests), int(to.Sub(t.From)/time.Second)))]
	return t, ctx.Err()
}

var (
	_ api.Deployer  = (*Engine)(nil)
	_ api.Recorder  = (*Engine)(nil)
	_ api.Builder   = (*Engine)(nil)
	_ api.LogReader = (*Engine)(nil)
)
