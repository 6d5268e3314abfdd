package decide

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// TestInvariants drives random traffic, policies and faults through decisions
// and holds each against what must always be so.
func TestInvariants(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			chance := rand.New(rand.NewPCG(seed, 1))
			p, f := randomPolicy(chance), randomFacts(chance)
			w := &model{chance: chance, p: p, f: f}
			for second := range int64(600) {
				w.second(t, start+second)
			}
		})
	}
}

func randomPolicy(chance *rand.Rand) router.Policy {
	p := router.DefaultPolicy()
	p.Min, p.Max = chance.IntN(3), 3+chance.IntN(60)
	p.WakeCost = float64(chance.IntN(3)) * 30
	p.MaxScaleUpRate = 1 + chance.IntN(50)
	p.CoolDown = router.Duration(chance.IntN(10)) * router.Duration(time.Second)
	if chance.IntN(3) == 0 {
		p.FreezeAfter = router.Duration(10 * time.Second)
	}
	if chance.IntN(3) == 0 {
		p.StopAfter = router.Duration(60 * time.Second)
	}
	if chance.IntN(4) == 0 {
		p.Budget = 0.2
	}
	if chance.IntN(4) == 0 {
		p.Schedule = "0 0 * * * for 5m min=1 max=5"
	}
	return p
}

func randomFacts(chance *rand.Rand) Facts {
	ms := func(most int) time.Duration { return time.Duration(1+chance.IntN(most)) * time.Millisecond }
	return Facts{Slots: 1 + chance.IntN(100), Service: ms(300), Thaw: ms(30), Start: ms(3000), Create: ms(9000)}
}

// model is a crude app: what was decided happens, but for what goes wrong.
type model struct {
	chance        *rand.Rand
	p             router.Policy
	f             Facts
	m             Memory
	ready, frozen int
	starting      []time.Time
	queued        float64
	rate          float64
	last          int64 // second of the last request
	raised        time.Time
}

func (w *model) second(t *testing.T, unix int64) {
	switch w.chance.IntN(30) { // traffic changes, and things die
	case 0:
		w.rate = 0
	case 1, 2:
		w.rate = w.chance.Float64() * 2000
	case 3:
		w.rate *= 10
	case 4:
		w.ready = w.chance.IntN(w.ready + 1)
	case 5:
		w.starting, w.frozen = nil, w.chance.IntN(w.frozen+1)
	}
	w.rate = min(w.rate, 1e6)
	came := int64(w.rate * (0.8 + 0.4*w.chance.Float64()))
	for i := range 10 {
		now := time.Unix(unix, int64(i)*int64(lookEvery))
		w.queued = max(0, w.queued+float64(came)/10-float64(w.ready)*w.f.capacity()/10)
		if i == 0 || w.queued >= 1 {
			w.decide(t, now)
		}
	}
	if came > 0 {
		w.last = unix
	}
	w.m.Observe(Second{Unix: unix, Requests: came, Queued: int64(w.queued), Running: w.ready + len(w.starting)}, w.p, w.f)
}

func (w *model) decide(t *testing.T, now time.Time) {
	t.Helper()
	var left []time.Duration
	var still []time.Time
	for _, at := range w.starting {
		if at.After(now) {
			still, left = append(still, at), append(left, at.Sub(now))
		} else {
			w.ready++
		}
	}
	w.starting = still
	at := Present{Ready: w.ready, Starting: left, Frozen: w.frozen, Queued: int(w.queued), Idle: now.Sub(time.Unix(w.last+1, 0))}
	if w.last == 0 {
		at.Idle = long
	}
	d := Decide(now, w.p, w.f, &w.m, at)
	w.check(t, now, d, at)
	w.m.Look(now, at)
	w.m.Decided(now, d, at)
	// It is carried out.
	for n := d.Desired - at.Have(); n > 0; n-- {
		takes := w.f.Create
		if w.frozen > 0 {
			w.frozen--
			takes = w.f.Thaw
		}
		w.starting = append(w.starting, now.Add(takes))
		w.raised = now
	}
	if less := min(w.ready, at.Have()-d.Desired); less > 0 {
		w.ready -= less
		w.frozen += less
	}
	w.frozen = min(w.frozen, d.Frozen)
}

func (w *model) check(t *testing.T, now time.Time, d Decision, at Present) {
	t.Helper()
	least, most, _ := w.p.Schedule.At(now, w.p.Min, w.p.Max)
	speed := at.Have() + w.p.MaxScaleUpRate
	spent := w.p.Budget > 0 && w.m.Spent.on(now) >= w.p.Budget*3600
	wrong := func(what string) {
		t.Helper()
		t.Fatalf("%s: %s: %+v of %+v, policy %+v", now.UTC().Format("15:04:05.0"), what, d, at, w.p)
	}
	switch {
	case d.Desired > most:
		wrong("beyond max")
	case d.Desired < min(least, speed) && !spent && d.Rule != RuleSpeed:
		wrong("below min")
	case d.Desired > speed:
		wrong("faster than max_scale_up_rate")
	case d.Frozen < 0 || d.Frozen > at.Have()+at.Frozen:
		wrong("more frozen than there are")
	case at.Queued > 0 && d.Desired < min(at.Have(), most) && !spent:
		wrong("scaled down under a queue")
	case now.Sub(w.raised) < w.p.CoolDown.D() && d.Desired < min(at.Have(), most) && !spent && (w.p.FreezeAfter == router.Auto || at.Idle < w.p.FreezeAfter.D()):
		wrong("scaled down while it cools down")
	case d.Reason == "" || d.Rule == "":
		wrong("no reason")
	}
}

// FuzzDecide: no memory, however it came about, makes a decision panic or leave
// the limits.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{1, 2, 3, 250, 0, 0, 9}, uint8(3), uint8(2), uint16(100))
	f.Fuzz(func(t *testing.T, rates []byte, ready, frozen uint8, queued uint16) {
		p := policy(t)
		var m Memory
		unix := int64(start)
		for i, r := range rates {
			unix += 1 + int64(r)%7*int64(i%3)
			m.Observe(Second{Unix: unix, Requests: int64(r) * int64(r), InFlight: int64(r % 5), Queued: int64(r % 2)}, p, web)
		}
		at := Present{Ready: int(ready), Frozen: int(frozen), Queued: int(queued)}
		d := Decide(time.Unix(unix+1, 0), p, web, &m, at)
		if d.Desired < 0 || d.Desired > p.Max || d.Frozen < 0 || d.Frozen > at.Have()+at.Frozen {
			t.Errorf("%+v of %+v", d, at)
		}
	})
}
