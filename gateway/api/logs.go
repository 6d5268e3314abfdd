package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

func (s *Server) registerLogs() {
	type input struct {
		AppPath
		Lines  int       `query:"lines" minimum:"0" maximum:"1000000" default:"100" doc:"Last lines to begin with; 0 means all that are kept"`
		Since  time.Time `query:"since" doc:"Leave out what is older"`
		Follow bool      `query:"follow" doc:"Go on with what is written from now on"`
	}
	registerStream[LogLine](s, huma.Operation{
		OperationID: "logs", Method: http.MethodGet, Path: "/v1/apps/{app}/logs", Summary: "What an app's instances wrote, those that are gone included", Tags: []string{"apps"},
	}, func(_ context.Context, in *input) (streaming, error) {
		st, err := s.find(in.App)
		if err != nil {
			return nil, err
		}
		opts := LogOptions{Lines: in.Lines, Since: in.Since, Follow: in.Follow}
		return func(ctx context.Context, out *lines) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(s.stopping, cancel)()
			err := s.b.Logs.Logs(ctx, in.App, st.Instances, opts, func(l router.LogLine) error {
				return out.send(LogLine{LogLine: l})
			})
			if ctx.Err() != nil && in.Follow {
				return nil // that is how following ends
			}
			return err
		}, nil
	})
}
