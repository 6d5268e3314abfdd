package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

func whyCommand() *cli.Command {
	return &cli.Command{
		Name: "why", Usage: "show why an app scaled, slept, woke or crashed", ArgsUsage: "APP",
		Description: "Shows what was decided and measured, the rule that won and what the others asked for, and where the time of each wake\n" +
			"went. Events are kept for seven days, the last 1000 of each app.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "at", Usage: "show what happened around `TIME`: 14:30, 2026-01-31 14:30, an RFC 3339 time, or 10m for ten minutes ago"},
			&cli.IntFlag{Name: "lines", Aliases: []string{"n"}, Usage: "show `N` entries", Value: 20}, jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if n := c.Int("lines"); n < 1 || n > 500 {
				return usagef("--lines is %d; it goes from 1 to 500", n)
			}
			if _, err := whyAt(c); err != nil {
				return err
			}
			return why(c)
		},
	}
}

// whyAt is what --at says; zero where it is not given.
func whyAt(c *cli.Context) (time.Time, error) {
	text := c.String("at")
	if text == "" {
		return time.Time{}, nil
	}
	at, ok := moment(text, now(c))
	if !ok {
		return time.Time{}, usagef("--at: %q is not a time such as 14:30, 2026-01-31 14:30, 2026-01-31T14:30:00Z, or 10m for ten minutes ago", text)
	}
	return at, nil
}

// moment reads a time as people write it, in now's zone where it names none. A
// time of day is the last such; a duration is that long ago.
func moment(text string, now time.Time) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, true
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
			if t.After(now) {
				t = t.AddDate(0, 0, -1)
			}
			return t, true
		}
	}
	if d, err := router.ParseDuration(text); err == nil && d >= 0 && d != router.Never {
		return now.Add(-d.D()), true
	}
	return time.Time{}, false
}

var why = onApp(func(c *cli.Context, client *api.Client, app string) ([]router.Event, error) {
	at, err := whyAt(c)
	if err != nil {
		return nil, err
	}
	return client.Why(c.Context, app, at, c.Int("lines"))
}, func(c *cli.Context, w io.Writer, events []router.Event) {
	if len(events) == 0 {
		fmt.Fprintln(w, "nothing happened yet")
		return
	}
	rows := [][]string{{"WHEN", "WHAT", "WHY"}}
	for _, e := range events {
		text := clean(e.Text)
		if len(e.Phases) > 0 {
			text += " (" + phases(e.Phases) + ")"
		}
		when := ago(c, e.At)
		if c.String("at") != "" {
			when = e.At.In(now(c).Location()).Format("01-02 15:04:05.000")
		}
		rows = append(rows, []string{when, e.Kind, text})
		for _, detail := range details(e) {
			rows = append(rows, []string{"", "", clean(detail)})
		}
	}
	table(w, rows)
})

// details are lines below an event: what was measured, what else was asked for,
// and what to do.
func details(e router.Event) (lines []string) {
	if d := e.Decision; d != nil {
		if len(d.Signals) > 0 {
			parts := make([]string, len(d.Signals))
			for i, s := range d.Signals {
				parts[i] = s.Name + " " + strconv.FormatFloat(s.Value, 'g', 4, 64)
				if s.Unit != "" {
					parts[i] += " " + s.Unit
				}
				if s.Window > 0 {
					parts[i] += " over " + s.Window.String()
				}
			}
			lines = append(lines, "  measured: "+strings.Join(parts, ", "))
		}
		for _, v := range d.Votes {
			if v.Rule == d.Rule {
				continue
			}
			line := fmt.Sprintf("  otherwise: %d by %s", v.Count, v.Rule)
			if v.Reason != "" {
				line += ", " + v.Reason
			}
			lines = append(lines, line)
		}
	}
	if advice := e.Fields["advice"]; advice != "" {
		lines = append(lines, "  advice: "+advice)
	}
	return lines
}

func phases(list []router.Phase) string {
	parts := make([]string, len(list))
	for i, p := range list {
		parts[i] = p.Name + " " + seconds(p.Took)
	}
	return strings.Join(parts, ", ")
}
