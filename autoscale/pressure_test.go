package autoscale

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

const megabyte = router.Bytes(1 << 20)

// frozen is an instance of an app of that name that sleeps; change may make it
// another one.
func frozen(app string, idle time.Duration, held router.Bytes, change ...func(*Resident)) Resident {
	r := Resident{
		ID: app, App: app, State: router.Frozen, Serving: true, Idle: idle, Held: held, Reserve: 32 * megabyte,
		WakeCost: 40, Thaw: 15 * time.Millisecond, Start: 500 * time.Millisecond, Freezes: true,
	}
	for _, f := range change {
		f(&r)
	}
	return r
}

func ready(r *Resident) { r.State = router.Ready }

func TestShort(t *testing.T) {
	const gb = 1024 * megabyte
	tests := map[string]struct {
		load   Load
		memory bool // was short before
		cpu    bool
		want   Shortage
	}{
		"below the high-water mark":             {load: Load{Capacity: 10 * gb, Used: 9 * gb}},
		"above it, down to the low one":         {load: Load{Capacity: 10 * gb, Used: 9*gb + 512*megabyte}, want: Shortage{Memory: gb + 512*megabyte}},
		"between the marks, short before":       {load: Load{Capacity: 10 * gb, Used: 8*gb + 512*megabyte}, memory: true, want: Shortage{Memory: 512 * megabyte}},
		"at the low-water mark, short before":   {load: Load{Capacity: 10 * gb, Used: 8 * gb}, memory: true},
		"what is to start counts":               {load: Load{Capacity: 10 * gb, Used: 8 * gb, Need: 2 * gb}, want: Shortage{Memory: 2 * gb}},
		"a node of which nothing is known":      {load: Load{Used: gb}},
		"all cores in use":                      {load: Load{Capacity: gb, CPUs: 4, CPU: 4}, want: Shortage{CPU: 0.8}},
		"cores between the marks":               {load: Load{Capacity: gb, CPUs: 4, CPU: 3.4}},
		"cores between the marks, short before": {load: Load{Capacity: gb, CPUs: 4, CPU: 3.6}, cpu: true, want: Shortage{CPU: 0.4}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := Short(tt.load, tt.memory, tt.cpu)
			if got.CPU = math.Round(got.CPU*1e6) / 1e6; got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestRelieve(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	tests := map[string]struct {
		short Shortage
		list  []Resident
		want  []string // ID and rung
	}{
		"nothing is short": {
			list: []Resident{frozen("a", time.Hour, 100*megabyte)},
		},
		"who has been idle longest goes first": {
			short: Shortage{Memory: 50 * megabyte},
			list:  []Resident{frozen("a", time.Minute, 100*megabyte), frozen("b", time.Hour, 100*megabyte)},
			want:  []string{"b stopped"},
		},
		"who holds more goes first": {
			short: Shortage{Memory: 200 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 20*megabyte), frozen("b", time.Hour, 200*megabyte)},
			want:  []string{"b stopped"},
		},
		"who wakes fast goes first": {
			short: Shortage{Memory: 50 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, func(r *Resident) { r.Start = 10 * time.Second }), frozen("b", time.Hour, 100*megabyte)},
			want:  []string{"b stopped"},
		},
		"whose waiting costs little goes first": {
			short: Shortage{Memory: 50 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte), frozen("b", time.Minute, 100*megabyte, func(r *Resident) { r.WakeCost = 0 })},
			want:  []string{"b stopped"},
		},
		"who is due soon goes last": {
			short: Shortage{Memory: 50 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, func(r *Resident) { r.Due = 10 * time.Second }), frozen("b", 10*time.Minute, 100*megabyte)},
			want:  []string{"b stopped"},
		},
		"another release's goes before all": {
			short: Shortage{Memory: 50 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte), frozen("b", time.Second, 100*megabyte, func(r *Resident) { r.Serving = false })},
			want:  []string{"b stopped"},
		},
		"an app's second goes before another's only one": {
			short: Shortage{Memory: 50 * megabyte},
			list: []Resident{
				frozen("a", 10*time.Minute, 100*megabyte),
				frozen("b", 5*time.Minute, 100*megabyte), frozen("b", 6*time.Minute, 100*megabyte, func(r *Resident) { r.ID = "b2" }),
			},
			want: []string{"b2 stopped"},
		},
		"page cache goes before the instance": {
			short: Shortage{Memory: 50 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, func(r *Resident) { r.Reclaims = true }), frozen("b", 50*time.Minute, 100*megabyte)},
			want:  []string{"a frozen"},
		},
		"where its page cache is too little, it is stopped": {
			short: Shortage{Memory: 90 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, func(r *Resident) { r.Reclaims = true })},
			want:  []string{"a stopped"},
		},
		"frozen ones go before ready ones": {
			short: Shortage{Memory: 50 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, ready), frozen("b", time.Hour, 100*megabyte)},
			want:  []string{"b stopped"},
		},
		"a ready one goes for memory where nothing else does": {
			short: Shortage{Memory: 50 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, ready)},
			want:  []string{"a stopped"},
		},
		"a ready one is frozen for what it has reserved": {
			short: Shortage{Reserve: 20 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, ready), frozen("b", 2*time.Hour, 100*megabyte)},
			want:  []string{"a frozen"},
		},
		"a ready one that uses next to no CPU is not": {
			short: Shortage{CPU: 0.5},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, ready, func(r *Resident) { r.CPU = 0.01 })},
		},
		"a ready one that burns CPU is frozen for it": {
			short: Shortage{CPU: 0.5},
			list: []Resident{
				frozen("a", time.Hour, 100*megabyte, ready),
				frozen("b", time.Hour, 100*megabyte, ready, func(r *Resident) { r.CPU = 1 }),
				frozen("c", time.Hour, 100*megabyte),
			},
			want: []string{"b frozen"},
		},
		"without a freezer it is stopped": {
			short: Shortage{CPU: 0.5},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, ready, func(r *Resident) { r.CPU, r.Freezes = 1, false })},
			want:  []string{"a stopped"},
		},
		"as many go as are needed": {
			short: Shortage{Memory: 150 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte), frozen("b", 2*time.Hour, 100*megabyte), frozen("c", time.Minute, 100*megabyte)},
			want:  []string{"b stopped", "a stopped"},
		},
		"small ones stay where a big one frees enough": {
			short: Shortage{Memory: 100 * megabyte},
			list:  []Resident{frozen("a", 10*time.Hour, 10*megabyte), frozen("b", time.Hour, 100*megabyte)},
			want:  []string{"b stopped"},
		},
		"who must stay stays": {
			short: Shortage{Memory: 1 << 40, Reserve: 1 << 40, CPU: 100},
			list: []Resident{
				frozen("flight", time.Hour, 100*megabyte, ready, func(r *Resident) { r.InFlight = 1 }),
				frozen("busy", time.Hour, 100*megabyte, ready, func(r *Resident) { r.Busy = now.Add(time.Second) }),
				frozen("min", time.Hour, 100*megabyte, ready, func(r *Resident) { r.Kept = true }),
				frozen("asked", time.Second, 100*megabyte, ready),
				frozen("claimed", time.Hour, 100*megabyte, func(r *Resident) { r.Claimed = true }),
				frozen("starting", time.Hour, 100*megabyte, func(r *Resident) { r.State = router.Starting }),
				frozen("draining", time.Hour, 100*megabyte, func(r *Resident) { r.State = router.Draining }),
				frozen("stopped", time.Hour, 0, func(r *Resident) { r.State = router.Stopped }),
			},
		},
		"a lease that is over protects nobody": {
			short: Shortage{Memory: 20 * megabyte},
			list:  []Resident{frozen("a", time.Hour, 100*megabyte, ready, func(r *Resident) { r.Busy = now })},
			want:  []string{"a stopped"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, o := range Relieve(tt.short, tt.list, now) {
				got = append(got, o.ID+" "+string(o.To))
				if o.Why == "" {
					t.Errorf("%s goes without a reason", o.ID)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Whatever there is on a node: who must stay stays, every one that goes is
// needed, all go where that is not enough, and the order of what is asked is of
// no matter.
func TestRelieveHolds(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		some := func(share float64) bool { return rnd.Float64() < share }
		var list []Resident
		for i := range rnd.IntN(30) {
			r := Resident{
				ID: fmt.Sprint("i", i), App: fmt.Sprint("app", rnd.IntN(8)), Serving: some(0.8), Kept: some(0.1), Claimed: some(0.1),
				State: []router.InstanceState{router.Ready, router.Frozen, router.Frozen, router.Stopped, router.Starting, router.Draining}[rnd.IntN(6)],
				Idle:  time.Duration(rnd.ExpFloat64() * float64(time.Minute)),
				Held:  router.Bytes(rnd.IntN(500)) * megabyte, Reserve: router.Bytes(rnd.IntN(200)) * megabyte,
				WakeCost: float64(rnd.IntN(80)), Thaw: time.Duration(rnd.IntN(50)) * time.Millisecond, Start: time.Duration(rnd.IntN(5000)) * time.Millisecond,
				Freezes: some(0.9), Reclaims: some(0.5),
			}
			if some(0.2) {
				r.InFlight = 1
			}
			if some(0.2) {
				r.Busy = now.Add(time.Duration(rnd.IntN(20)-10) * time.Second)
			}
			if some(0.5) {
				r.CPU = rnd.Float64()
			}
			list = append(list, r)
		}
		short := Shortage{Memory: router.Bytes(rnd.IntN(3000)-500) * megabyte}
		if some(0.3) {
			short.Reserve = router.Bytes(rnd.IntN(500)) * megabyte
		}
		if some(0.3) {
			short.CPU = rnd.Float64() * 4
		}
		got := Relieve(short, list, now)
		left := short
		byID := map[string]Resident{}
		for _, r := range list {
			byID[r.ID] = r
		}
		seen := map[string]bool{}
		for _, o := range got {
			r := byID[o.ID]
			switch {
			case seen[o.ID]:
				t.Fatalf("seed %d: %s goes twice", seed, o.ID)
			case r.State != router.Ready && r.State != router.Frozen, r.Claimed, now.Before(r.Busy), r.State == router.Ready && (r.InFlight > 0 || r.Kept):
				t.Fatalf("seed %d: %+v must stay, and goes to %s", seed, r, o.To)
			case o.To != router.RungFrozen && o.To != router.RungStopped:
				t.Fatalf("seed %d: %s goes to %s", seed, o.ID, o.To)
			}
			seen[o.ID] = true
			left.Memory -= o.Memory
			left.Reserve -= o.Reserve
			left.CPU -= o.CPU
		}
		for _, o := range got {
			without := Shortage{left.Memory + o.Memory, left.Reserve + o.Reserve, left.CPU + o.CPU}
			if !lacking(without) {
				t.Fatalf("seed %d: %s goes although enough is freed without it: %+v", seed, o.ID, without)
			}
		}
		if left.Memory > 0 {
			for _, r := range list {
				if Protected(r, now) == "" && r.Held > 0 && !slices.ContainsFunc(got, func(o Step) bool { return o.ID == r.ID && o.To == router.RungStopped }) {
					t.Fatalf("seed %d: %d MB are lacking and %s stays", seed, left.Memory/megabyte, r.ID)
				}
			}
		}
		rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		if again := Relieve(short, list, now); !reflect.DeepEqual(got, again) {
			t.Fatalf("seed %d: the order of the instances matters:\n%v\n%v", seed, got, again)
		}
	}
}
