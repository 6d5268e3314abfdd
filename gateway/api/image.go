package api

import (
	"context"
	"net/http"

	"github.com/fluxgate/fluxgate/router"
)

// PushImage deploys an image that was pushed to the registry. An app that is
// there keeps its configuration; a new one gets the defaults. The same image
// again makes no release. It returns when the app serves it, or with the error
// to tell the one who pushes.
//
// Errors: CodeInvalid (no app's name), CodeConflict (another deploy of the app
// is under way), and those of a deploy.
func (s *Server) PushImage(ctx context.Context, app, reference, by string) error {
	free, err := s.busy.claim(app, "push")
	if err != nil {
		return err
	}
	defer free()
	if err := s.begin(); err != nil {
		return err
	}
	defer s.work.Done()
	p, err := s.plan(ctx, app, PushSpec{Source: &Source{Kind: router.SourceImage, Path: reference}})
	if err != nil {
		return err
	}
	p.manifest.Domains, p.manifest.Scale = nil, nil
	if serving, ok := p.state.Serving(); ok {
		p.release.Run, p.release.Env = serving.Run, serving.Env
		if serving.Source.Kind == router.SourceImage {
			p.release.Source = router.Source{Kind: router.SourceImage, Path: reference}
		}
	}
	p.release.Note = "image push"
	silent := &lines{w: nowhere{}, rc: http.NewResponseController(nowhere{})}
	return s.push(ctx, p, nil, by, deployStream{silent, &stopwatch{name: "build"}})
}

// nowhere takes the progress that nobody reads.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}
