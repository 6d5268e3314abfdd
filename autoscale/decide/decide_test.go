package decide

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// start is the first second of every test's traffic: 0:00 UTC of a day.
const start = 20_000 * day

// web is an app that serves 500 requests/s with an instance.
var web = Facts{Slots: 20, Service: 40 * time.Millisecond, Thaw: 12 * time.Millisecond, Start: 500 * time.Millisecond, Create: 600 * time.Millisecond}

// jvm takes 8 s to start, and serves 100 requests/s with an instance.
var jvm = Facts{Slots: 10, Service: 100 * time.Millisecond, Thaw: 15 * time.Millisecond, Start: 7 * time.Second, Create: 8 * time.Second}

// policy is the default one with settings.
func policy(t testing.TB, settings ...string) router.Policy {
	t.Helper()
	set := map[string]string{"max": "100"}
	for i := 0; i < len(settings); i += 2 {
		set[settings[i]] = settings[i+1]
	}
	p, bad := router.DefaultPolicy().With(set, "")
	if len(bad) > 0 {
		t.Fatal(bad)
	}
	return p
}

// traffic has a Memory see rates, one a second from start on, and returns the
// moment after them.
func traffic(m *Memory, p router.Policy, f Facts, rates ...int64) time.Time {
	first := m.Signal.Second + 1
	if m.Signal.Second == 0 {
		first = start
	}
	for i, n := range rates {
		m.Observe(Second{Unix: first + int64(i), Requests: n, Done: n, Service: time.Duration(n) * f.Service}, p, f)
	}
	return time.Unix(first+int64(len(rates)), 0)
}

// flat is a rate that stays for some seconds.
func flat(seconds int, rate int64) []int64 {
	out := make([]int64, seconds)
	for i := range out {
		out[i] = rate
	}
	return out
}

