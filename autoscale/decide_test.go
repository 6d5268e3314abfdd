package autoscale

import (
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// each repeats a sample for a number of seconds.
func each(n int, s router.Sample) []router.Sample {
	out := make([]router.Sample, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func join(parts ...[]router.Sample) []router.Sample {
	var out []router.Sample
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func TestDecide(t *testing.T) {
	rps := func(n int64) router.Sample { return router.Sample{Requests: n} }
	conc := func(n int64) router.Sample { return router.Sample{Requests: n, InFlight: n} }
	tests := map[string]struct {
		policy  map[string]string
		seconds []router.Sample
		idle    time.Duration
		want    int
		rule    string
	}{
		"nothing for long is nothing":                 {idle: time.Hour, want: 0, rule: "idle"},
		"just below freeze_after is one":              {idle: 29 * time.Second, want: 1, rule: "warm"},
		"at freeze_after is none":                     {idle: 30 * time.Second, want: 0, rule: "idle"},
		"freeze_after never keeps one":                {policy: map[string]string{"freeze_after": "never", "stop_after": "never", "remove_after": "never"}, idle: time.Hour, want: 1, rule: "warm"},
		"min holds when idle":                         {policy: map[string]string{"min": "2"}, idle: time.Hour, want: 2, rule: "min"},
		"a trickle needs one":                         {seconds: each(60, rps(1)), want: 1, rule: "warm"},
		"rate at the target needs one":                {seconds: each(60, rps(200)), want: 1, rule: "warm"},
		"rate above the target needs two":             {seconds: each(60, rps(201)), want: 2, rule: "rps"},
		"rate":                                        {seconds: each(60, rps(950)), want: 5, rule: "rps"},
		"max holds":                                   {policy: map[string]string{"max": "3"}, seconds: each(60, rps(950)), want: 3, rule: "max"},
		"concurrency":                                 {seconds: each(60, conc(120)), want: 3, rule: "concurrency"},
		"a rise counts within the fast window":        {seconds: join(each(54, rps(0)), each(6, rps(600))), want: 3, rule: "rps"},
		"one second of a burst is not yet a rate":     {seconds: join(each(59, rps(0)), each(1, rps(1000))), want: 1, rule: "warm"},
		"a queue in one sample only is a passing one": {seconds: join(each(30, conc(1)), each(1, conc(900)), each(5, conc(1))), want: 1, rule: "warm"},
		"a fall is held for the slow window":          {seconds: join(each(10, rps(1000)), each(40, rps(10))), want: 5, rule: "rps"},
		"and forgotten after it":                      {seconds: join(each(10, rps(1000)), each(66, rps(10))), want: 1, rule: "warm"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, bad := router.DefaultPolicy().With(tt.policy, "")
			if len(bad) > 0 {
				t.Fatal(bad)
			}
			d := Decide(p, Observation{Seconds: tt.seconds, Idle: tt.idle})
			if d.Desired != tt.want || d.Rule != tt.rule || d.Reason == "" {
				t.Errorf("got %d by %s (%s), want %d by %s", d.Desired, d.Rule, d.Reason, tt.want, tt.rule)
			}
		})
	}
}

func TestDecideQueue(t *testing.T) {
	at := func(ms, inFlight, queued int) QueueReading {
		return QueueReading{time.Duration(ms) * time.Millisecond, inFlight, queued}
	}
	tests := map[string]struct {
		readings []QueueReading
		want     int
	}{
		"one look is too early":                  {[]QueueReading{at(0, 100, 500)}, 0},
		"a queue that empties fast needs none":   {[]QueueReading{at(0, 100, 900), at(100, 100, 500)}, 0},
		"a queue that stands needs more":         {[]QueueReading{at(0, 100, 300), at(100, 100, 300)}, 8},
		"a queue that grows needs more":          {[]QueueReading{at(0, 100, 50), at(100, 100, 100)}, 4},
		"a queue that empties slowly needs more": {[]QueueReading{at(0, 100, 310), at(100, 100, 300)}, 8},
		"never beyond max":                       {[]QueueReading{at(0, 100, 5000), at(100, 100, 5000)}, 10},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if d := DecideQueue(router.DefaultPolicy(), tt.readings, 500*time.Millisecond); d.Desired != tt.want {
				t.Errorf("got %d (%s), want %d", d.Desired, d.Reason, tt.want)
			}
		})
	}
}

func TestLadder(t *testing.T) {
	p := router.DefaultPolicy()
	tests := map[string]struct {
		idle    time.Duration
		freezer bool
		want    router.Rung
	}{
		"short":             {time.Minute, true, router.RungFrozen},
		"without a freezer": {time.Minute, false, router.RungStopped},
		"at stop_after":     {10 * time.Minute, true, router.RungStopped},
		"at remove_after":   {24 * time.Hour, true, router.RungAbsent},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := rest(p, tt.idle, tt.freezer); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestDescend(t *testing.T) {
	now := time.Unix(100000, 0)
	st := &router.AppState{App: router.App{Name: "a", Policy: router.DefaultPolicy()}}
	add := func(id string, s router.InstanceState, idle time.Duration, claimed bool) {
		in := router.Instance{ID: id, State: s, IdleSince: now.Add(-idle), Since: now.Add(-idle)}
		if claimed {
			in.Claim = router.Claim{Holder: "x", Until: now.Add(time.Second)}
		}
		st.PutInstance(in)
	}
	add("fresh-frozen", router.Frozen, time.Minute, false)
	add("old-frozen", router.Frozen, time.Hour, false)
	add("claimed-frozen", router.Frozen, time.Hour, true)
	add("fresh-stopped", router.Stopped, time.Hour, false)
	add("old-stopped", router.Stopped, 25*time.Hour, false)
	add("dead", router.Failed, time.Minute, false)
	add("just-dead", router.Failed, time.Second, false)
	add("ready", router.Ready, 48*time.Hour, false)
	got := descend(st, now, func(string) bool { return true }, nil)
	want := map[string]router.Rung{"old-frozen": router.RungStopped, "old-stopped": router.RungAbsent, "dead": router.RungAbsent}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for id, r := range want {
		if got[id] != r {
			t.Errorf("%s: got %q, want %q", id, got[id], r)
		}
	}
}

func TestHistory(t *testing.T) {
	h := newHistory()
	h.add(100, map[string]router.Sample{"a": {Requests: 5}})
	h.add(101, nil)
	h.add(102, map[string]router.Sample{"a": {Requests: 7}, "b": {Requests: 1}})
	h.add(103, nil)
	got := h.seconds("a", time.Minute)
	want := []int64{5, 0, 7, 0}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i].Requests != want[i] {
			t.Errorf("second %d: got %d, want %d", i, got[i].Requests, want[i])
		}
	}
	h.add(102, map[string]router.Sample{"a": {Requests: 9}}) // read again, a late flush included
	if got := h.seconds("a", 2*time.Second); len(got) != 2 || got[0].Requests != 9 {
		t.Errorf("a second read again must replace: %v", got)
	}
	if !h.active["a"].Equal(time.Unix(103, 0)) {
		t.Errorf("active until %v", h.active["a"])
	}
	h.add(200, nil)
	h.trim(60 * time.Second)
	if len(h.apps) != 0 {
		t.Errorf("old samples kept: %v", h.apps)
	}
}

func TestPlanWake(t *testing.T) {
	now := time.Unix(1000, 0)
	mine := router.Claim{Holder: "me", Until: now.Add(time.Minute)}
	theirs := router.Claim{Holder: "they", Until: now.Add(time.Minute)}
	old := router.Claim{Holder: "they", Until: now.Add(-time.Second)}
	type inst struct {
		state   router.InstanceState
		release int
		claim   router.Claim
		node    string
	}
	tests := map[string]struct {
		have []inst
		want step
	}{
		"nothing":                        {nil, stepCreate},
		"a ready one":                    {[]inst{{router.Ready, 2, router.Claim{}, ""}, {router.Frozen, 2, router.Claim{}, ""}}, stepNone},
		"a ready one of another release": {[]inst{{router.Ready, 1, router.Claim{}, ""}}, stepCreate},
		"draining":                       {[]inst{{router.Draining, 2, router.Claim{}, ""}, {router.Frozen, 2, router.Claim{}, ""}}, stepCancel},
		"draining, being frozen":         {[]inst{{router.Draining, 2, mine, ""}}, stepWait},
		"frozen before stopped":          {[]inst{{router.Stopped, 2, router.Claim{}, ""}, {router.Frozen, 2, router.Claim{}, ""}}, stepThaw},
		"stopped":                        {[]inst{{router.Stopped, 2, router.Claim{}, ""}}, stepStart},
		"starting elsewhere":             {[]inst{{router.Starting, 2, theirs, ""}}, stepWait},
		"starting here":                  {[]inst{{router.Starting, 2, mine, ""}}, stepWait},
		"starting, its starter gone":     {[]inst{{router.Starting, 2, old, ""}}, stepCreate},
		"starting, but another frozen":   {[]inst{{router.Starting, 2, theirs, ""}, {router.Frozen, 2, router.Claim{}, ""}}, stepThaw},
		"starting, but another stopped":  {[]inst{{router.Starting, 2, theirs, ""}, {router.Stopped, 2, router.Claim{}, ""}}, stepWait},
		"frozen, being stopped":          {[]inst{{router.Frozen, 2, theirs, ""}}, stepWait},
		"frozen of another release only": {[]inst{{router.Frozen, 1, router.Claim{}, ""}}, stepCreate},
		"frozen where nothing answers":   {[]inst{{router.Frozen, 2, router.Claim{}, "silent"}, {router.Stopped, 2, router.Claim{}, ""}}, stepStart},
		"all asleep where nothing does":  {[]inst{{router.Frozen, 2, router.Claim{}, "silent"}, {router.Stopped, 2, router.Claim{}, "silent"}}, stepCreate},
		"draining where nothing answers": {[]inst{{router.Draining, 2, router.Claim{}, "silent"}}, stepCancel},
		"dead":                           {[]inst{{router.Failed, 2, router.Claim{}, ""}}, stepCreate},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			st := &router.AppState{App: router.App{Current: 2}}
			for i, in := range tt.have {
				st.PutInstance(router.Instance{ID: string(rune('a' + i)), State: in.state, Release: in.release, Claim: in.claim, Node: in.node})
			}
			if got, _ := planWake(st, "me", now, func(node string) bool { return node == "silent" }); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
