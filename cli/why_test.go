package cli

import (
	"strings"
	"testing"
	"time"
)

func TestMoment(t *testing.T) {
	zone := time.FixedZone("there", 2*3600)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, zone)
	for text, want := range map[string]string{
		"11:30":                     "2026-03-01T11:30:00+02:00",
		"12:00:01":                  "2026-02-28T12:00:01+02:00", // today's is yet to come
		"2026-02-27 09:05":          "2026-02-27T09:05:00+02:00",
		"2026-02-27T09:05:07":       "2026-02-27T09:05:07+02:00",
		"2026-02-27":                "2026-02-27T00:00:00+02:00",
		"2026-02-27T09:05:07Z":      "2026-02-27T09:05:07Z",
		"2026-02-27T09:05:07-05:00": "2026-02-27T09:05:07-05:00",
		"10m":                       "2026-03-01T11:50:00+02:00",
		"2d":                        "2026-02-27T12:00:00+02:00",
	} {
		if got, ok := moment(text, now); !ok || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %s %v, want %s", text, got.Format(time.RFC3339), ok, want)
		}
	}
	for _, text := range []string{"", "noon", "25:00", "2026-13-01", "-5m", "5"} {
		if got, ok := moment(text, now); ok {
			t.Errorf("%q passes as %s", text, got)
		}
	}
}

// With --at, what happened before and after that time is shown with its own.
func TestWhyAt(t *testing.T) {
	example(t)
	for at, want := range map[string]bool{"1h": true, "0s": true} {
		got := run(t, "", "why", "hello", "--at", at)
		if got.code != 0 || strings.Contains(got.out, "woke from frozen") != want || strings.Contains(got.out, " ago") {
			t.Errorf("%s: %+v", at, got)
		}
	}
	if got := run(t, "", "why", "hello", "--at", "1h", "-n", "1"); got.code != 0 || !strings.Contains(got.out, "nothing happened") {
		t.Errorf("a single entry is one before the time: %+v", got)
	}
}
