package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/gateway/api/apitest"
	"github.com/fluxgate/fluxgate/router"
)

func TestAppState(t *testing.T) {
	instance := func(id string, release int, state router.InstanceState) router.Instance {
		return router.Instance{ID: id, App: "hello", Release: release, Node: "local", State: state}
	}
	tests := map[string]struct {
		change func(*router.AppState)
		want   api.AppState
	}{
		"nothing deployed": {func(st *router.AppState) { st.App.Current = 0 }, api.AppEmpty},
		"no instance":      {func(*router.AppState) {}, api.AppAbsent},
		"only an old release's": {func(st *router.AppState) {
			st.PutInstance(instance("a", 7, router.Frozen))
		}, api.AppAbsent},
		"stopped": {func(st *router.AppState) { st.PutInstance(instance("a", 1, router.Stopped)) }, "stopped"},
		"frozen and stopped": {func(st *router.AppState) {
			st.PutInstance(instance("a", 1, router.Stopped))
			st.PutInstance(instance("b", 1, router.Frozen))
		}, "frozen"},
		"starting": {func(st *router.AppState) { st.PutInstance(instance("a", 1, router.Starting)) }, "starting"},
		"ready": {func(st *router.AppState) {
			st.PutInstance(instance("a", 1, router.Starting))
			st.PutInstance(instance("b", 1, router.Ready))
		}, "ready"},
		"draining": {func(st *router.AppState) { st.PutInstance(instance("a", 1, router.Draining)) }, "ready"},
		"crashing": {func(st *router.AppState) {
			st.App.Crash = router.Crash{Count: 3, Until: time.Now().Add(time.Hour), Reason: "exited with 1"}
		}, api.AppCrashed},
		"crashed long ago": {func(st *router.AppState) {
			st.App.Crash = router.Crash{Count: 3, Until: time.Now().Add(-time.Hour)}
		}, api.AppAbsent},
		"one of several crashed": {func(st *router.AppState) {
			st.App.Crash = router.Crash{Count: 1, Until: time.Now().Add(time.Hour)}
			st.PutInstance(instance("b", 1, router.Ready))
		}, "ready"},
	}
	r := apitest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			app := "a" + nameOf(name)
			r.Deployed(t, app)
			r.Update(t, app, test.change)
			got, err := r.Client.App(t.Context(), app)
			if err != nil || got.State != test.want {
				t.Errorf("state %q, %v; want %q", got.State, err, test.want)
			}
			if (got.Crash != nil) != strings.Contains(name, "crashing") && name != "one of several crashed" {
				t.Errorf("crash %+v", got.Crash)
			}
		})
	}
}

func nameOf(s string) string {
	return strings.NewReplacer(" ", "-", "'", "").Replace(s)
}

