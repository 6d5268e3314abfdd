package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/gateway/api/apitest"
	"github.com/fluxgate/fluxgate/router"
)

// rehearsalFiles are a trace of 20 minutes, a minute of each two with 40
// requests/s, and an app.
func rehearsalFiles(t testing.TB) (trace, app string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("t_s,rps\n")
	for s := range 1200 {
		fmt.Fprintf(&b, "%d,%d\n", s, 40*(s/60%2))
	}
	root := tree(t, map[string]string{
		"bursts.csv": b.String(),
		"shop.json":  `{"service_time_ms": 100, "concurrency": 2, "start_ms": {"absent": 900, "stopped": 500, "frozen": 20}, "max_instances": 20}`,
	})
	return filepath.Join(root, "bursts.csv"), filepath.Join(root, "shop.json")
}

// bursts is the same traffic as it is recorded.
func bursts() []int64 {
	requests := make([]int64, 1200)
	for s := range requests {
		requests[s] = int64(40 * (s / 60 % 2))
	}
	return requests
}

func words(line string) []string { return strings.Fields(line) }

// TestRehearseFixed needs no gateway, and does not depend on how decisions are
// made.
func TestRehearseFixed(t *testing.T) {
	setHome(t)
	trace, app := rehearsalFiles(t)
	for ending, flags := range map[string][]string{".txt": nil, ".json": {"--json"}} {
		got := run(t, "", append(words("policy rehearse --driver fixed:1 --trace "+trace+" --app "+app), flags...)...)
		if got.code != 0 || got.err != "" {
			t.Fatalf("%+v", got)
		}
		golden(t, "rehearse-fixed"+ending, got.out)
	}
}

// rehearsedJSON runs rehearse with --json.
func rehearsedJSON(t testing.TB, line string) rehearsed {
	t.Helper()
	got := run(t, "", append(words("policy rehearse "+line), "--json")...)
	if got.code != 0 || got.err != "" {
		t.Fatalf("%s: %+v", line, got)
	}
	var r rehearsed
	if err := json.Unmarshal([]byte(got.out), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRehearseSideBySide(t *testing.T) {
	setHome(t)
	trace, app := rehearsalFiles(t)
	dir := t.TempDir()
	files := "--trace " + trace + " --app " + app
	line := files + " --with min=20 max_concurrency=1 --timeline " + dir + "/timeline.csv --picture " + dir + "/picture.svg"
	r := rehearsedJSON(t, line)
	if r.Current.Settings["min"] != "0" || r.Current.Settings["max"] != "20" || r.Current.Settings["max_concurrency"] != "2" || r.Proposed.Settings["min"] != "20" || r.Proposed.Facts.Concurrency != 1 || r.Current.Facts.Concurrency != 2 {
		t.Errorf("%v\n%+v", r.Current.Settings, r.Proposed.Facts)
	}
	if r.Proposed.InstanceSeconds <= r.Current.InstanceSeconds || r.Current.Requests != 24000 || r.Proposed.Requests != 24000 || r.Current.Over250 == 0 || r.Proposed.Over250 != 0 {
		t.Errorf("%+v\n%+v", r.Current.Result, r.Proposed.Result)
	}
	for name, run := range map[string]*rehearsedRun{"current": &r.Current, "proposed": r.Proposed} {
		desired := map[int64]int64{} // by second, as the ticks say
		for _, tick := range run.Ticks {
			if tick[3]+tick[4] != tick[1] {
				t.Fatalf("%s: tick %v has another number than it wants", name, tick)
			}
			desired[tick[0]/1000] = tick[1]
		}
		if len(desired) != 1200 {
			t.Errorf("%s: %d seconds have a tick", name, len(desired))
		}
		last := run.Timeline[len(run.Timeline)-1]
		if int64(last[1]) != desired[1199] {
			t.Errorf("%s: the timeline ends with %v, the ticks with %d", name, last, desired[1199])
		}
	}
	t.Run("replayed", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "app.json")
		facts, err := json.Marshal(r.Proposed.Facts)
		if err != nil || os.WriteFile(file, facts, 0o600) != nil {
			t.Fatal(err)
		}
		again := rehearsedJSON(t, "--trace "+trace+" --app "+file+" --driver replay:"+dir+"/timeline.csv").Current
		if again.Policy != "replay" {
			t.Errorf("policy %q", again.Policy)
		}
		again.Result.Policy, again.Result.App = r.Proposed.Policy, r.Proposed.App
		a, err := json.Marshal(again.Result)
		b, err2 := json.Marshal(r.Proposed.Result)
		if err != nil || err2 != nil || string(a) != string(b) {
			t.Errorf("replayed\n%s\nfirst\n%s", a, b)
		}
	})
	picture, err := os.ReadFile(filepath.Join(dir, "picture.svg"))
	if err != nil || !strings.HasPrefix(string(picture), "<svg") || !strings.Contains(string(picture), ">proposed<") {
		t.Errorf("%v: %.80s", err, picture)
	}
	got := run(t, "", words("policy rehearse "+line)...)
	for _, say := range []string{"shop: 20m of traffic of bursts, 24,000 requests", "proposed: min 0 -> 20, max_concurrency 2 -> 1", "CURRENT", "PROPOSED", "CHANGE", "gone", "wakes, frozen"} {
		if !strings.Contains(got.out, say) {
			t.Errorf("it does not say %q:\n%s", say, got.out)
		}
	}
	t.Run("random arrivals", func(t *testing.T) {
		one, again, two := rehearsedJSON(t, files+" --poisson 1"), rehearsedJSON(t, files+" --poisson 1"), rehearsedJSON(t, files+" --poisson 2")
		if one.Current.Requests != again.Current.Requests || one.Current.Requests == two.Current.Requests || one.Proposed != nil {
			t.Errorf("%d, %d and %d requests", one.Current.Requests, again.Current.Requests, two.Current.Requests)
		}
	})
	t.Run("stopped ones stay", func(t *testing.T) {
		r := rehearsedJSON(t, files+" --driver replay:"+dir+"/timeline.csv --removed stopped")
		if r.Current.StartsFrom.Stopped != 0 { // the timeline never lowers
			t.Errorf("%+v", r.Current.StartsFrom)
		}
		r = rehearsedJSON(t, files+" --removed stopped --with freeze_after=10s stop_after=20s")
		if r.Current.StartsFrom.Stopped+r.Proposed.StartsFrom.Stopped == 0 {
			t.Errorf("%+v", r.Current.StartsFrom)
		}
	})
}

