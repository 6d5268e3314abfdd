package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/gateway/api/apitest"
	"github.com/fluxgate/fluxgate/router"
)

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func containerfile(manifest string) api.PushSpec {
	return api.PushSpec{Manifest: manifest, Digest: digestA, Source: &api.Source{Kind: router.SourceContainerfile, Path: "Containerfile"}}
}

func content(text string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, text); return err }
}

// push pushes and returns the events that came before the end.
func push(t testing.TB, r *apitest.Rig, app string, spec api.PushSpec, upload func(io.Writer) error) (api.Deployed, []api.DeployEvent, error) {
	t.Helper()
	var events []api.DeployEvent
	done, err := r.Client.Push(t.Context(), app, spec, upload, func(e api.DeployEvent) { events = append(events, e) })
	spoolIsEmpty(t, r)
	return done, events, err
}

func spoolIsEmpty(t testing.TB, r *apitest.Rig) {
	t.Helper()
	poll(t, "the spool folder is empty", func() bool {
		left, err := os.ReadDir(r.Spool)
		return err == nil && len(left) == 0
	})
}

func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func wantCode(t testing.TB, err error, code router.Code) *router.Error {
	t.Helper()
	var e *router.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error %v, want code %s", err, code)
	}
	return e
}

func TestPush(t *testing.T) {
	r := apitest.Start(t)
	r.Engine.Output = "STEP 1/2: FROM scratch\r\nSTEP 2/2: COPY . /\nno line feed"
	manifest := "domains = [\"b.example.com\", \"a.example.com\"]\n[scale]\nmax = 3\n[http]\nport = 9000\n[env]\nA = \"b\"\n"
	done, events, err := push(t, r, "hello", containerfile(manifest), content("the context"))
	if err != nil {
		t.Fatal(err)
	}
	if done.App != "hello" || done.Release != 1 || done.Unchanged || done.Settings ||
		!slices.Equal(done.URLs, []string{"https://hello.localhost:8443", "https://a.example.com:8443", "https://b.example.com:8443"}) {
		t.Errorf("done: %+v", done)
	}
	var steps, timed, log []string
	for _, e := range events {
		switch e.Event {
		case api.EventStep:
			steps = append(steps, e.Step)
			if e.Text == "" {
				t.Errorf("a step without words: %+v", e)
			}
		case api.EventLog:
			log = append(log, e.Text)
		}
	}
	for _, s := range done.Timings {
		timed = append(timed, s.Step)
	}
	if !slices.Equal(steps, []string{"build", "start", "probe"}) || !slices.Equal(timed, []string{"upload", "build", "start", "probe"}) {
		t.Errorf("steps %v, timings %v", steps, timed)
	}
	if !slices.Equal(log, []string{"STEP 1/2: FROM scratch", "STEP 2/2: COPY . /", "no line feed"}) {
		t.Errorf("build output %q", log)
	}
	builds := r.Engine.Builds()
	if len(builds) != 1 || string(builds[0].Context) != "the context" || builds[0].Source.Path != "Containerfile" {
		t.Errorf("builds: %+v", builds)
	}
	st := r.Load(t, "hello")
	rel, ok := st.Serving()
	if !ok || rel.Digest != digestA || rel.Image == "" || rel.Run.Port != 9000 || rel.Env["A"] != "b" || rel.By != "admin" || st.App.Policy.Max != 3 || len(st.App.Domains) != 2 {
		t.Errorf("stored: %+v %+v", st.App, rel)
	}
}