func join(parts ...[]int64) []int64 {
	var out []int64
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// slope is a rate that grows evenly.
func slope(seconds int, from, to int64) []int64 {
	out := make([]int64, seconds)
	for i := range out {
		out[i] = from + (to-from)*int64(i)/int64(seconds)
	}
	return out
}

func TestDecide(t *testing.T) {
	tests := map[string]struct {
		settings []string
		facts    Facts
		rates    []int64
		at       Present
		least    int // the desired count is within these
		most     int
		rule     string
	}{
		"nothing ever came":               {facts: web, at: Present{Idle: long}, rule: RuleIdle},
		"min holds when idle":             {settings: []string{"min", "2"}, facts: web, at: Present{Idle: long}, least: 2, most: 2, rule: RuleMin},
		"a trickle needs one":             {facts: web, rates: flat(60, 1), at: Present{Ready: 1}, least: 1, most: 1, rule: RuleRate},
		"steady traffic":                  {facts: web, rates: flat(60, 5000), at: Present{Ready: 10}, least: 11, most: 14, rule: RuleRate},
		"many instances even out":         {facts: jvm, rates: flat(60, 9000), at: Present{Ready: 1}, least: 94, most: 100, rule: RuleRate},
		"one instance is not filled up":   {facts: web, rates: flat(60, 430), at: Present{Ready: 1}, least: 2, most: 2, rule: RuleRate},
		"what is just enough stays":       {facts: web, rates: flat(60, 5000), at: Present{Ready: 12}, least: 12, most: 12, rule: RuleRate},
		"explicit target_rps":             {settings: []string{"target_rps", "100"}, facts: web, rates: flat(60, 1000), at: Present{Ready: 1}, least: 10, most: 10, rule: RuleRate},
		"explicit target_concurrency":     {settings: []string{"target_concurrency", "2"}, facts: web, rates: flat(60, 1000), at: Present{Ready: 1}, least: 20, most: 20, rule: RuleRate},
		"max holds":                       {settings: []string{"max", "3"}, facts: web, rates: flat(60, 5000), at: Present{Ready: 3}, least: 3, most: 3, rule: RuleMax},
		"growth counts as far as a start": {facts: jvm, rates: slope(60, 0, 3000), at: Present{Ready: 35}, least: 38, most: 48, rule: RuleRate},
		"a step that is over is no growth": {
			facts: jvm, rates: join(flat(60, 500), flat(20, 2000)), at: Present{Ready: 21}, least: 21, most: 26,
		},
		"a step counts at its first second": {facts: web, rates: join(flat(60, 100), flat(1, 3000)), at: Present{Ready: 1}, least: 6, most: 12, rule: RuleRate},
		"a queue with frozen ones": {
			facts: jvm, rates: flat(60, 100), at: Present{Ready: 2, Frozen: 20, Queued: 200}, least: 8, most: 22, rule: RuleQueue,
		},
		"a queue with nothing frozen counts until a start is done": {
			facts: jvm, rates: flat(60, 100), at: Present{Ready: 2, Queued: 2000}, least: 12, most: 100, rule: RuleQueue,
		},
		"what is on its way already counts": {
			facts: jvm, rates: flat(60, 1000), at: Present{Ready: 10, Starting: make([]time.Duration, 30), Queued: 200}, least: 40, most: 40,
		},
		"nothing is taken from a queue": {facts: jvm, rates: flat(60, 100), at: Present{Ready: 9, Queued: 1}, least: 9, most: 10},
		"max_scale_up_rate":             {settings: []string{"max_scale_up_rate", "3"}, facts: web, rates: flat(60, 5000), at: Present{Ready: 4}, least: 7, most: 7, rule: RuleSpeed},
		"a schedule's min":              {settings: []string{"schedule", "0 0 * * * for 1h min=4"}, facts: web, rates: flat(60, 1), at: Present{Ready: 1}, least: 4, most: 4, rule: RuleMin},
		"a schedule's max":              {settings: []string{"schedule", "0 0 * * * for 1h max=2"}, facts: web, rates: flat(60, 5000), at: Present{Ready: 1}, least: 2, most: 2, rule: RuleMax},
		"freeze_after that has not passed": {
			settings: []string{"freeze_after", "30s"}, facts: web, rates: join(flat(1, 1), flat(29, 0)), at: Present{Ready: 1, Idle: 29 * time.Second}, least: 1, most: 1, rule: RuleWarm,
		},
		"freeze_after that has": {
			settings: []string{"freeze_after", "30s"}, facts: web, rates: join(flat(1, 1), flat(30, 0)), at: Present{Ready: 1, Idle: 30 * time.Second}, rule: RuleIdle,
		},
		"freeze_after never": {
			settings: []string{"freeze_after", "never", "stop_after", "never", "remove_after", "never"}, facts: web, rates: join(flat(1, 1), flat(300, 0)), at: Present{Ready: 1, Idle: 300 * time.Second}, least: 1, most: 1, rule: RuleWarm,
		},
		"nobody asked for it yet, but it came up just now": {facts: web, at: Present{Ready: 1, Idle: time.Second}, least: 1, most: 1, rule: RuleWarm},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := policy(t, tt.settings...)
			var m Memory
			now := traffic(&m, p, tt.facts, tt.rates...)
			if len(tt.rates) == 0 {
				now = time.Unix(start, 0)
			}
			m.Look(now.Add(-lookEvery), Present{Ready: tt.at.Ready, Queued: tt.at.Queued})
			d := Decide(now, p, tt.facts, &m, tt.at)
			if d.Desired < tt.least || d.Desired > tt.most || tt.rule != "" && d.Rule != tt.rule || d.Reason == "" {
				t.Errorf("got %d by %s (%s), want %d to %d by %s; votes %+v", d.Desired, d.Rule, d.Reason, tt.least, tt.most, tt.rule, d.Votes)
			}
			if again := Decide(now, p, tt.facts, &m, tt.at); again.Desired != d.Desired || again.Frozen != d.Frozen {
				t.Errorf("asked again it says %d and %d, not %d and %d", again.Desired, again.Frozen, d.Desired, d.Frozen)
			}
		})
	}
}