func TestAppsShowWhatTheGatewaysCount(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "busy")
	r.Deployed(t, "idle")
	second := time.Now().Add(-2 * time.Second).Truncate(time.Second)
	for i := range 4 { // the answer looks a moment later: some of these are in it
		at := second.Add(time.Duration(i-1) * time.Second)
		if err := r.Store.FlushRates(t.Context(), "gw", at, map[string]router.Sample{"busy": {Requests: 50, InFlight: 3, Queued: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	apps, err := r.Client.Apps(t.Context())
	if err != nil || len(apps) != 2 {
		t.Fatalf("%+v, %v", apps, err)
	}
	busy, idle := apps[0], apps[1]
	if busy.Name != "busy" || busy.RPS < 10 || busy.InFlight != 3 || busy.Queued != 1 || busy.LastActive == nil {
		t.Errorf("busy: %+v", busy)
	}
	if idle.RPS != 0 || idle.LastActive != nil || idle.URL != "https://idle.localhost:8443" {
		t.Errorf("idle: %+v", idle)
	}
}

func TestInstances(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	r.Deployed(t, "other")
	r.Update(t, "hello", func(st *router.AppState) {
		st.PutInstance(router.Instance{ID: "hello-1-a", App: "hello", Release: 1, Node: "local", State: router.Frozen, Addr: "10.0.0.2:8080", Claim: router.Claim{Op: "thaw"}})
	})
	all, err := r.Client.Instances(t.Context(), "")
	if err != nil || len(all) != 1 || all[0].ID != "hello-1-a" || !all[0].Serving || all[0].Doing != "thaw" {
		t.Errorf("%+v, %v", all, err)
	}
	if one, err := r.Client.Instances(t.Context(), "other"); err != nil || len(one) != 0 {
		t.Errorf("%+v, %v", one, err)
	}
}

func TestDelete(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	if err := r.Client.DeleteApp(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	_, err := r.Client.App(t.Context(), "hello")
	wantCode(t, err, router.CodeNotFound)
}

func TestReleasesAndRollback(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	if _, _, err := push(t, r, "hello", containerfile("[env]\nA = \"b\"\n"), content("x")); err != nil {
		t.Fatal(err)
	}
	list, err := r.Client.Releases(t.Context(), "hello")
	if err != nil || len(list) != 2 || list[0].Number != 2 || !list[0].Serving || list[1].Serving ||
		list[0].Env["A"] != "b" || list[0].Run.Timeout != "60s" && list[0].Run.Timeout != "1m" || list[0].Run.Memory != "512MB" {
		t.Errorf("%+v, %v", list, err)
	}
	for _, to := range []struct{ ask, want int }{{0, 1}, {2, 2}, {1, 1}} {
		var steps int
		done, err := r.Client.Rollback(t.Context(), "hello", to.ask, func(api.DeployEvent) { steps++ })
		if err != nil || done.Release != to.want || steps == 0 || r.Load(t, "hello").App.Current != to.want {
			t.Errorf("to %d: %+v, %v", to.ask, done, err)
		}
	}
	_, err = r.Client.Rollback(t.Context(), "hello", 0, nil)
	wantCode(t, err, router.CodeNotFound)
}

func TestDomains(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	r.Deployed(t, "other")
	for range 2 { // adding again is fine
		list, err := r.Client.AddDomain(t.Context(), "hello", "Bücher.Example.com.")
		if err != nil || len(list) != 2 || list[0].Host != "hello.localhost" || !list[0].Main || list[1].Host != "xn--bcher-kva.example.com" {
			t.Fatalf("%+v, %v", list, err)
		}
	}
	_, err := r.Client.AddDomain(t.Context(), "other", "bücher.example.com")
	if e := wantCode(t, err, router.CodeInvalid); !strings.Contains(e.Error(), "hello") {
		t.Errorf("does not say whose it is: %v", e)
	}
	if releases := len(r.Load(t, "hello").Releases); releases != 1 {
		t.Errorf("%d releases", releases)
	}
	if list, err := r.Client.RemoveDomain(t.Context(), "hello", "bücher.example.com"); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := r.Client.AddDomain(t.Context(), "other", "bücher.example.com"); err != nil {
		t.Errorf("it is not free again: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	list, err := r.Client.SetPolicy(t.Context(), "hello", map[string]string{"max": "4", "freeze_after": "never", "stop_after": "never", "remove_after": "never"})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, s := range list {
		values[s.Key] = s.Value
	}
	if values["max"] != "4" || values["freeze_after"] != "never" || len(list) != len(router.PolicyFields) || !slices.Contains(r.Engine.Kicked(), "hello") {
		t.Errorf("%+v", list)
	}
	for _, s := range list {
		if was := map[string]string{"max": "10", "freeze_after": "auto", "stop_after": "auto", "remove_after": "24h"}[s.Key]; (s.Previous == nil) != (was == "") || s.Previous != nil && *s.Previous != was {
			t.Errorf("%+v was %q before", s, was)
		}
	}
	if list, err := r.Client.Policy(t.Context(), "hello"); err != nil || slices.ContainsFunc(list, func(s api.Setting) bool { return s.Previous != nil }) {
		t.Errorf("%+v, %v", list, err)
	}
	before := r.Load(t, "hello").Version
	_, err = r.Client.SetPolicy(t.Context(), "hello", map[string]string{"max": "0", "min": "x", "target_rps": "5"})
	if e := wantCode(t, err, router.CodeInvalid); len(e.Violations) < 2 {
		t.Errorf("not all at once: %v", e)
	}
	if r.Load(t, "hello").Version != before {
		t.Error("something changed")
	}
}

func TestPolicyHistory(t *testing.T) {
	r := apitest.Start(t)
	at := apitest.Created.Add(time.Hour)
	r.SetNow(at)
	r.Deployed(t, "hello")
	if list, err := r.Client.PolicyHistory(t.Context(), "hello", 100); err != nil || list == nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	for _, most := range []string{"4", "4", "5"} {
		if _, err := r.Client.SetPolicy(t.Context(), "hello", map[string]string{"max": most}); err != nil {
			t.Fatal(err)
		}
	}
	want := []router.PolicyEdit{
		{At: at, By: "admin", Changes: []router.FieldChange{{Key: "max", From: "4", To: "5"}}},
		{At: at, By: "admin", Changes: []router.FieldChange{{Key: "max", From: "10", To: "4"}}},
	}
	if list, err := r.Client.PolicyHistory(t.Context(), "hello", 100); err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := r.Client.PolicyHistory(t.Context(), "hello", 1); err != nil || !reflect.DeepEqual(list, want[:1]) {
		t.Errorf("%+v, %v", list, err)
	}
	_, err := r.Client.PolicyHistory(t.Context(), "nobody", 1)
	wantCode(t, err, router.CodeNotFound)
}

func TestTraffic(t *testing.T) {
	r := apitest.Start(t)
	at := apitest.Created
	r.SetNow(at.Add(time.Hour + 2*time.Second + 300*time.Millisecond))
	r.Deployed(t, "hello")
	if got, err := r.Client.Traffic(t.Context(), "hello", time.Hour); err != nil || got.Requests == nil || len(got.Requests) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	r.Engine.Recorded = router.Traffic{From: at.Add(-time.Minute), Requests: make([]int64, 2*3600), Service: 12500 * time.Microsecond, Thaw: 15 * time.Millisecond, Create: time.Second}
	r.Engine.Recorded.Requests[60], r.Engine.Recorded.Requests[61] = router.Unrecorded, 7
	got, err := r.Client.Traffic(t.Context(), "hello", time.Hour)
	if err != nil || !got.From.Equal(at) || len(got.Requests) != 3600 || got.Requests[0] != -1 || got.Requests[1] != 7 || got.Service != 12.5 || got.Starts != (api.StartTimes{Absent: 1000, Frozen: 15}) {
		t.Errorf("%v %d %+v, %v", got.From, len(got.Requests), got.Starts, err)
	}
	_, err = r.Client.Traffic(t.Context(), "nobody", time.Hour)
	wantCode(t, err, router.CodeNotFound)
	for _, last := range []time.Duration{0, 59 * time.Second, 25 * time.Hour, -time.Hour} {
		_, err = r.Client.Traffic(t.Context(), "hello", last)
		wantCode(t, err, router.CodeInvalid)
	}
}

func TestHistory(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	if list, err := r.Client.Why(t.Context(), "hello", time.Time{}, 5); err != nil || list == nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	now := time.Now()
	for i := range 3 {
		if err := r.Store.Record(t.Context(), "hello", router.Event{At: now.Add(time.Duration(i) * time.Millisecond), Kind: "wake", Text: fmt.Sprint(i), Phases: []router.Phase{{Name: "thaw", Took: 7e6}}}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := r.Client.Why(t.Context(), "hello", time.Time{}, 2)
	if err != nil || len(list) != 2 || list[0].Text != "2" || list[0].Phases[0].Took != 7*time.Millisecond {
		t.Errorf("%+v, %v", list, err)
	}
	list, err = r.Client.Why(t.Context(), "hello", now, 2)
	if err != nil || len(list) != 2 || list[0].Text != "1" || list[1].Text != "0" {
		t.Errorf("around the first: %+v, %v", list, err)
	}
}

func TestTokens(t *testing.T) {
	r := apitest.Start(t)
	admin, _ := router.TokenID(r.Token.Reveal())
	wantCode(t, r.Client.DeleteToken(t.Context(), admin, true), router.CodeConflict) // the last one
	ci, err := r.Client.CreateToken(t.Context(), " ci ")
	if err != nil || ci.Name != "ci" || ci.Current {
		t.Fatalf("%+v, %v", ci, err)
	}
	list, err := r.Client.Tokens(t.Context())
	if err != nil || len(list) != 2 || list[0].ID != admin || !list[0].Current || list[1].ID != ci.ID || list[1].Current {
		t.Errorf("%+v, %v", list, err)
	}
	wantCode(t, r.Client.DeleteToken(t.Context(), admin, false), router.CodeConflict) // the one in use
	if err := r.Client.DeleteToken(t.Context(), admin, true); err != nil {
		t.Fatal(err)
	}
	_, err = r.Client.Tokens(t.Context())
	wantCode(t, err, router.CodeUnauthorized)
	if a := ask(t, r, "GET", "/v1/info", "", bearer(ci.Text)); a.status != 200 || !strings.Contains(a.body, `"token":"ci"`) {
		t.Errorf("%+v", a)
	}
}

func TestLogs(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	for i := range 5 {
		r.Engine.Lines = append(r.Engine.Lines, router.LogLine{At: time.Unix(int64(1e9+i), 0).UTC(), Instance: "hello-1-a", Stream: "stdout", Text: fmt.Sprint(i)})
	}
	read := func(opts api.LogOptions) string {
		var got []string
		err := r.Client.Logs(t.Context(), "hello", opts, func(l router.LogLine) error { got = append(got, l.Text); return nil })
		if err != nil {
			t.Error(err)
		}
		return strings.Join(got, "")
	}
	if got := read(api.LogOptions{Lines: 2}); got != "34" {
		t.Errorf("last two: %q", got)
	}
	if got := read(api.LogOptions{Since: time.Unix(1e9+1, 0)}); got != "1234" {
		t.Errorf("since: %q", got)
	}
	stop := errors.New("enough")
	err := r.Client.Logs(t.Context(), "hello", api.LogOptions{Follow: true}, func(l router.LogLine) error {
		if l.Text == "4" {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Errorf("following ended with %v", err)
	}
	<-r.LastRequest().Done() // the server has let go too
}

func TestShutdown(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	r.Engine.Lines = []router.LogLine{{Text: "first"}}
	following, ended := make(chan struct{}), make(chan error, 2)
	go func() {
		ended <- r.Client.Logs(t.Context(), "hello", api.LogOptions{Follow: true}, func(router.LogLine) error { close(following); return nil })
	}()
	<-following
	building := r.Engine.Hold("build")
	go func() {
		_, err := r.Client.Push(t.Context(), "hello", containerfile(""), content("x"), nil)
		ended <- err
	}()
	building(t)
	down := make(chan error, 1)
	go func() { down <- r.Server.Shutdown(t.Context()) }()
	if err := <-ended; err != nil { // the follower goes first; the push is still held
		t.Errorf("following ended with %v", err)
	}
	poll(t, "new pushes are refused", func() bool {
		_, err := r.Client.Push(t.Context(), "other", containerfile(""), content("x"), nil)
		return router.CodeOf(err) == router.CodeUnavailable
	})
	select {
	case err := <-down:
		t.Fatalf("shutdown (%v) did not wait for the push", err)
	default:
	}
	r.Engine.Release()
	if err := <-ended; err != nil {
		t.Errorf("the running push: %v", err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	r := apitest.Start(t)
	deploying := r.Engine.Hold("deploy")
	ended := make(chan error, 1)
	go func() {
		_, err := r.Client.Push(t.Context(), "hello", containerfile(""), content("x"), nil)
		ended <- err
	}()
	deploying(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	wantCode(t, <-ended, router.CodeUnavailable)
}

func TestSystem(t *testing.T) {
	r := apitest.Start(t)
	info, err := r.Client.Info(t.Context())
	if want := (api.Info{Version: "v0.0.0-test", Domain: "localhost", HTTPSPort: 8443, URL: "https://fluxgate.localhost:8443", Token: "admin"}); err != nil || info != want {
		t.Errorf("%+v, %v", info, err)
	}
	if report, err := r.Client.Doctor(t.Context()); err != nil || !report.OK || len(report.Checks) != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	r.Engine.Checks = append(r.Engine.Checks, api.Check{Name: "node local", Status: api.CheckFailed, Detail: "gone"})
	if report, err := r.Client.Doctor(t.Context()); err != nil || report.OK {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestOpenAPI holds the description to what it is for: every endpoint, with
// problems as errors and no schema that is not described.
func TestOpenAPI(t *testing.T) {
	r := apitest.Start(t)
	a := ask(t, r, "GET", "/openapi.json", "", http.Header{"Authorization": nil})
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Responses   map[string]struct{ Content map[string]any }
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" || len(doc.Paths) < 15 {
		t.Errorf("version %s, %d paths", doc.OpenAPI, len(doc.Paths))
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if _, ok := op.Responses["default"].Content["application/problem+json"]; !ok || op.Summary == "" {
				t.Errorf("%s %s: %+v", method, path, op)
			}
		}
	}
	for part := range strings.SplitSeq(a.body, `"#/components/schemas/`) {
		name, _, _ := strings.Cut(part, `"`)
		if _, ok := doc.Components.Schemas[name]; !ok && name != "" && !strings.HasPrefix(part, "{") {
			t.Errorf("no schema %s", name)
		}
	}
}

// What instances use is shown with them, and what died lately with its app.
func TestUsageAndDeath(t *testing.T) {
	r := apitest.Start(t)
	r.Deployed(t, "hello")
	r.Update(t, "hello", func(st *router.AppState) {
		st.PutInstance(router.Instance{ID: "hello-1-a", App: "hello", Release: 1, Node: "n1", State: router.Ready})
		st.PutInstance(router.Instance{ID: "hello-1-b", App: "hello", Release: 1, Node: "n1", State: router.Stopped})
		for range router.CrashLoop {
			st.App.Crash = st.App.Crash.After(time.Now(), "exited with code 7")
		}
	})
	used := router.Usage{At: time.Now(), CPU: 0.5, CPULimit: 1, Memory: 250 << 20, MemoryLimit: 256 << 20}
	if err := r.Store.PutUsage(t.Context(), "n1", router.NodeUsage{By: "gw", Instances: map[string]router.Usage{"hello-1-a": used, "hello-1-b": used}}); err != nil {
		t.Fatal(err)
	}
	list, err := r.Client.Instances(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range list {
		switch u := in.Usage; {
		case in.ID == "hello-1-a" && (u == nil || u.CPU != 0.5 || u.Memory != 250<<20 || !strings.Contains(u.Advice, "resources.memory")):
			t.Errorf("the ready one: %+v", u)
		case in.ID == "hello-1-b" && u != nil:
			t.Errorf("one that is stopped uses %+v", u)
		}
	}
	a, err := r.Client.App(t.Context(), "hello")
	if err != nil || a.Death == nil || a.Death.Count != router.CrashLoop || a.Death.Reason != "exited with code 7" || a.Death.Advice == "" {
		t.Errorf("%+v %v", a.Death, err)
	}
	r.Deployed(t, "healthy")
	apps, err := r.Client.AppsThatDied(t.Context())
	if err != nil || len(apps) != 1 || apps[0].Name != "hello" {
		t.Errorf("of these an instance died: %+v %v", apps, err)
	}
}
