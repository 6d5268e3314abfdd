package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

// leaser is a function as a Leaser.
type leaser func(app, instance string, until time.Time) (time.Time, error)

func (l leaser) Lease(_ context.Context, app, instance string, until time.Time) (time.Time, error) {
	return l(app, instance, until)
}

func TestBusyCalls(t *testing.T) {
	catalog := router.NewCatalog()
	catalog.Apply(router.AppState{Version: 1, App: router.App{Name: "a"}, Instances: []router.Instance{
		{ID: "a-1-1", App: "a", State: router.Ready, Addr: "10.70.0.2:8080"}, {ID: "a-1-2", App: "a", State: router.Stopped},
	}})
	granted := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tc := range map[string]struct {
		method, path, from, body string
		err                      error
		none                     bool // the lease ended
		status                   int
		answer                   string
		asked                    bool
	}{
		"a lease":                 {status: 200, answer: "2030-01-02T03:04:05Z\n", asked: true},
		"with PUT":                {method: http.MethodPut, status: 200, answer: "2030-01-02T03:04:05Z\n", asked: true},
		"its end":                 {body: "0", none: true, status: 204, asked: true},
		"from another container":  {from: "10.70.0.3:5555", status: 403, answer: "not the address"},
		"for another instance":    {path: "/busy/a/a-1-2", status: 403, answer: "not the address"},
		"for one that is not":     {path: "/busy/a/a-9-9", status: 403, answer: "not the address"},
		"for an app that is not":  {path: "/busy/b/a-1-1", status: 403, answer: "not the address"},
		"without an address":      {path: "/busy/a/a-1-2", from: ":1", status: 403, answer: "not the address"},
		"nonsense":                {body: "for ever", status: 400, answer: "90s"},
		"too much":                {body: strings.Repeat("9", 100), status: 400, answer: "90s"},
		"nothing":                 {body: " ", status: 400, answer: "90s"},
		"only looking":            {method: http.MethodGet, status: 405},
		"another path":            {path: "/v1/apps", status: 404},
		"refused":                 {err: router.Errorf(router.CodeConflict, "it does not serve"), status: 409, answer: "does not serve", asked: true},
		"Redis is away":           {err: router.Errorf(router.CodeUnavailable, "Redis is away"), status: 503, answer: "Redis", asked: true},
		"the caller gave up here": {err: context.DeadlineExceeded, status: 503, answer: "try again", asked: true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			h := api.BusyHandler(catalog, leaser(func(app, instance string, _ time.Time) (time.Time, error) {
				asked = app == "a" && instance == "a-1-1"
				if tc.none {
					return time.Time{}, nil
				}
				return granted, tc.err
			}))
			or := func(s, otherwise string) string {
				if s == "" {
					return otherwise
				}
				return s
			}
			req := httptest.NewRequest(or(tc.method, http.MethodPost), or(tc.path, "/busy/a/a-1-1"), strings.NewReader(or(tc.body, "90s")))
			req.RemoteAddr = or(tc.from, "10.70.0.2:4444")
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, req)
			if rec.Code != tc.status || !strings.Contains(rec.Body.String(), tc.answer) || asked != tc.asked {
				t.Errorf("%d %q, asked %v; want %d %q, %v", rec.Code, rec.Body, asked, tc.status, tc.answer, tc.asked)
			}
		})
	}
}