// TestBudget: once the day's instance-hours are spent one instance serves, and
// the next day is a new one.
func TestBudget(t *testing.T) {
	p := policy(t, "budget", "0.5")
	var m Memory
	at := Present{Ready: 10}
	for i := range int64(200) {
		m.Observe(Second{Unix: start + i, Requests: 5000, Running: 10}, p, web)
		d := Decide(time.Unix(start+i+1, 0), p, web, &m, at)
		if spent := (i + 1) * 10; (spent >= 1800) != (d.Rule == RuleBudget) || d.Rule == RuleBudget && d.Desired != 1 {
			t.Fatalf("after %d instance-seconds %d by %s", spent, d.Desired, d.Rule)
		}
	}
	if d := Decide(time.Unix(start+day, 0), p, web, &m, at); d.Rule == RuleBudget {
		t.Errorf("the next day, too: %s", d.Reason)
	}
}

// TestCoolDown: right after an instance was added nothing is taken away.
func TestCoolDown(t *testing.T) {
	p := policy(t, "cool_down", "5s")
	var m Memory
	now := traffic(&m, p, web, join(flat(10, 5000), flat(2, 0))...)
	up := Decide(now, p, web, &m, Present{Ready: 2})
	m.Decided(now, Decision{Desired: 20}, Present{Ready: 2})
	for after, want := range map[time.Duration]int{time.Second: 20, 4 * time.Second: 20} {
		if d := Decide(now.Add(after), p, web, &m, Present{Ready: 20}); d.Desired != want || d.Rule != RuleCoolDown {
			t.Errorf("%s later: %d by %s", after, d.Desired, d.Rule)
		}
	}
	if d := Decide(now.Add(6*time.Second), p, web, &m, Present{Ready: 20}); d.Rule == RuleCoolDown {
		t.Errorf("6 s later it still cools down; first it was %+v", up)
	}
}

// cron is bursts at a period of minutes, with a second's jitter.
func cron(m *Memory, p router.Policy, f Facts, bursts int, period int64) time.Time {
	var now time.Time
	for i := range bursts {
		jitter := int64(i % 2)
		now = traffic(m, p, f, join(flat(int(jitter), 0), flat(4, 150), flat(int(period-4-jitter), 0))...)
	}
	return now
}

// TestRhythm: an app that is asked every ten minutes is ready when the time
// comes, and only then.
func TestRhythm(t *testing.T) {
	p := policy(t)
	var m Memory
	now := cron(&m, p, jvm, 16, 600) // the next burst is due now
	idle := Present{Idle: 5 * time.Minute}
	for name, tt := range map[string]struct {
		at   time.Duration
		want bool
	}{
		"long before":       {-5 * time.Minute, false},
		"so that it starts": {-10 * time.Second, true},
		"when it is due":    {0, true},
		"when it is late":   {2 * time.Second, true},
		"when it is missed": {time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(now.Add(tt.at), p, jvm, &m, idle)
			if (d.Rule == RuleRhythm && d.Desired >= 2) != tt.want {
				t.Errorf("%d by %s (%s)", d.Desired, d.Rule, d.Reason)
			}
		})
	}
	next, ok := m.Next(now.Add(-5*time.Minute), p, jvm)
	if lead := now.Sub(next); !ok || lead < 8*time.Second || lead > 30*time.Second {
		t.Errorf("to be looked at %s before the burst, %v", lead, ok)
	}
	if d := Decide(now.Add(-9*time.Minute), p, jvm, &m, Present{Frozen: 3, Idle: time.Minute}); d.Frozen != 0 {
		t.Errorf("%d stay frozen although it is known when they will be needed", d.Frozen)
	}
}

