package router

import (
	"slices"
	"testing"
	"time"
)

func TestPolicyWith(t *testing.T) {
	base := DefaultPolicy()
	next, bad := base.With(map[string]string{"min": "2", "max": "1000", "target_rps": "0.5", "freeze_after": "never", "stop_after": "never", "remove_after": "never", "queue_depth": "0"}, "")
	if len(bad) > 0 || next.Min != 2 || next.Max != 1000 || next.TargetRPS != 0.5 || next.FreezeAfter != Never || next.QueueDepth != 0 {
		t.Errorf("%+v, %v", next, bad)
	}
	if base != DefaultPolicy() {
		t.Error("the policy itself changed")
	}
	if same, bad := base.With(nil, ""); same != base || bad != nil {
		t.Errorf("%+v, %v", same, bad)
	}
	if _, bad := base.With(map[string]string{"min": "2", "budget": "48", "fast_window": "1s", "slow_window": "2s", "schedule": "0 8 * * * for 1h max=2; 0 9 * * * for 1h min=10"}, ""); bad != nil {
		t.Errorf("what is just possible is refused: %v", bad)
	}
	if d := next.RemoveAfter.D(); d < 200*365*24*time.Hour {
		t.Errorf("never passes after %v", d)
	}
}

func TestPolicyWithRefuses(t *testing.T) {
	tests := map[string]struct {
		settings map[string]string
		fields   []string
	}{
		"each field below its limit": {
			map[string]string{"min": "-1", "max": "0", "target_rps": "0", "target_concurrency": "0", "max_concurrency": "0", "fast_window": "999ms", "slow_window": "1s", "freeze_after": "999ms", "stop_after": "0s", "remove_after": "-1s", "wake_deadline": "1ms", "queue_depth": "-1", "queue_deadline": "1ms", "wake_cost": "-1", "budget": "-1", "busy_max": "-1s", "cool_down": "-1s", "max_scale_up_rate": "0", "target_utilization": "0"},
			[]string{"scale.budget", "scale.busy_max", "scale.cool_down", "scale.fast_window", "scale.freeze_after", "scale.max", "scale.max_concurrency", "scale.max_scale_up_rate", "scale.min", "scale.queue_deadline", "scale.queue_depth", "scale.remove_after", "scale.slow_window", "scale.stop_after", "scale.target_concurrency", "scale.target_rps", "scale.target_utilization", "scale.wake_cost", "scale.wake_deadline"},
		},
		"not of the type":         {map[string]string{"max": "many", "min": "1.5", "target_rps": "NaN", "freeze_after": "30", "wake_deadline": ""}, []string{"scale.freeze_after", "scale.max", "scale.min", "scale.target_rps", "scale.wake_deadline"}},
		"never where it may not":  {map[string]string{"wake_deadline": "never", "fast_window": "never"}, []string{"scale.fast_window", "scale.wake_deadline"}},
		"infinite":                {map[string]string{"target_rps": "Inf"}, []string{"scale.target_rps"}},
		"unknown":                 {map[string]string{"foo": "1", "max": "0"}, []string{"scale.foo", "scale.max"}},
		"min above max":           {map[string]string{"min": "5", "max": "4"}, []string{"scale.min"}},
		"windows":                 {map[string]string{"fast_window": "1m", "slow_window": "30s"}, []string{"scale.fast_window"}},
		"ladder":                  {map[string]string{"freeze_after": "1h", "stop_after": "30m", "remove_after": "10m"}, []string{"scale.freeze_after", "scale.stop_after"}},
		"frozen never, stopped":   {map[string]string{"freeze_after": "never"}, []string{"scale.freeze_after"}},
		"auto where it may not":   {map[string]string{"remove_after": "auto", "wake_cost": "auto"}, []string{"scale.remove_after", "scale.wake_cost"}},
		"neither true nor false":  {map[string]string{"freeze_sockets": "yes"}, []string{"scale.freeze_sockets"}},
		"no schedule":             {map[string]string{"schedule": "0 8 * * 1-5 min=3"}, []string{"scale.schedule"}},
		"half seconds":            {map[string]string{"fast_window": "2500ms"}, []string{"scale.fast_window"}},
		"min beyond the budget":   {map[string]string{"min": "2", "budget": "47.9"}, []string{"scale.budget"}},
		"schedule's min too high": {map[string]string{"schedule": "0 8 * * * for 1h min=11; 0 9 * * * for 1h min=11 max=12"}, []string{"scale.schedule"}},
		"schedule's max too low":  {map[string]string{"min": "2", "schedule": "0 8 * * * for 1h max=1; 0 9 * * * for 1h min=0 max=1"}, []string{"scale.schedule"}},
		"all of it":               {map[string]string{"min": "50", "max": "5", "budget": "1", "fast_window": "30500ms", "slow_window": "20s", "target_concurrency": "200", "stop_after": "1h", "remove_after": "1m"}, []string{"scale.min", "scale.fast_window", "scale.stop_after", "scale.target_concurrency", "scale.fast_window", "scale.budget"}},
		"concurrency":             {map[string]string{"target_concurrency": "101"}, []string{"scale.target_concurrency"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			next, bad := DefaultPolicy().With(test.settings, "scale.")
			var got []string
			for _, v := range bad {
				if v.Limit == "" || v.Remedy == "" {
					t.Errorf("%+v says too little", v)
				}
				got = append(got, v.Field)
			}
			if !slices.Equal(got, test.fields) || next != DefaultPolicy() {
				t.Errorf("got  %q\nwant %q", got, test.fields)
			}
		})
	}
}

// TestPolicyFieldsAreWhole: what a field shows, it also takes, and the defaults
// are within the limits.
func TestPolicyFieldsAreWhole(t *testing.T) {
	settings := DefaultPolicy().Settings()
	if len(settings) != len(PolicyFields) {
		t.Errorf("%d settings of %d fields", len(settings), len(PolicyFields))
	}
	back, bad := Policy{Max: 1, TargetRPS: 1}.With(settings, "")
	if len(bad) > 0 || back != DefaultPolicy() {
		t.Errorf("%+v, %v", back, bad)
	}
	for _, f := range PolicyFields {
		if f.Doc == "" || f.Limit == "" {
			t.Errorf("%s is not described", f.Key)
		}
		if found, ok := FindPolicyField(f.Key); !ok || found.Key != f.Key {
			t.Errorf("%s is not found", f.Key)
		}
	}
}

func TestPolicyChanges(t *testing.T) {
	p := DefaultPolicy()
	next, _ := p.With(map[string]string{"max": "4", "freeze_sockets": "true", "schedule": "0 8 * * * for 1h min=1"}, "")
	got := p.Changes(next)
	want := []FieldChange{{"max", "10", "4"}, {"schedule", "", "0 8 * * * for 1h min=1"}, {"freeze_sockets", "false", "true"}}
	if !slices.Equal(got, want) || len(p.Changes(p)) != 0 {
		t.Errorf("%+v", got)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	app := App{Policy: p}
	app.SetPolicy(p, "ci", at)
	if app.PolicyBy != "" || !app.PolicyAt.IsZero() {
		t.Errorf("the same policy counts as a change: %+v", app)
	}
	app.SetPolicy(next, "ci", at)
	if app.Policy != next || app.PolicyBy != "ci" || app.PolicyAt != at {
		t.Errorf("%+v", app)
	}
}
