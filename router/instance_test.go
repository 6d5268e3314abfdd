package router

import (
	"slices"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestInstanceTransitions(t *testing.T) {
	states := []InstanceState{Starting, Ready, Draining, Frozen, Stopped, Failed}
	allowed := map[InstanceState]string{
		Starting: "ready frozen stopped failed",
		Ready:    "draining failed",
		Draining: "ready frozen stopped failed",
		Frozen:   "starting stopped ready failed",
		Stopped:  "starting ready failed",
		Failed:   "",
	}
	for _, from := range states {
		for _, to := range states {
			in := Instance{ID: "a-1-x", State: from, Since: at, Addr: "10.0.0.2:80", Claim: Claim{Holder: "gw", Op: "start", Until: at}}
			err := in.To(to, at.Add(time.Second))
			switch {
			case from == to:
				if err != nil || in.Since != at || in.Claim != (Claim{}) {
					t.Errorf("%s to itself: %+v, %v", from, in, err)
				}
			case slices.Contains(strings.Fields(allowed[from]), string(to)):
				if err != nil || in.State != to || in.Since != at.Add(time.Second) || in.Claim != (Claim{}) || (in.Addr == "") != (to == Stopped) {
					t.Errorf("%s to %s: %+v, %v", from, to, in, err)
				}
			default:
				if CodeOf(err) != CodeConflict || in.State != from || in.Claim.Holder != "gw" {
					t.Errorf("%s to %s: %+v, %v", from, to, in, err)
				}
			}
		}
	}
}

func TestClaimHeld(t *testing.T) {
	c := Claim{Holder: "a", Until: at}
	for name, test := range map[string]struct {
		claim  Claim
		holder string
		now    time.Time
		want   bool
	}{
		"by another":         {c, "b", at.Add(-1), true},
		"by another, ended":  {c, "b", at, false},
		"by oneself":         {c, "a", at.Add(-1), false},
		"by nobody":          {Claim{Until: at}, "b", at.Add(-1), false},
		"by nobody, for all": {Claim{}, "", at, false},
	} {
		if got := test.claim.Held(test.holder, test.now); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNewInstanceID(t *testing.T) {
	a, b := NewInstanceID("hello", 3), NewInstanceID("hello", 3)
	if a == b || !strings.HasPrefix(a, "hello-3-") || len(a) != len("hello-3-")+8 {
		t.Errorf("%s, %s", a, b)
	}
}

func TestCrashBackoff(t *testing.T) {
	var c Crash
	now := at
	for i, delay := range []time.Duration{0, time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 2 * time.Minute} {
		c = c.After(now, "exited with 1")
		if c.Count != i+1 || c.Until.Sub(now) != delay || c.Last != now || c.Reason != "exited with 1" {
			t.Errorf("death %d: %+v", i+1, c)
		}
		now = c.Until.Add(time.Minute)
	}
	if again := c.After(c.Last.Add(CrashHealthy-1), ""); again.Count != 7 {
		t.Errorf("just before it counts as healthy: %+v", again)
	}
	if again := c.After(c.Last.Add(CrashHealthy), ""); again.Count != 1 || again.Until != again.Last {
		t.Errorf("after ten healthy minutes: %+v", again)
	}
}
