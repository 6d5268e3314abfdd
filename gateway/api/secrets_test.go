package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/gateway/api/apitest"
	"github.com/fluxgate/fluxgate/router"
)

func TestEnv(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	change := func(c api.EnvChange) api.Deployed {
		t.Helper()
		done, err := r.Client.ChangeEnv(t.Context(), "hello", c, nil)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if done := change(api.EnvChange{Set: map[string]string{"KEY": "hunter2", "GREETING": "hidden", "EMPTY": ""}}); done.Release != 2 || done.Unchanged {
		t.Errorf("%+v", done)
	}
	list, err := r.Client.Env(t.Context(), "hello")
	want := []api.Variable{{Name: "EMPTY", Value: "[secret]", Secret: true}, {Name: "GREETING", Value: "[secret]", Secret: true}, {Name: "KEY", Value: "[secret]", Secret: true}}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%+v, %v", list, err)
	}
	st := r.Load(t, "hello")
	rel, _ := st.Serving()
	if env := rel.Environment(); env["KEY"] != "hunter2" || env["GREETING"] != "hidden" || rel.Digest != "sha256:1" || rel.Note != "env set EMPTY GREETING KEY" {
		t.Errorf("release: %+v", rel)
	}
	if done := change(api.EnvChange{Set: map[string]string{"KEY": "hunter2", "EMPTY": ""}}); !done.Unchanged || done.Release != 2 {
		t.Errorf("the same again: %+v", done)
	}
	if done := change(api.EnvChange{Set: map[string]string{"KEY": "hunter3"}, Unset: []string{"GREETING"}}); done.Release != 3 {
		t.Errorf("%+v", done)
	}
	if list, err := r.Client.Env(t.Context(), "hello"); err != nil || len(list) != 3 || list[1] != (api.Variable{Name: "GREETING", Value: "hi"}) {
		t.Errorf("%+v, %v", list, err)
	}
	r.Engine.DeployErr = router.Errorf(router.CodeFailed, "it does not get healthy")
	_, err = r.Client.ChangeEnv(t.Context(), "hello", api.EnvChange{Set: map[string]string{"KEY": "bad"}}, nil)
	wantCode(t, err, router.CodeFailed)
	if st := r.Load(t, "hello"); st.App.Secrets["KEY"].Reveal() != "hunter3" {
		t.Error("a change that failed stayed")
	}
	// A push keeps the secrets, and they do not make it a new one.
	r.Engine.DeployErr = nil
	if _, _, err := push(t, r, "hello", containerfile(""), content("x")); err != nil {
		t.Fatal(err)
	}
	if done, _, err := push(t, r, "hello", containerfile(""), nil); err != nil || !done.Unchanged {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestSecretsNeverShow puts a secret everywhere that one can be put, and looks
// for it in every answer that the API gives and in its log.
func TestSecretsNeverShow(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	made, err := r.Client.CreateToken(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	_, adminText, _ := strings.Cut(strings.TrimPrefix(r.Token.Reveal(), "fgt_"), "_")
	_, madeText, _ := strings.Cut(strings.TrimPrefix(made.Text, "fgt_"), "_")
	hidden := []string{secret, adminText, madeText}
	for _, tok := range mustTokens(t, r) {
		hidden = append(hidden, tok.Hash)
	}
	look := func(what, text string) {
		t.Helper()
		for _, h := range hidden {
			if strings.Contains(text, h) {
				t.Errorf("%s shows a secret: %s", what, text)
			}
		}
	}
	for what, body := range map[string]string{
		"set":                    `{"set":{"KEY":"` + secret + `"}}`,
		"set again":              `{"set":{"KEY":"` + secret + `"}}`,
		"bad name":               `{"set":{"9KEY":"` + secret + `"}}`,
		"PORT":                   `{"set":{"PORT":"` + secret + `"}}`,
		"NUL":                    `{"set":{"KEY":"` + secret + `\u0000"}}`,
		"too long":               `{"set":{"KEY":"` + strings.Repeat(secret, 10000) + `"}}`,
		"broken JSON":            `{"set":{"KEY":"` + secret + `"`,
		"wrong type":             `{"set":["` + secret + `"]}`,
		"wrong member":           `{"values":{"KEY":"` + secret + `"}}`,
		"member of a wrong type": `{"set":{"KEY":["` + secret + `"]}}`,
		"set and unset":          `{"set":{"KEY":"` + secret + `"},"unset":["KEY"]}`,
	} {
		look("env "+what, ask(t, r, "PATCH", "/v1/apps/hello/env", body, nil).body)
	}
	if st := r.Load(t, "hello"); st.App.Secrets["KEY"].Reveal() != secret {
		t.Fatal("the secret was not set at all")
	}
	r.Engine.DeployErr = io.ErrUnexpectedEOF
	look("a failing env", ask(t, r, "PATCH", "/v1/apps/hello/env", `{"set":{"K2":"`+secret+`"}}`, nil).body)
	r.Engine.DeployErr = nil
	look("rollback", ask(t, r, "POST", "/v1/apps/hello/rollback", `{}`, nil).body)
	look("push check", ask(t, r, "POST", "/v1/apps/hello/push/check", `{"source":{"kind":"image","path":"x"}}`, nil).body)

	var doc struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal([]byte(ask(t, r, "GET", "/openapi.json", "", nil).body), &doc); err != nil {
		t.Fatal(err)
	}
	reads := 0
	for path, methods := range doc.Paths {
		if methods["get"] == nil {
			continue
		}
		reads++
		path = strings.ReplaceAll(path, "{app}", "hello")
		a := ask(t, r, "GET", path, "", nil)
		if a.status != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, a.status, a.body)
		}
		look("GET "+path, a.body)
	}
	if reads < 10 {
		t.Errorf("only %d endpoints were read", reads)
	}
	look("the log", r.Log.String())
}

func mustTokens(t testing.TB, r *apitest.Rig) []router.Token {
	t.Helper()
	list, err := r.Store.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}
