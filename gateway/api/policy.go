package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// Setting is one field of an app's policy.
type Setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Default string `json:"default"`
	Limit   string `json:"limit" doc:"What it may be"`
	Doc     string `json:"doc" doc:"What it means"`
	// A pointer, as a setting may have been empty before.
	Previous *string `json:"previous,omitempty" doc:"In the answer to a change: what it was before, where it changed"`
}

// PolicyChange changes some fields of a policy.
type PolicyChange struct {
	Set map[string]string `json:"set" doc:"New values by key; durations as 30s, 10m, 24h or never"`
}

func (s *Server) registerPolicy() {
	register(s, huma.Operation{
		OperationID: "get-policy", Method: http.MethodGet, Path: "/v1/apps/{app}/policy", Summary: "How an app scales and sleeps", Tags: []string{"policy"},
	}, func(_ context.Context, in *AppPath) ([]Setting, error) {
		st, err := s.find(in.App)
		if err != nil {
			return nil, err
		}
		return settings(st.App.Policy, st.App.Policy), nil
	})
	type historyInput struct {
		AppPath
		Limit int `query:"limit" minimum:"1" maximum:"100" default:"100" doc:"How many changes"`
	}
	register(s, huma.Operation{
		OperationID: "policy-history", Method: http.MethodGet, Path: "/v1/apps/{app}/policy/history", Summary: "Who changed an app's policy when; the last 100 changes, newest first", Tags: []string{"policy"},
	}, func(ctx context.Context, in *historyInput) ([]router.PolicyEdit, error) {
		if _, err := s.find(in.App); err != nil {
			return nil, err
		}
		list, err := s.b.History.PolicyHistory(ctx, in.App)
		if list == nil {
			list = []router.PolicyEdit{}
		}
		return list[:min(len(list), in.Limit)], err
	})
	type input struct {
		AppPath
		Body PolicyChange
	}
	register(s, huma.Operation{
		OperationID: "change-policy", Method: http.MethodPatch, Path: "/v1/apps/{app}/policy", Summary: "Change how an app scales and sleeps; all or nothing", Tags: []string{"policy"},
	}, func(ctx context.Context, in *input) ([]Setting, error) {
		var before router.Policy
		st, err := s.update(ctx, in.App, func(st *router.AppState) error {
			before = st.App.Policy
			next, bad := st.App.Policy.With(in.Body.Set, "")
			if len(bad) > 0 {
				return router.Invalid("the policy", bad)
			}
			st.App.SetPolicy(next, caller(ctx), s.now())
			return nil
		})
		if err != nil {
			return nil, err
		}
		s.b.Deployer.Kick(in.App)
		return settings(before, st.App.Policy), nil
	})
}

// settings are a policy's fields, with what they were before.
func settings(before, p router.Policy) []Setting {
	list := make([]Setting, 0, len(router.PolicyFields))
	for _, f := range router.PolicyFields {
		s := Setting{Key: f.Key, Value: f.Get(p), Default: f.Get(router.DefaultPolicy()), Limit: f.Limit, Doc: f.Doc}
		if was := f.Get(before); was != s.Value {
			s.Previous = &was
		}
		list = append(list, s)
	}
	return list
}
