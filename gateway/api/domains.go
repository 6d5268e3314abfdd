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

// Domain is one hostname of an app.
type Domain struct {
	Host string `json:"host"`
	URL  string `json:"url"`
	Main bool   `json:"main" doc:"The hostname that every app has, NAME.DOMAIN; it cannot be removed"`
}

// AddDomain names a hostname to add.
type AddDomain struct {
	Host string `json:"host" maxLength:"1024" doc:"e.g. app.example.com"`
}

func (s *Server) registerDomains() {
	register(s, huma.Operation{
		OperationID: "list-domains", Method: http.MethodGet, Path: "/v1/apps/{app}/domains", Summary: "The hostnames of an app", Tags: []string{"domains"},
	}, func(_ context.Context, in *AppPath) ([]Domain, error) {
		st, err := s.find(in.App)
		if err != nil {
			return nil, err
		}
		return s.domains(*st), nil
	})
	type add struct {
		AppPath
		Body AddDomain
	}
	register(s, huma.Operation{
		OperationID: "add-domain", Method: http.MethodPost, Path: "/v1/apps/{app}/domains", Summary: "Lead one more hostname to an app", Tags: []string{"domains"},
	}, func(ctx context.Context, in *add) ([]Domain, error) {
		host, v := router.ParseDomain("host", in.Body.Host)
		if v == nil {
			v = s.checkDomain("host", in.App, host)
		}
		if v != nil {
			return nil, router.Invalid("the hostname", []router.Violation{*v})
		}
		st, err := s.update(ctx, in.App, func(st *router.AppState) error {
			if !slices.Contains(st.App.Domains, host) {
				st.App.Domains = append(st.App.Domains, host)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return s.domains(st), nil
	})
	type remove struct {
		AppPath
		Host string `path:"host" maxLength:"1024" doc:"The hostname"`
	}
	register(s, huma.Operation{
		OperationID: "remove-domain", Method: http.MethodDelete, Path: "/v1/apps/{app}/domains/{host}", Summary: "Take a hostname from an app", Tags: []string{"domains"},
	}, func(ctx context.Context, in *remove) ([]Domain, error) {
		host, v := router.ParseDomain("host", in.Host)
		if v != nil {
			return nil, router.Invalid("the hostname", []router.Violation{*v})
		}
		st, err := s.update(ctx, in.App, func(st *router.AppState) error {
			if host == in.App+"."+s.b.Domain {
				return router.Errorf(router.CodeConflict, "%s is %s's main hostname and stays", host, in.App)
			}
			i := slices.Index(st.App.Domains, host)
			if i < 0 {
				return router.Errorf(router.CodeNotFound, "%s has no domain %s; `fluxgate domains %s` lists those that it has", in.App, host, in.App)
			}
			st.App.Domains = slices.Delete(st.App.Domains, i, i+1)
			return nil
		})
		if err != nil {
			return nil, err
		}
		return s.domains(st), nil
	})
}

func (s *Server) domains(st router.AppState) []Domain {
	list := []Domain{}
	for i, host := range st.App.Hosts(s.b.Domain) {
		list = append(list, Domain{Host: host, URL: s.url(host), Main: i == 0})
	}
	return list
}

// checkDomain says why app cannot have a hostname that ParseDomain let through.
// Another gateway may still be faster: the store has the last word.
func (s *Server) checkDomain(field, app, host string) *router.Violation {
	if host == s.b.Domain || strings.HasSuffix(host, "."+s.b.Domain) {
		return &router.Violation{
			Field: field, Value: fmt.Sprintf("%q", host),
			Limit:  fmt.Sprintf("hostnames under %s come from apps' names", s.b.Domain),
			Remedy: "leave it out, or name the app so",
		}
	}
	if owner, ok := s.b.Catalog.Owner(host); ok && owner != app {
		return &router.Violation{
			Field: field, Value: fmt.Sprintf("%q", host),
			Limit:  fmt.Sprintf("belongs to the app %s", owner),
			Remedy: fmt.Sprintf("remove it there first: fluxgate domains %s rm %s", owner, host),
		}
	}
	return nil
}

// update changes an app that must exist.
func (s *Server) update(ctx context.Context, app string, fn func(*router.AppState) error) (router.AppState, error) {
	return s.b.Apps.Update(ctx, app, func(st *router.AppState) error {
		if st.Version == 0 {
			return router.Errorf(router.CodeNotFound, "there is no app %q; `fluxgate apps` lists them", app)
		}
		return fn(st)
	})
}
