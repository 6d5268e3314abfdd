package autoscale

import (
	"slices"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestLadder(t *testing.T) {
	fixed := router.DefaultPolicy()
	fixed.StopAfter = router.Duration(10 * time.Minute)
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
			if got := rest(fixed, tt.idle, tt.freezer); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestDescend(t *testing.T) {
	now := time.Unix(100000, 0)
	st := &router.AppState{App: router.App{Name: "a", Policy: router.DefaultPolicy()}}
	st.App.Policy.StopAfter = router.Duration(10 * time.Minute)
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
	got := descend(st, now, func(string) bool { return true }, nil, 0)
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

// Where stop_after is auto, how many stay frozen is decided for the app as a
// whole; those that have slept longest go.
func TestDescendAuto(t *testing.T) {
	now := time.Unix(100000, 0)
	st := &router.AppState{App: router.App{Name: "a", Current: 2, Policy: router.DefaultPolicy()}}
	add := func(id string, release int, idle time.Duration) {
		st.PutInstance(router.Instance{ID: id, Release: release, State: router.Frozen, IdleSince: now.Add(-idle), Since: now.Add(-idle)})
	}
	add("a", 2, time.Minute)
	add("b", 2, time.Hour)
	add("c", 2, 2*time.Minute)
	add("old release", 1, 5*time.Minute)
	add("older release", 1, 20*time.Minute)
	for name, tt := range map[string]struct {
		frozen int
		want   []string
	}{
		"all stay":     {3, []string{"older release"}},
		"two stay":     {2, []string{"b", "older release"}},
		"none is kept": {0, []string{"a", "b", "c", "older release"}},
	} {
		t.Run(name, func(t *testing.T) {
			down := descend(st, now, func(string) bool { return true }, nil, tt.frozen)
			var got []string
			for id, rung := range down {
				if rung != router.RungStopped {
					t.Errorf("%s goes to %s", id, rung)
				}
				got = append(got, id)
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