func TestRehearseRefuses(t *testing.T) {
	setHome(t)
	trace, app := rehearsalFiles(t)
	bad := tree(t, map[string]string{"trace.csv": "t_s,rps\n0,1\n2,x\n", "app.json": `{"service_time_ms": 0, "concurrency": 0, "start_ms": {}, "max_instances": 1}`, "line.csv": "t_s,desired\n1,x\n", "key.json": `{"colour": 1}`})
	for name, test := range map[string]struct {
		line string
		say  []string
	}{
		"all at once": {
			"--trace " + bad + "/trace.csv --app " + bad + "/app.json --last 5m --removed gone --driver fixed:-1 --with colour=1 min=x max=0",
			[]string{"--trace row 2", "--app service_time_ms", "--app concurrency", "--last", "--removed", "--driver", "--with colour", "--with min", "--with max"},
		},
		"combinations":               {"--trace " + trace + " --app " + app + " --with min=5 max=3 fast_window=1m slow_window=10s", []string{"--with min", "--with fast_window"}},
		"absent files":               {"--trace /no/trace --app /no/app --driver replay:/no/line", []string{"--trace", "--app", "--driver", "no such file"}},
		"a wrong timeline":           {"--trace " + trace + " --app " + app + " --driver replay:" + bad + "/line.csv", []string{"line 2 of the timeline"}},
		"unknown key":                {"--trace " + trace + " --app " + bad + "/key.json", []string{"colour"}},
		"more at once than was told": {"--trace " + trace + " --app " + app + " --with max_concurrency=3", []string{"at most 2"}},
		"no folder":                  {"--trace " + trace + " --app " + app + " --picture /no/folder/x.svg", []string{"cannot write"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, "", words("policy rehearse "+test.line)...)
			if got.code != 1 || got.out != "" {
				t.Errorf("%+v", got)
			}
			for _, say := range test.say {
				if !strings.Contains(got.err, say) {
					t.Errorf("it does not say %q:\n%s", say, got.err)
				}
			}
		})
	}
	for line, say := range map[string]string{
		"policy rehearse":                        "name an app",
		"policy rehearse --trace x":              "name an app",
		"policy rehearse a b":                    "too many",
		"policy rehearse a --with max":           "not KEY=VALUE",
		"policy rehearse a --poisson x":          "invalid value",
		"policy recommend a":                     "name a goal",
		"policy recommend":                       "name a goal",
		"policy recommend --wait-p99 1s":         "name an app",
		"policy a forget":                        `no "forget"`,
		"policy":                                 "needs an argument more",
		"policy a history b":                     "too many",
		"policy recommend a --wait-p99 1s max=3": "takes no settings",
	} {
		if got := run(t, "", words(line)...); got.code != 2 || !strings.Contains(got.err, say) || !strings.Contains(got.err, "usage: fluxgate policy") {
			t.Errorf("%s: %+v does not say %q", line, got, say)
		}
	}
}