func TestPushAgain(t *testing.T) {
	r := apitest.Start(t)
	first := containerfile("[env]\nA = \"b\"\n")
	if _, _, err := push(t, r, "hello", first, content("x")); err != nil {
		t.Fatal(err)
	}
	changed := func(fn func(*api.PushSpec)) api.PushSpec { s := first; fn(&s); return s }
	tests := []struct {
		name    string
		spec    api.PushSpec
		verdict api.VerdictKind
	}{
		{"the same", first, api.VerdictUnchanged},
		{"other policy", changed(func(s *api.PushSpec) { s.Manifest += "[scale]\nmax = 4\n" }), api.VerdictSettings},
		{"that policy again", changed(func(s *api.PushSpec) { s.Manifest += "[scale]\nmax = 4\n" }), api.VerdictUnchanged},
		{"other domains", changed(func(s *api.PushSpec) { s.Manifest = "domains = [\"a.example.com\"]\n" + s.Manifest }), api.VerdictSettings},
		{"domains not named are kept", first, api.VerdictUnchanged},
		{"other context", changed(func(s *api.PushSpec) { s.Digest = strings.ReplaceAll(digestA, "aaaa", "bbbb") }), api.VerdictPush},
		{"the first again", first, api.VerdictPush},
		{"other variables", changed(func(s *api.PushSpec) { s.Manifest = "[env]\nA = \"c\"\n" }), api.VerdictPush},
		{"other port", changed(func(s *api.PushSpec) { s.Manifest += "[http]\nport = 81\n" }), api.VerdictPush},
		{"other source", changed(func(s *api.PushSpec) { s.Source = &api.Source{Kind: router.SourceStatic, Path: "."} }), api.VerdictPush},
		{"that source again", changed(func(s *api.PushSpec) { s.Source = &api.Source{Kind: router.SourceStatic, Path: "."} }), api.VerdictPush},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "that source again" {
				test.verdict = api.VerdictUnchanged
			}
			before := r.Load(t, "hello").App.Current
			v, err := r.Client.CheckPush(t.Context(), "hello", test.spec)
			if err != nil || v.Verdict != test.verdict || v.Release != before {
				t.Fatalf("verdict %+v, %v; want %s", v, err, test.verdict)
			}
			// The server needs the context only where there is something to build.
			upload := content("x")
			if test.verdict != api.VerdictPush {
				upload = nil
			}
			builds := len(r.Engine.Builds())
			done, _, err := push(t, r, "hello", test.spec, upload)
			if err != nil {
				t.Fatal(err)
			}
			news := test.verdict == api.VerdictPush
			if done.Unchanged == news || done.Settings != (test.verdict == api.VerdictSettings) || (done.Release > before) != news || (len(r.Engine.Builds()) > builds) != news {
				t.Errorf("done %+v after v%d, %d builds more", done, before, len(r.Engine.Builds())-builds)
			}
		})
	}
	if st := r.Load(t, "hello"); st.App.Policy.Max != 4 || !slices.Equal(st.App.Domains, []string{"a.example.com"}) {
		t.Errorf("settings: %+v", st.App)
	}
	if !slices.Contains(r.Engine.Kicked(), "hello") {
		t.Error("nobody told the autoscaler of the new policy")
	}
	t.Run("by force", func(t *testing.T) {
		spec := first
		spec.Force = true
		before := r.Load(t, "hello").App.Current
		if done, _, err := push(t, r, "hello", spec, content("x")); err != nil || done.Release != before+1 {
			t.Errorf("%+v, %v", done, err)
		}
	})
	t.Run("without digest", func(t *testing.T) {
		spec := first
		spec.Digest = ""
		for i, unchanged := range []bool{false, true} {
			if done, _, err := push(t, r, "hello", spec, content("y")); err != nil || done.Unchanged != unchanged {
				t.Errorf("push %d: %+v, %v", i, done, err)
			}
		}
	})
}

