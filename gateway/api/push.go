package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

func (s *Server) registerPush() {
	type check struct {
		AppPath
		Body PushSpec
	}
	register(s, huma.Operation{
		OperationID: "check-push", Method: http.MethodPost, Path: "/v1/apps/{app}/push/check", Summary: "What a push would do, or everything that is wrong with it, before its context is sent", Tags: []string{"push"},
	}, func(ctx context.Context, in *check) (Verdict, error) {
		p, err := s.plan(ctx, in.App, in.Body)
		if err != nil {
			return Verdict{}, err
		}
		v := Verdict{Verdict: p.verdict(), App: p.app, Release: p.state.App.Current}
		for _, host := range p.state.App.Hosts(s.b.Domain) {
			v.URLs = append(v.URLs, s.url(host))
		}
		return v, nil
	})

	schemas := s.huma.OpenAPI().Components.Schemas
	spec := schemas.Schema(reflect.TypeFor[PushSpec](), true, "")
	registerStream[DeployEvent](s, huma.Operation{
		OperationID: "push", Method: http.MethodPost, Path: "/v1/apps/{app}/push", Summary: "Build, start and let serve", Tags: []string{"push"},
		Description: "The part manifest comes first. The part context is a gzipped tar of the folder; images have none. A client that goes away stops the build; once the release is being started, that goes on.",
	}, func(ctx context.Context, in *AppPath) (streaming, error) {
		begun := time.Now()
		free, err := s.busy.claim(in.App, "push")
		if err != nil {
			return nil, err
		}
		if err := s.begin(); err != nil {
			free()
			return nil, err
		}
		end := func() { s.work.Done(); free() }
		p, upload, err := s.receive(ctx, in.App)
		if err != nil {
			end()
			return nil, err
		}
		by := caller(ctx)
		return func(ctx context.Context, out *lines) error {
			defer end()
			defer func() {
				if err := upload.Close(); err != nil {
					s.log.Error("an upload stays on disk", "app", in.App, "error", err)
				}
			}()
			d := deployStream{out, &stopwatch{name: "upload", since: begun}}
			return s.push(ctx, p, upload, by, d)
		}, nil
	})
	// Described only now: a body that huma knows of it reads whole, into memory.
	s.huma.OpenAPI().Paths["/v1/apps/{app}/push"].Post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"multipart/form-data": {
		Schema: &huma.Schema{Type: huma.TypeObject, Required: []string{"manifest"}, Properties: map[string]*huma.Schema{
			"manifest": spec, "context": {Type: huma.TypeString, Format: "binary"},
		}},
		Encoding: map[string]*huma.Encoding{"manifest": {ContentType: "application/json"}, "context": {ContentType: "application/gzip"}},
	}}}
}

// receive reads and checks a push. The body is read to its end before the
// answer begins: the API is reached through a proxy that need not do both at
// once, and only then does net/http tell that a client went away.
func (s *Server) receive(ctx context.Context, app string) (_ *plan, _ *spooled, err error) {
	x := exchangeOf(ctx)
	x.r.Body = struct {
		io.Reader
		io.Closer
	}{patientReader{x.r.Body, x.rc}, x.r.Body}
	defer func() { _ = x.rc.SetReadDeadline(time.Time{}) }()

	parts, err := x.r.MultipartReader()
	if err != nil {
		return nil, nil, badBody("multipart/form-data", "send a part manifest and, unless it is an image, a part context")
	}
	spec, err := readSpec(parts, s.huma)
	if err != nil {
		return nil, nil, err
	}
	p, err := s.plan(ctx, app, spec)
	if err != nil {
		return nil, nil, err
	}
	var upload *spooled
	part, err := parts.NextPart()
	switch {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, nil, spoolError(err)
	case part.FormName() != "context":
		return nil, nil, badBody("no part but manifest and context", "see /openapi.json")
	default:
		if upload, err = spool(s.b.SpoolDir, part, MaxContext); err != nil {
			return nil, nil, err
		}
	}
	_, err = io.Copy(io.Discard, io.LimitReader(x.r.Body, 64<<10))
	if err == nil && upload == nil && p.release.Source.Kind != router.SourceImage && p.verdict() == VerdictPush {
		err = router.Invalid("the push", []router.Violation{{Field: "context", Limit: "is missing", Remedy: "send the folder as a gzipped tar"}})
	}
	if err != nil {
		return nil, nil, errors.Join(err, upload.Close())
	}
	if upload != nil && p.release.Digest == "" {
		p.release.Digest = upload.digest
	}
	return p, upload, nil
}