// TestRehearseRecorded: the traffic and the facts come from the gateway.
func TestRehearseRecorded(t *testing.T) {
	r := gatewayRig(t)
	r.Deployed(t, "hello")
	r.Update(t, "hello", func(st *router.AppState) { st.App.Policy.Max, st.App.Policy.MaxConcurrency = 7, 2 })
	from := apitest.Created
	r.SetNow(from.Add(20*time.Minute + 2*time.Second))
	recorded := router.Traffic{From: from, Requests: bursts(), Service: 100 * time.Millisecond, Thaw: 20 * time.Millisecond, Create: 900 * time.Millisecond}
	gap := func(at, n int) []int64 {
		requests := bursts()
		for i := range n {
			requests[at+i] = router.Unrecorded
		}
		return requests
	}
	r.Engine.Recorded = recorded
	r.Engine.Recorded.Requests = gap(0, 30) // at its beginning nobody counted yet
	out := rehearsedJSON(t, "hello --with min=1")
	f := out.Current.Facts
	if out.App != "hello" || out.Trace != "recorded" || out.Current.Requests != 24000 || out.Current.Duration != 1170 || out.Current.Settings["max"] != "7" || f.Service != 100 || f.Concurrency != 2 || f.Starts != (startTime{900, 500, 20}) || out.Proposed.Settings["min"] != "1" {
		t.Errorf("%+v, facts %+v", out.Current.Result, f)
	}
	if notes := strings.Join(out.Notes, "\n"); !strings.Contains(notes, "stopped (500 ms)") || strings.Contains(notes, "absent (") || !strings.Contains(notes, "only 19m30s") {
		t.Errorf("%s", notes)
	}
	if p := out.Current.Peak; p > 7 {
		t.Errorf("%d instances, though max is 7", p)
	}
	// The app may come first.
	if got := run(t, "", "policy", "hello", "rehearse", "--last", "10m"); got.code != 0 || !strings.HasPrefix(got.out, "hello: 10m of recorded traffic, 12,000 requests\n") {
		t.Errorf("%+v", got)
	}
	r.Engine.Recorded.Requests = gap(300, 9)
	if out := rehearsedJSON(t, "hello"); !strings.Contains(strings.Join(out.Notes, ""), "9 seconds in all") {
		t.Errorf("%q", out.Notes)
	}
	_, app := rehearsalFiles(t)
	tests := map[string]struct {
		traffic router.Traffic
		line    string
		say     string // empty: it works
	}{
		"a gap":               {router.Traffic{From: from, Requests: gap(300, 11), Service: 1e6}, "hello", "--last 14m"},
		"a gap just now":      {router.Traffic{From: from, Requests: gap(1100, 60), Service: 1e6}, "hello", "too little time"},
		"too little":          {router.Traffic{From: from.Add(11 * time.Minute), Requests: bursts()[:540], Service: 1e6}, "hello", "only 9m0s"},
		"silence":             {router.Traffic{From: from, Requests: make([]int64, 1200), Service: 1e6}, "hello", "no request"},
		"nothing at all":      {router.Traffic{}, "hello --app " + app, "no request"},
		"no service time":     {router.Traffic{From: from, Requests: bursts()}, "hello", "was not measured"},
		"its time in a file":  {router.Traffic{From: from, Requests: bursts()}, "hello --app " + app, ""},
		"an app that is none": {recorded, "nobody", "no app"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r.Engine.Recorded = test.traffic
			got := run(t, "", words("policy rehearse "+test.line)...)
			if (got.code == 0) != (test.say == "") || !strings.Contains(got.err, test.say) {
				t.Errorf("%+v does not say %q", got, test.say)
			}
		})
	}
}