func TestPushImage(t *testing.T) {
	r := apitest.Start(t)
	spec := api.PushSpec{Source: &api.Source{Kind: router.SourceImage, Path: "docker.io/library/nginx:1"}}
	for i, unchanged := range []bool{false, true} {
		done, _, err := push(t, r, "web", spec, nil)
		if err != nil || done.Unchanged != unchanged || done.Release != 1 {
			t.Fatalf("push %d: %+v, %v", i, done, err)
		}
	}
	if b := r.Engine.Builds(); len(b) != 2 || b[0].Context != nil {
		t.Errorf("builds %+v", b)
	}
	// The same name may mean another image one day.
	r.Update(t, "web", func(st *router.AppState) { rel, _ := st.Serving(); rel.Digest = "sha256:older" })
	if done, _, err := push(t, r, "web", spec, nil); err != nil || done.Release != 2 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestPushReportsEverythingWrong(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "other")
	r.Update(t, "other", func(st *router.AppState) { st.App.Domains = []string{"taken.example.com"} })
	r.Deployed(t, "hello")
	r.Update(t, "hello", func(st *router.AppState) { st.App.Policy.Max = 2 })
	spec := api.PushSpec{
		Manifest: "domains = [\"taken.example.com\", \"x.localhost\", \"*.example.com\"]\ncolour = 1\n[http]\nport = 0\n[scale]\nmin = 3\n[env]\nPORT = 1\n",
		Source:   &api.Source{Kind: router.SourceContainerfile, Path: "../Containerfile"},
	}
	want := []string{"build", "colour", "domains[0]", "domains[1]", "domains[2]", "env.PORT", "http.port", "scale.min"}
	_, checkErr := r.Client.CheckPush(t.Context(), "hello", spec)
	_, _, pushErr := push(t, r, "hello", spec, content("x"))
	for what, err := range map[string]error{"check": checkErr, "push": pushErr} {
		var fields []string
		for _, v := range wantCode(t, err, router.CodeInvalid).Violations {
			fields = append(fields, v.Field)
		}
		if !slices.Equal(fields, want) {
			t.Errorf("%s found %q, want %q", what, fields, want)
		}
	}
	if n := len(r.Engine.Builds()) + r.Engine.Deploys(); n > 0 {
		t.Error("something was built or deployed")
	}
	for name, spec := range map[string]api.PushSpec{
		"Hello": containerfile(""), "fluxgate": containerfile(""), "none": {}, "image": {Source: &api.Source{Kind: "image", Path: "--rm"}},
	} {
		_, err := r.Client.CheckPush(t.Context(), name, spec)
		wantCode(t, err, router.CodeInvalid)
	}
	_, _, err := push(t, r, "fresh", containerfile(""), nil)
	if e := wantCode(t, err, router.CodeInvalid); len(e.Violations) != 1 || e.Violations[0].Field != "context" {
		t.Errorf("a push without context: %+v", e)
	}
}

func TestPushThatFailsLeavesTheAppAsItWas(t *testing.T) {
	tests := map[string]func(*apitest.Engine){
		"build":  func(e *apitest.Engine) { e.BuildErr = router.Errorf(router.CodeFailed, "STEP 2/2 failed") },
		"deploy": func(e *apitest.Engine) { e.DeployErr = router.Errorf(router.CodeFailed, "exited with 1:\nlast words") },
		"bug":    func(e *apitest.Engine) { e.DeployErr = errors.New("a bug with an inner detail") },
	}
	for name, breakIt := range tests {
		t.Run(name, func(t *testing.T) {
			r := apitest.Start(t)
			before := r.Deployed(t, "hello")
			r.Engine.Output = "STEP 1/2\n"
			breakIt(r.Engine)
			_, events, err := push(t, r, "hello", containerfile("[scale]\nmax = 3\n"), content("x"))
			if name == "bug" {
				if e := wantCode(t, err, router.CodeInternal); strings.Contains(e.Message, "inner") || !strings.Contains(r.Log.String(), "inner detail") {
					t.Errorf("the detail belongs into the log: %v", e)
				}
			} else if wantCode(t, err, router.CodeFailed); !strings.Contains(err.Error(), "STEP 2/2") && !strings.Contains(err.Error(), "last words") {
				t.Errorf("error says %q", err)
			}
			if !slices.ContainsFunc(events, func(e api.DeployEvent) bool { return e.Text == "STEP 1/2" }) {
				t.Error("the build's output did not come")
			}
			if after := r.Load(t, "hello"); after.Version != before.Version {
				t.Error("the app changed")
			}
			// And it is free for the next push.
			r.Engine.BuildErr, r.Engine.DeployErr = nil, nil
			if _, _, err := push(t, r, "hello", containerfile(""), content("x")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOnePushOfAnAppAtATime(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	building := r.Engine.Hold("build")
	first := make(chan error, 1)
	go func() {
		_, err := r.Client.Push(t.Context(), "hello", containerfile(""), content("x"), nil)
		first <- err
	}()
	building(t)
	_, err := r.Client.Push(t.Context(), "hello", containerfile(""), content("x"), nil)
	if e := wantCode(t, err, router.CodeConflict); !strings.Contains(e.Message, "push of hello") {
		t.Errorf("refused with %q", e.Message)
	}
	_, err = r.Client.ChangeEnv(t.Context(), "hello", api.EnvChange{Set: map[string]string{"A": "b"}}, nil)
	wantCode(t, err, router.CodeConflict)
	_, err = r.Client.Rollback(t.Context(), "hello", 0, nil)
	wantCode(t, err, router.CodeConflict)
	wantCode(t, r.Client.DeleteApp(t.Context(), "hello"), router.CodeConflict)
	r.Engine.Release()
	if err := <-first; err != nil {
		t.Error(err)
	}
	if _, _, err := push(t, r, "hello", containerfile("[env]\nA = \"b\"\n"), content("x")); err != nil {
		t.Errorf("the app stays taken: %v", err)
	}
}

func TestClientThatGoesAway(t *testing.T) {
	t.Run("during the build ends it", func(t *testing.T) {
		r := apitest.Start(t)
		building := r.Engine.Hold("build")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := r.Client.Push(ctx, "hello", containerfile(""), content("x"), nil)
			ended <- err
		}()
		building(t)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the client says %v", err)
		}
		spoolIsEmpty(t, r)
		r.Engine.Release()
		if n := r.Engine.Deploys(); n > 0 {
			t.Error("it was deployed all the same")
		}
	})
	t.Run("during the deploy does not end it", func(t *testing.T) {
		r := apitest.Start(t)
		deploying := r.Engine.Hold("deploy")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := r.Client.Push(ctx, "hello", containerfile(""), content("x"), nil)
			ended <- err
		}()
		deploying(t)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the client says %v", err)
		}
		<-r.LastRequest().Done() // the server knows
		r.Engine.Release()
		poll(t, "the deploy completes", func() bool {
			st, ok := r.Catalog.Get("hello")
			return ok && st.App.Current == 1
		})
		spoolIsEmpty(t, r)
	})
}

func TestUploadThatBreaksOff(t *testing.T) {
	r := apitest.Start(t)
	changed := errors.New("a file changed")
	_, err := r.Client.Push(t.Context(), "hello", containerfile(""), func(w io.Writer) error {
		if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
			return err
		}
		return changed
	}, nil)
	if !errors.Is(err, changed) {
		t.Errorf("the client says %v", err)
	}
	spoolIsEmpty(t, r)
	if n := len(r.Engine.Builds()); n > 0 {
		t.Error("half a context was built")
	}
	// A body that ends before its last boundary.
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, _ := form.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="manifest"`}})
	fmt.Fprintf(part, `{"source":{"kind":"containerfile","path":"Containerfile"}}`)
	part, _ = form.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="context"`}})
	_, _ = part.Write([]byte("half"))
	ask(t, r, "POST", "/v1/apps/half/push", body.String(), http.Header{"Content-Type": {form.FormDataContentType()}}).problem(t, 422, router.CodeInvalid)
	spoolIsEmpty(t, r)
}

