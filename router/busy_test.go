package router

import (
	"testing"
	"time"
)

func TestParseBusy(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "90": 90 * time.Second, "0": 0, "0s": 0, "1.5s": 1500 * time.Millisecond,
		"2030-01-02T03:05:05Z": time.Minute, "2030-01-02T04:05:05+01:00": time.Minute, "2030-01-02T03:03:05Z": -time.Minute,
		"1893553505": time.Minute,
	} {
		t.Run(text, func(t *testing.T) {
			if at, ok := ParseBusy(text, now); !ok || at.Sub(now) != want {
				t.Errorf("%v %v, want %s from now", at, ok, want)
			}
		})
	}
	for _, text := range []string{"", "soon", "-1", "-5s", "90 s", "99999999999999999999", "1e400h", "2030-01-02", " 90s"} {
		t.Run("not "+text, func(t *testing.T) {
			if at, ok := ParseBusy(text, now); ok {
				t.Errorf("taken for %v", at)
			}
		})
	}
}

func FuzzParseBusy(f *testing.F) {
	for _, text := range []string{"90s", "90", "2030-01-02T03:05:05Z", "1893553505", "-1", "1e9s"} {
		f.Add(text)
	}
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		at, ok := ParseBusy(text, now)
		if !ok {
			return
		}
		if lease := Lease(at, now, 10*time.Minute); lease.After(now.Add(10*time.Minute)) || (!lease.IsZero() && !lease.After(now)) {
			t.Errorf("%q gets a lease until %v", text, lease)
		}
	})
}

func TestLease(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tc := range map[string]struct{ ask, longest, want time.Duration }{
		"a little more than asked":   {100 * time.Second, time.Hour, 110 * time.Second},
		"a second at least":          {2 * time.Second, time.Hour, 3 * time.Second},
		"half a minute at most":      {20 * time.Minute, time.Hour, 20*time.Minute + 30*time.Second},
		"never beyond the policy":    {time.Hour, 10 * time.Minute, 10 * time.Minute},
		"not even by the slack":      {10*time.Minute - time.Second, 10 * time.Minute, 10 * time.Minute},
		"it ends":                    {0, time.Hour, 0},
		"it has ended":               {-time.Hour, time.Hour, 0},
		"the policy allows no lease": {time.Minute, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := Lease(now.Add(tc.ask), now, tc.longest)
			if tc.want == 0 {
				if !got.IsZero() {
					t.Errorf("until %v, want none", got)
				}
				return
			}
			if got.Sub(now) != tc.want {
				t.Errorf("%s, want %s", got.Sub(now), tc.want)
			}
		})
	}
}
