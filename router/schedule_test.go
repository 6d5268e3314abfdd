package router

import (
	"testing"
	"time"
)

func TestScheduleAt(t *testing.T) {
	at := func(s string) time.Time {
		t.Helper()
		v, err := time.Parse("Mon 2006-01-02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	office := "0 8 * * 1-5 for 10h min=3 max=20"
	tests := map[string]struct {
		schedule    string
		now         string
		least, most int
		active      bool
	}{
		"none":                      {"", "Wed 2026-11-25 12:00", 1, 10, false},
		"within":                    {office, "Wed 2026-11-25 12:00", 3, 20, true},
		"at its first moment":       {office, "Wed 2026-11-25 08:00", 3, 20, true},
		"before":                    {office, "Wed 2026-11-25 07:59", 1, 10, false},
		"at its end":                {office, "Wed 2026-11-25 18:00", 1, 10, false},
		"another weekday":           {office, "Sun 2026-11-29 12:00", 1, 10, false},
		"over midnight":             {"0 22 * * * for 4h min=2", "Thu 2026-11-26 01:00", 2, 10, true},
		"only max":                  {"0 0 * * * for 24h max=4", "Thu 2026-11-26 01:00", 1, 4, true},
		"max below the app's min":   {"0 0 * * * for 24h max=1", "Thu 2026-11-26 01:00", 1, 1, true},
		"zero is a min":             {"0 0 * * * for 24h min=0", "Thu 2026-11-26 01:00", 0, 10, true},
		"where two hold the larger": {office + "; 0 12 * * * for 1h min=5 max=7", "Wed 2026-11-25 12:30", 5, 20, true},
		"another zone":              {"CRON_TZ=Asia/Tokyo 0 8 * * * for 1h min=2", "Tue 2026-11-24 23:30", 2, 10, true},
		"days":                      {"0 0 1 * * for 2d min=2", "Wed 2026-12-02 23:30", 2, 10, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := ParseSchedule(tt.schedule)
			if err != nil {
				t.Fatal(err)
			}
			least, most, entry := s.At(at(tt.now), 1, 10)
			if least != tt.least || most != tt.most || (entry != "") != tt.active {
				t.Errorf("got %d to %d by %q, want %d to %d", least, most, entry, tt.least, tt.most)
			}
		})
	}
}

func TestParseScheduleRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no length":         "0 8 * * * min=1",
		"nothing":           "0 8 * * * for 1h",
		"four fields":       "0 8 * * for 1h min=1",
		"no such hour":      "0 25 * * * for 1h min=1",
		"no such zone":      "CRON_TZ=Nowhere/City 0 8 * * * for 1h min=1",
		"too short":         "0 8 * * * for 1s min=1",
		"too long":          "0 8 * * * for 8d min=1",
		"min above max":     "0 8 * * * for 1h min=3 max=2",
		"max of none":       "0 8 * * * for 1h max=0",
		"too many":          "0 8 * * * for 1h min=1001",
		"another key":       "0 8 * * * for 1h mix=1",
		"the second of two": "0 8 * * * for 1h min=1; 0 9 * * *",
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := ParseSchedule(text); err == nil {
				t.Errorf("taken as %q", s)
			}
		})
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add("0 8 * * 1-5 for 10h min=3 max=20; CRON_TZ=UTC 0 0 1 * * for 1h min=10")
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSchedule(text)
		if err != nil {
			return
		}
		if again, err := ParseSchedule(string(s)); err != nil || again != s {
			t.Errorf("%q became %q, which is read as %q, %v", text, s, again, err)
		}
		if least, most, _ := s.At(now, 1, 10); least > most {
			t.Errorf("%q: %d to %d", s, least, most)
		}
	})
}
