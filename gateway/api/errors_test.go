package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/gateway/api/apitest"
	"github.com/fluxgate/fluxgate/router"
)

// answer is what came back, read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request with the rig's token, unless header says otherwise.
func ask(t testing.TB, r *apitest.Rig, method, path, body string, header http.Header) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.Token.Reveal())
	req.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// problem checks that an answer is an RFC 9457 problem.
func (a answer) problem(t testing.TB, status int, code router.Code) api.Problem {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("content type %q: %s", got, a.body)
	}
	var p api.Problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if p.Status != status || p.Code != code || p.Detail == "" || p.Title != http.StatusText(status) {
		t.Fatalf("problem %+v, want status %d and code %s", p, status, code)
	}
	return p
}

func TestEveryErrorIsAProblem(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	tests := map[string]struct {
		method, path, body string
		status             int
		code               router.Code
		field              string // of one violation
		detail             string // part of it
	}{
		"unknown path":                {"GET", "/v2/apps", "", 404, router.CodeNotFound, "", "/v2/apps"},
		"root":                        {"GET", "/", "", 404, router.CodeNotFound, "", ""},
		"wrong method":                {"PUT", "/v1/apps", "", 405, router.CodeInvalid, "", "GET"},
		"unknown app":                 {"GET", "/v1/apps/nobody", "", 404, router.CodeNotFound, "", "nobody"},
		"unknown app's instances":     {"GET", "/v1/apps/nobody/instances", "", 404, router.CodeNotFound, "", ""},
		"unknown app's logs":          {"GET", "/v1/apps/nobody/logs", "", 404, router.CodeNotFound, "", ""},
		"unknown app's env":           {"PATCH", "/v1/apps/nobody/env", `{"set":{"A":"b"}}`, 404, router.CodeNotFound, "", ""},
		"unknown app's policy":        {"PATCH", "/v1/apps/nobody/policy", `{"set":{"max":"2"}}`, 404, router.CodeNotFound, "", ""},
		"unknown app's domains":       {"POST", "/v1/apps/nobody/domains", `{"host":"a.example.com"}`, 404, router.CodeNotFound, "", ""},
		"unknown app deleted":         {"DELETE", "/v1/apps/nobody", "", 404, router.CodeNotFound, "", ""},
		"not JSON":                    {"POST", "/v1/tokens", `{"name":`, 400, router.CodeInvalid, "body", ""},
		"no body":                     {"POST", "/v1/tokens", ``, 400, router.CodeInvalid, "", "body"},
		"wrong type":                  {"POST", "/v1/tokens", `{"name":7}`, 422, router.CodeInvalid, "name", ""},
		"missing member":              {"POST", "/v1/tokens", `{}`, 422, router.CodeInvalid, "body", ""},
		"unknown member":              {"POST", "/v1/tokens", `{"name":"ci","admin":true}`, 422, router.CodeInvalid, "admin", ""},
		"too large":                   {"POST", "/v1/tokens", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 413, router.CodeInvalid, "", "large"},
		"bad query":                   {"GET", "/v1/apps/hello/logs?lines=many", "", 422, router.CodeInvalid, "lines", ""},
		"query out of range":          {"GET", "/v1/apps/hello/history?limit=0", "", 422, router.CodeInvalid, "limit", ""},
		"unknown query":               {"GET", "/v1/apps?color=red", "", 422, router.CodeInvalid, "color", ""},
		"unknown release":             {"POST", "/v1/apps/hello/rollback", `{"release":9}`, 404, router.CodeNotFound, "", "v9"},
		"serving release":             {"POST", "/v1/apps/hello/rollback", `{"release":1}`, 409, router.CodeConflict, "", "v1"},
		"policy out of limits":        {"PATCH", "/v1/apps/hello/policy", `{"set":{"max":"0"}}`, 422, router.CodeInvalid, "max", ""},
		"unknown policy":              {"PATCH", "/v1/apps/hello/policy", `{"set":{"maxx":"1"}}`, 422, router.CodeInvalid, "maxx", ""},
		"bad host":                    {"POST", "/v1/apps/hello/domains", `{"host":"no host"}`, 422, router.CodeInvalid, "host", ""},
		"the platform's host":         {"POST", "/v1/apps/hello/domains", `{"host":"fluxgate.localhost"}`, 422, router.CodeInvalid, "host", ""},
		"absent domain":               {"DELETE", "/v1/apps/hello/domains/a.example.com", "", 404, router.CodeNotFound, "", ""},
		"main domain":                 {"DELETE", "/v1/apps/hello/domains/hello.localhost", "", 409, router.CodeConflict, "", ""},
		"env without change":          {"PATCH", "/v1/apps/hello/env", `{}`, 422, router.CodeInvalid, "set", ""},
		"env unset of absent":         {"PATCH", "/v1/apps/hello/env", `{"unset":["A"]}`, 422, router.CodeInvalid, "A", ""},
		"env unset of the manifest's": {"PATCH", "/v1/apps/hello/env", `{"unset":["GREETING"]}`, 422, router.CodeInvalid, "GREETING", ""},
		"env PORT":                    {"PATCH", "/v1/apps/hello/env", `{"set":{"PORT":"1"}}`, 422, router.CodeInvalid, "PORT", ""},
		"token unknown":               {"DELETE", "/v1/tokens/123456789abc", "", 404, router.CodeNotFound, "", ""},
		"token without name":          {"POST", "/v1/tokens", `{"name":"  "}`, 422, router.CodeInvalid, "name", ""},
		"push not multipart":          {"POST", "/v1/apps/hello/push", `{}`, 422, router.CodeInvalid, "body", ""},
		"check of a bad digest":       {"POST", "/v1/apps/hello/push/check", `{"digest":"md5:1"}`, 422, router.CodeInvalid, "digest", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := r.Load(t, "hello")
			p := ask(t, r, test.method, test.path, test.body, nil).problem(t, test.status, test.code)
			if !strings.Contains(p.Detail, test.detail) {
				t.Errorf("detail %q does not say %q", p.Detail, test.detail)
			}
			found := test.field == ""
			for _, v := range p.Errors {
				found = found || v.Field == test.field
				if v.Limit == "" || v.Remedy == "" {
					t.Errorf("violation %+v says too little", v)
				}
			}
			if !found {
				t.Errorf("no violation of %q in %+v", test.field, p.Errors)
			}
			if after := r.Load(t, "hello"); after.Version != before.Version {
				t.Error("a refused request changed the app")
			}
		})
	}
	if a := ask(t, r, "PUT", "/v1/apps", "", nil); !strings.Contains(a.header.Get("Allow"), "GET") {
		t.Errorf("405 without Allow: %v", a.header)
	}
}