// TestSeason: what both days before needed at nine is there at nine.
func TestSeason(t *testing.T) {
	p := policy(t)
	var m Memory
	nine := int64(start + 9*3600)
	for d := range int64(2) {
		for s := range int64(60) {
			m.Observe(Second{Unix: nine + d*day + s, Requests: 1000}, p, jvm)
		}
	}
	idle := Present{Idle: time.Hour}
	if d := Decide(time.Unix(nine+2*day-9, 0), p, jvm, &m, idle); d.Rule != RuleSeason || d.Desired < 10 {
		t.Errorf("just before nine: %d by %s (%s)", d.Desired, d.Rule, d.Reason)
	}
	if d := Decide(time.Unix(nine+2*day-3600, 0), p, jvm, &m, idle); d.Rule == RuleSeason {
		t.Errorf("at eight: %d by %s (%s)", d.Desired, d.Rule, d.Reason)
	}
	if d := Decide(time.Unix(nine+4*day-9, 0), p, jvm, &m, idle); d.Rule == RuleSeason {
		t.Error("two days without it, and it is still expected")
	}
	next, ok := m.Next(time.Unix(nine+day+7200, 0), p, jvm)
	if lead := nine + 2*day - next.Unix(); !ok || lead < 8 || lead > 60 {
		t.Errorf("to be looked at %d s before nine, %v", lead, ok)
	}
}

// TestKeepsWarm: how long instances are kept depends on how long gaps were, and
// on what waking costs.
func TestKeepsWarm(t *testing.T) {
	seen := func(p router.Policy, f Facts, gap int) *Memory {
		var m Memory
		for range 30 {
			traffic(&m, p, f, join(flat(1, 1), flat(gap, 0))...)
		}
		return &m
	}
	for name, tt := range map[string]struct {
		facts  Facts
		gap    int
		cost   string
		age    time.Duration
		ready  bool
		frozen bool
	}{
		"short gaps keep it ready":                   {web, 8, "30", 6 * time.Second, true, false},
		"gaps of minutes keep it frozen":             {jvm, 240, "30", 100 * time.Second, false, true},
		"where waking costs nothing nothing is kept": {jvm, 240, "0", 100 * time.Second, false, false},
		"gaps of hours do not pay":                   {web, 7200, "30", 1000 * time.Second, false, false},
		"unless waking costs much":                   {web, 7200, "10000", 1000 * time.Second, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy(t, "wake_cost", tt.cost)
			m := seen(p, tt.facts, tt.gap)
			m.Rhythm = rhythm{} // such regular gaps would be one
			now := time.Unix(m.Levels.Needed[0], 0).Add(tt.age)
			d := Decide(now, p, tt.facts, m, Present{Ready: 1, Idle: tt.age})
			if (d.Desired == 1) != tt.ready {
				t.Errorf("ready: %d by %s (%s)", d.Desired, d.Rule, d.Reason)
			}
			if d.Desired == 0 && (d.Frozen == 1) != tt.frozen {
				t.Errorf("%d stay frozen", d.Frozen)
			}
		})
	}
}

// TestMemoryIsKept: what is stored and read again decides alike.
func TestMemoryIsKept(t *testing.T) {
	p := policy(t)
	var m Memory
	now := cron(&m, p, jvm, 8, 600)
	traffic(&m, p, jvm, slope(60, 0, 3000)...)
	raw, err := json.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > 16<<10 {
		t.Errorf("it takes %d bytes", len(raw))
	}
	var again Memory
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	at := Present{Ready: 5, Frozen: 5}
	now = now.Add(60 * time.Second)
	one, two := Decide(now, p, Facts{}, &m, at), Decide(now, p, Facts{}, &again, at)
	if one.Desired != two.Desired || one.Frozen != two.Frozen || one.Reason != two.Reason {
		t.Errorf("%+v became %+v", one, two)
	}
}