func TestRecommend(t *testing.T) {
	r := gatewayRig(t)
	r.Deployed(t, "hello")
	trace, app := rehearsalFiles(t)
	line := "policy hello recommend --trace " + trace + " --app " + app
	ask := func(goal string) (out recommended, text string) {
		t.Helper()
		got := run(t, "", words(line+" --json "+goal)...)
		if err := json.Unmarshal([]byte(got.out), &out); err != nil || got.code != 0 {
			t.Fatalf("%v: %+v", err, got)
		}
		return out, got.out
	}
	easy, text := ask("--share-250ms 50%")
	if _, again := ask("--share-250ms 50%"); again != text {
		t.Errorf("the second answer is another:\n%s\n%s", text, again)
	}
	hard, _ := ask("--wait-p99 60ms")
	if !easy.Held || !hard.Held || hard.Proposed.P99 > 60 || easy.Proposed.Over250 > 0.5 || easy.Proposed.Cost > hard.Proposed.Cost || easy.Proposed.Cost > easy.Current.Cost || hard.Tried < 20 {
		t.Errorf("easy %+v\nhard %+v", easy.Proposed.Result, hard.Proposed.Result)
	}
	// What it says is what rehearse comes to, and the command does it.
	args := words(easy.Command)
	if got := run(t, "", args[1:]...); got.code != 0 {
		t.Fatalf("%s: %+v", easy.Command, got)
	}
	now := rehearsedJSON(t, "hello --poisson 1 --trace "+trace+" --app "+app)
	if now.Current.Cost != easy.Proposed.Cost || now.Current.Over250 != easy.Proposed.Over250 {
		t.Errorf("rehearsed %+v\nrecommended %+v", now.Current.Result, easy.Proposed.Result)
	}
	// Nothing is there when the first requests come.
	atOnce := filepath.Join(tree(t, map[string]string{"at-once.csv": "t_s,rps\n0,40\n1,40\n2,40\n3,40\n"}), "at-once.csv")
	never := run(t, "", words("policy recommend --wait-p99 0s --wait-p95 0s --share-250ms 0% --trace "+atOnce+" --app "+app)...)
	if never.code != 1 || !strings.Contains(never.out, "nothing of") || !strings.Contains(never.out, "% wait more than 250 ms (0 % may)") || never.err != "" {
		t.Errorf("%+v", never)
	}
	for flags, say := range map[string]string{"--wait-p99 soon --share-250ms 100%": "--share-250ms", "--wait-p95 -1s": "--wait-p95"} {
		if got := run(t, "", words(line+" "+flags)...); got.code != 1 || !strings.Contains(got.err, say) {
			t.Errorf("%s: %+v", flags, got)
		}
	}
}

func TestPolicyHistoryCommand(t *testing.T) {
	t.Setenv("TZ", "UTC")
	time.Local = time.UTC
	r := example(t)
	r.SetNow(apitest.Created.Add(time.Hour))
	if got := run(t, "", "policy", "hello", "history"); got.code != 0 || got.out != "nobody changed it yet\n" {
		t.Errorf("%+v", got)
	}
	got := run(t, "", "policy", "hello", "set", "max=4", "schedule=0 8 * * 1-5 for 10h min=3")
	golden(t, "policy-set.txt", got.out)
	if got := run(t, "", "policy", "set", "hello", "max=4"); got.code != 0 || !strings.Contains(got.out, "nothing changed") {
		t.Errorf("%+v", got)
	}
	got = run(t, "", "policy", "hello", "set", "max=20", "--json")
	golden(t, "policy-set.json", got.out)
	for ending, flags := range map[string][]string{".txt": nil, ".json": {"--json"}} {
		golden(t, "policy-history"+ending, run(t, "", append(words("policy hello history"), flags...)...).out)
	}
	if got := run(t, "", "policy", "hello"); !strings.Contains(got.out, "\nchanged 30m ago by admin: max 4 -> 20; `fluxgate policy hello history` shows all changes\n") {
		t.Errorf("%+v", got)
	}
}