func TestPushParts(t *testing.T) {
	r := apitest.Start(t)
	tests := map[string][][2]string{
		"nothing":          {},
		"context first":    {{"context", "x"}},
		"bad JSON":         {{"manifest", "{"}},
		"unknown member":   {{"manifest", `{"image":"nginx"}`}},
		"wrong type":       {{"manifest", `{"force":"yes"}`}},
		"another part":     {{"manifest", `{"source":{"kind":"image","path":"nginx"}}`}, {"secrets", "x"}},
		"unknown kind":     {{"manifest", `{"source":{"kind":"function","path":"f"}}`}},
		"manifest is huge": {{"manifest", `{"manifest":"` + strings.Repeat("#", 2<<20) + `"}`}},
	}
	for name, parts := range tests {
		t.Run(name, func(t *testing.T) {
			var body bytes.Buffer
			form := multipart.NewWriter(&body)
			for _, p := range parts {
				if err := form.WriteField(p[0], p[1]); err != nil {
					t.Fatal(err)
				}
			}
			if err := form.Close(); err != nil {
				t.Fatal(err)
			}
			a := ask(t, r, "POST", "/v1/apps/hello/push", body.String(), http.Header{"Content-Type": {form.FormDataContentType()}})
			if p := a.problem(t, 422, router.CodeInvalid); len(p.Errors) == 0 {
				t.Errorf("no violations: %+v", p)
			}
			spoolIsEmpty(t, r)
		})
	}
}

func TestSpoolIsCleanedAtStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"push-1.tar.gz", "push-2.tar.gz", "kept.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := api.New(api.Backend{SpoolDir: dir}); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "kept.txt" {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := api.New(api.Backend{SpoolDir: filepath.Join(dir, "kept.txt", "no")}); err == nil {
		t.Error("a spool folder that cannot be")
	}
}
