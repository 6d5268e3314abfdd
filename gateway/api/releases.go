package api

import (
	"context"
	"net/http"
	"slices"
	"sort"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// Release is an immutable version of an app.
type Release struct {
	Number  int               `json:"number"`
	Serving bool              `json:"serving"`
	Image   string            `json:"image" doc:"Image ID on the nodes"`
	Source  Source            `json:"source"`
	Run     Run               `json:"run"`
	Env     map[string]string `json:"env" doc:"The manifest's variables"`
	Secrets []string          `json:"secrets" doc:"Names of the variables set by env; their values are never shown"`
	Failed  string            `json:"failed,omitempty" doc:"Why it never served"`
	By      string            `json:"by" doc:"Name of the token that made it"`
	Note    string            `json:"note" doc:"What made it"`
	Created time.Time         `json:"created"`
}

// Source is what an image is made from.
type Source struct {
	Kind router.SourceKind `json:"kind" enum:"containerfile,static,image"`
	Path string            `json:"path" doc:"The Containerfile, the folder (both relative to the context) or the image reference"`
}

// Run is how a release's containers are started and reached.
type Run struct {
	Command []string `json:"command" doc:"Empty: the image's own"`
	Port    int      `json:"port"`
	Health  string   `json:"health,omitempty" doc:"Path of the health check; empty: a TCP connection"`
	Timeout string   `json:"timeout" doc:"Longest wait for the first byte, e.g. 60s"`
	CPU     float64  `json:"cpu" doc:"Cores; 0: no limit"`
	Memory  string   `json:"memory" doc:"e.g. 512MB; 0B: no limit"`
}

// Rollback asks for an older release to serve.
type Rollback struct {
	Release int `json:"release,omitempty" minimum:"0" doc:"Its number; 0 or absent: the one before the serving one"`
}

func (s *Server) registerReleases() {
	register(s, huma.Operation{
		OperationID: "list-releases", Method: http.MethodGet, Path: "/v1/apps/{app}/releases", Summary: "The releases that are kept, newest first", Tags: []string{"releases"},
	}, func(_ context.Context, in *AppPath) ([]Release, error) {
		st, err := s.find(in.App)
		if err != nil {
			return nil, err
		}
		list := make([]Release, 0, len(st.Releases))
		for _, r := range slices.Backward(st.Releases) {
			list = append(list, releaseOf(r, st.App.Current))
		}
		return list, nil
	})
	type input struct {
		AppPath
		Body Rollback
	}
	registerStream[DeployEvent](s, huma.Operation{
		OperationID: "rollback", Method: http.MethodPost, Path: "/v1/apps/{app}/rollback", Summary: "Let an older release serve", Tags: []string{"releases"},
	}, func(ctx context.Context, in *input) (streaming, error) {
		number, by := in.Body.Release, caller(ctx)
		return s.deploying(ctx, in.App, "rollback", func(st router.AppState) error {
			if number == 0 {
				return nil
			}
			if number == st.App.Current {
				return router.Errorf(router.CodeConflict, "v%d of %s is serving already", number, in.App)
			}
			if _, ok := st.Release(number); !ok {
				return router.Errorf(router.CodeNotFound, "%s has no release v%d; `fluxgate releases %s` lists those that are kept", in.App, number, in.App)
			}
			return nil
		}, func(ctx context.Context, d deployStream) (router.AppState, Deployed, error) {
			st, err := s.b.Deployer.Rollback(ctx, in.App, number, by, d.progress)
			return st, Deployed{}, err
		})
	})
}

func releaseOf(r router.Release, current int) Release {
	env := r.Env
	if env == nil {
		env = map[string]string{}
	}
	command := r.Run.Command
	if command == nil {
		command = []string{}
	}
	return Release{
		Number: r.Number, Serving: r.Number == current, Image: r.Image, Source: Source{r.Source.Kind, r.Source.Path},
		Run: Run{command, r.Run.Port, r.Run.Health, r.Run.Timeout.String(), r.Run.CPU, r.Run.Memory.String()},
		Env: env, Secrets: names(r.Secrets), Failed: r.Failed, By: r.By, Note: r.Note, Created: r.Created,
	}
}

// names are a map's keys, sorted; never nil.
func names[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	sort.Strings(list)
	return list
}
