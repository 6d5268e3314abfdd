package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// Variable is one variable of an app's environment.
type Variable struct {
	Name   string `json:"name"`
	Value  string `json:"value" doc:"[secret] for variables set by env"`
	Secret bool   `json:"secret" doc:"Set by env, not by the manifest"`
}

// EnvChange changes the variables that belong to the app, not to its manifest.
type EnvChange struct {
	Set   map[string]string `json:"set,omitempty" doc:"Names and values; the values are never shown again"`
	Unset []string          `json:"unset,omitempty" doc:"Names"`
}

func (s *Server) registerEnv() {
	register(s, huma.Operation{
		OperationID: "list-env", Method: http.MethodGet, Path: "/v1/apps/{app}/env", Summary: "The environment of the serving release", Tags: []string{"env"},
	}, func(_ context.Context, in *AppPath) ([]Variable, error) {
		st, err := s.find(in.App)
		if err != nil {
			return nil, err
		}
		return variables(st), nil
	})
	type input struct {
		AppPath
		Body EnvChange
	}
	registerStream[DeployEvent](s, huma.Operation{
		OperationID: "change-env", Method: http.MethodPatch, Path: "/v1/apps/{app}/env", Summary: "Set and unset variables: a new release with the serving one's image", Tags: []string{"env"},
	}, func(ctx context.Context, in *input) (streaming, error) {
		var deploy router.Deploy
		var unchanged *router.AppState
		by := caller(ctx)
		return s.deploying(ctx, in.App, "change of the environment", func(st router.AppState) error {
			changes, err := secretChanges(st, in.Body)
			if err != nil {
				return err
			}
			serving, ok := st.Serving()
			if !ok {
				return router.Errorf(router.CodeConflict, "%s has no release that serves; push it first", in.App)
			}
			if len(changes) == 0 {
				unchanged = &st
				return nil
			}
			next := *serving
			next.Note, next.Failed = envNote(in.Body), ""
			deploy = router.Deploy{App: in.App, By: by, Release: next, Secrets: changes}
			return nil
		}, func(ctx context.Context, d deployStream) (router.AppState, Deployed, error) {
			if unchanged != nil {
				return *unchanged, Deployed{Unchanged: true}, nil
			}
			st, err := s.b.Deployer.Deploy(ctx, deploy, d.progress)
			return st, Deployed{}, err
		})
	})
}

// variables are the manifest's and the app's own, by name; the app's win.
func variables(st *router.AppState) []Variable {
	list := []Variable{}
	if serving, ok := st.Serving(); ok {
		for name, value := range serving.Env {
			if _, hidden := st.App.Secrets[name]; !hidden {
				list = append(list, Variable{Name: name, Value: value})
			}
		}
	}
	for name, value := range st.App.Secrets {
		list = append(list, Variable{Name: name, Value: value.String(), Secret: true})
	}
	slices.SortFunc(list, func(a, b Variable) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// secretChanges checks a change and leaves out of it what is so already.
func secretChanges(st router.AppState, change EnvChange) (map[string]*router.Secret, error) {
	var bad []router.Violation
	changes := map[string]*router.Secret{}
	if len(change.Set)+len(change.Unset) == 0 {
		bad = append(bad, router.Violation{Field: "set", Limit: "nothing to set or unset", Remedy: "write NAME=VALUE"})
	}
	for _, name := range names(change.Set) {
		value := change.Set[name]
		if v := router.CheckEnvName(name, name); v != nil {
			bad = append(bad, *v)
			continue
		}
		if strings.ContainsRune(value, 0) || len(value) > 128<<10 {
			bad = append(bad, router.Violation{Field: name, Limit: "text without NUL, of at most 128KB", Remedy: "put large values into the image or a store of their own"})
			continue
		}
		secret := router.NewSecret(value)
		if st.App.Secrets[name] != secret || !has(st.App.Secrets, name) {
			changes[name] = &secret
		}
	}
	for _, name := range change.Unset {
		if _, both := change.Set[name]; both {
			bad = append(bad, router.Violation{Field: name, Limit: "cannot be set and unset at once", Remedy: "do one of the two"})
			continue
		}
		if !has(st.App.Secrets, name) {
			v := router.Violation{Field: name, Limit: "is not set", Remedy: fmt.Sprintf("`fluxgate env %s` lists what is", st.App.Name)}
			if serving, ok := st.Serving(); ok && has(serving.Env, name) {
				v.Limit, v.Remedy = "comes from the manifest", "remove it from [env] in fluxgate.toml and push"
			}
			bad = append(bad, v)
			continue
		}
		changes[name] = nil
	}
	return changes, router.Invalid("the environment", bad)
}

func has[V any](m map[string]V, key string) bool {
	_, ok := m[key]
	return ok
}

// envNote says what a release is for, with names only.
func envNote(change EnvChange) string {
	var parts []string
	if len(change.Set) > 0 {
		parts = append(parts, "env set "+strings.Join(names(change.Set), " "))
	}
	if len(change.Unset) > 0 {
		parts = append(parts, "env unset "+strings.Join(slices.Sorted(slices.Values(change.Unset)), " "))
	}
	return strings.Join(parts, ", ")
}