func badBody(limit, remedy string) error {
	return router.Invalid("the request", []router.Violation{{Field: "body", Limit: limit, Remedy: remedy}})
}

// readSpec reads the part manifest and holds it against its schema.
func readSpec(parts *multipart.Reader, api huma.API) (PushSpec, error) {
	part, err := parts.NextPart()
	if err != nil || part.FormName() != "manifest" {
		return PushSpec{}, badBody("the part manifest first", "see /openapi.json")
	}
	text, err := io.ReadAll(io.LimitReader(part, 1<<20))
	if err != nil {
		return PushSpec{}, spoolError(err)
	}
	var tree any
	var spec PushSpec
	if json.Unmarshal(text, &tree) != nil {
		return PushSpec{}, badBody("JSON in the part manifest", "see /openapi.json")
	}
	schemas, result := api.OpenAPI().Components.Schemas, &huma.ValidateResult{}
	schema := schemas.Schema(reflect.TypeFor[PushSpec](), true, "")
	huma.Validate(schemas, schema, huma.NewPathBuffer([]byte("body"), 4), huma.ModeWriteToServer, tree, result)
	if len(result.Errors) > 0 {
		var bad []router.Violation
		for _, err := range result.Errors {
			var d huma.ErrorDetailer
			if errors.As(err, &d) {
				bad = append(bad, violationOf(d.ErrorDetail()))
			}
		}
		return PushSpec{}, router.Invalid("the push", bad)
	}
	return spec, json.Unmarshal(text, &spec)
}

// push builds, deploys and tells how it went. The build ends when the client
// goes away; the deploy does not.
func (s *Server) push(ctx context.Context, p *plan, upload *spooled, by string, d deployStream) error {
	if p.sameRelease() {
		return s.unchanged(ctx, p, by, d)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*deployTimeout)
	defer cancel()
	defer context.AfterFunc(s.base, cancel)()

	d.step("build", buildText(p.release.Source))
	var tarball io.Reader
	if upload != nil {
		tarball = upload.file
	}
	output := &lineWriter{line: func(text string) { _ = d.out.send(DeployEvent{Event: EventLog, Text: text}) }}
	image, err := s.b.Builder.Build(ctx, p.app, p.release.Source, tarball, output)
	output.flush()
	if err != nil {
		return err
	}
	p.release.Image = image
	if p.release.Source.Kind == router.SourceImage {
		p.release.Digest = image
		if p.sameRelease() {
			return s.unchanged(ctx, p, by, d)
		}
	}
	if err := ctx.Err(); err != nil {
		return err // the client is gone and nothing is stored yet
	}
	deployCtx, cancelDeploy := s.deployContext(ctx)
	defer cancelDeploy()
	st, err := s.b.Deployer.Deploy(deployCtx, router.Deploy{
		App: p.app, By: by, Release: p.release, Domains: p.manifest.Domains, Scale: p.manifest.Scale,
	}, d.progress)
	if err != nil {
		return err
	}
	s.finish(d, st, Deployed{})
	return nil
}

// unchanged ends a push that needs no new release; policy and domains may still
// differ.
func (s *Server) unchanged(ctx context.Context, p *plan, by string, d deployStream) error {
	if !p.newSettings() {
		s.finish(d, p.state, Deployed{Unchanged: true})
		return nil
	}
	st, err := s.update(ctx, p.app, func(st *router.AppState) error {
		p.applySettings(&st.App, by, s.now())
		return nil
	})
	if err != nil {
		return err
	}
	s.b.Deployer.Kick(p.app)
	s.finish(d, st, Deployed{Unchanged: true, Settings: true})
	return nil
}

func buildText(src router.Source) string {
	switch src.Kind {
	case router.SourceImage:
		return "getting the image " + src.Path
	case router.SourceStatic:
		return "building a static site"
	}
	return "building with " + src.Path
}

// maxLine is where an endless line of build output is cut.
const maxLine = 8 << 10

// lineWriter hands on what is written to it line by line.
type lineWriter struct {
	mu   sync.Mutex
	buf  []byte
	line func(string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.buf = append(w.buf, p...)
			if len(w.buf) >= maxLine {
				w.emit()
			}
			break
		}
		w.buf = append(w.buf, p[:i]...)
		w.emit()
		p = p[i+1:]
	}
	return n, nil
}

func (w *lineWriter) emit() {
	w.line(string(bytes.ToValidUTF8(bytes.TrimRight(w.buf, "\r"), []byte("?"))))
	w.buf = w.buf[:0]
}

// flush hands on the last line, if it had no end.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) > 0 {
		w.emit()
	}
}