func TestErrorCodes(t *testing.T) {
	tests := map[router.Code]int{
		router.CodeInvalid: 422, router.CodeNotFound: 404, router.CodeConflict: 409, router.CodeUnauthorized: 401,
		router.CodeUnavailable: 503, router.CodeExhausted: 503, router.CodeFailed: 424, router.CodeInternal: 500,
	}
	for code, status := range tests {
		in := &router.Error{Code: code, Message: "so it is", Violations: []router.Violation{{Field: "f", Value: "v", Limit: "l", Remedy: "r"}}, RetryAfter: 1500e6}
		p := api.ProblemOf(in)
		if p.Status != status || p.RetryAfter != 2 || p.GetHeaders().Get("Retry-After") != "2" {
			t.Errorf("%s: %+v", code, p)
		}
		out := p.Cause()
		if out.Code != code || out.Message != in.Message || len(out.Violations) != 1 || out.Violations[0] != in.Violations[0] {
			t.Errorf("%s came back as %+v", code, out)
		}
	}
	if p := api.ProblemOf(io.ErrUnexpectedEOF); p.Status != 500 || strings.Contains(p.Detail, "EOF") {
		t.Errorf("an inner error shows: %+v", p)
	}
}

func TestAuthentication(t *testing.T) {
	r := apitest.Start(t)
	gone, err := r.Client.CreateToken(t.Context(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	if a := ask(t, r, "GET", "/v1/apps", "", bearer(gone.Text)); a.status != 200 {
		t.Fatalf("a new token is refused: %s", a.body)
	}
	if err := r.Client.DeleteToken(t.Context(), gone.ID, false); err != nil {
		t.Fatal(err)
	}
	good := r.Token.Reveal()
	id, _ := router.TokenID(good)
	tests := map[string]http.Header{
		"no token":      {"Authorization": nil},
		"other scheme":  {"Authorization": {"Basic " + good}},
		"no scheme":     {"Authorization": {good}},
		"no form":       {"Authorization": {"Bearer hello"}},
		"unknown id":    bearer("fgt_000000000000_" + good[len("fgt_")+13:]),
		"wrong secret":  bearer("fgt_" + id + "_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
		"cut secret":    bearer(good[:len(good)-1]),
		"empty secret":  bearer("fgt_" + id + "_"),
		"removed token": bearer(gone.Text),
	}
	for name, header := range tests {
		for _, path := range []string{"/v1/apps", "/v1/doctor", "/nowhere", "/openapi.yaml"} {
			t.Run(name+path, func(t *testing.T) {
				a := ask(t, r, "GET", path, "", header)
				a.problem(t, 401, router.CodeUnauthorized)
				if a.header.Get("WWW-Authenticate") == "" {
					t.Error("no WWW-Authenticate")
				}
			})
		}
	}
	for _, path := range []string{"/healthz", "/openapi.json"} {
		if a := ask(t, r, "GET", path, "", http.Header{"Authorization": nil}); a.status != 200 {
			t.Errorf("%s needs a token: %d", path, a.status)
		}
	}
	if a := ask(t, r, "GET", "/v1/apps", "", http.Header{"Authorization": {"bearer " + good}}); a.status != 200 {
		t.Errorf("the scheme's case matters: %d", a.status)
	}
	for _, text := range []string{good[len("fgt_")+13:], gone.Text[len("fgt_")+13:]} {
		if strings.Contains(r.Log.String(), text) {
			t.Error("a token is in the log")
		}
	}
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
