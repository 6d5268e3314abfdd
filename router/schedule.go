package router

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is times at which an app has another min and max, as text: entries
// with semicolons between them, each a cron expression (minute, hour, day,
// month, weekday; UTC, or with CRON_TZ=Area/City before it), how long it holds,
// and what holds then:
//
//	0 8 * * 1-5 for 10h min=3 max=20; CRON_TZ=Europe/Berlin 0 0 1 * * for 1h min=10
//
// Where entries overlap, the largest min and the largest max hold.
type Schedule string

const (
	scheduleForm = "entries such as `0 8 * * 1-5 for 10h min=3 max=20`, with semicolons between them: a cron expression, how long (1m to 7d), min, max or both"
	mostEntries  = 20
	longestEntry = 7 * 24 * time.Hour
)

// ParseSchedule checks a schedule; what it returns is the same with single
// spaces. The empty one is valid.
func ParseSchedule(s string) (Schedule, error) {
	entries, err := scheduleEntries(s)
	if err != nil {
		return "", err
	}
	texts := make([]string, len(entries))
	for i, e := range entries {
		texts[i] = e.text
	}
	return Schedule(strings.Join(texts, "; ")), nil
}

// At is the min and max that hold at a moment for an app with those; entry is
// the text of the one that says so, empty where none does.
func (s Schedule) At(now time.Time, least, most int) (from, to int, entry string) {
	if s == "" {
		return least, most, ""
	}
	entries, err := scheduleEntries(string(s))
	if err != nil { // it was checked when it was set
		return least, most, ""
	}
	from, to = least, most
	for _, e := range entries {
		if start := e.when.Next(now.Add(-e.length)); start.IsZero() || start.After(now) {
			continue
		}
		if entry == "" {
			from, to = e.value(e.least, least), e.value(e.most, most)
		} else {
			from, to = max(from, e.value(e.least, least)), max(to, e.value(e.most, most))
		}
		entry = strings.TrimPrefix(entry+"; "+e.text, "; ")
	}
	return min(from, to), to, entry
}

// fiveFields reads what crontab(5) does, without the words that begin with @.
var fiveFields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

type scheduleEntry struct {
	text        string
	when        cron.Schedule
	length      time.Duration
	least, most int // -1: not said
}

func (scheduleEntry) value(said, otherwise int) int {
	if said < 0 {
		return otherwise
	}
	return said
}

func scheduleEntries(s string) ([]scheduleEntry, error) {
	var entries []scheduleEntry
	for part := range strings.SplitSeq(s, ";") {
		words := strings.Fields(part)
		if len(words) == 0 {
			continue
		}
		e, err := parseEntry(words)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", strings.TrimSpace(part), err)
		}
		entries = append(entries, e)
	}
	if len(entries) > mostEntries {
		return nil, fmt.Errorf("it has %d entries, %d are allowed", len(entries), mostEntries)
	}
	return entries, nil
}

func parseEntry(words []string) (e scheduleEntry, err error) {
	e = scheduleEntry{text: strings.Join(words, " "), least: -1, most: -1}
	expression, rest, ok := strings.Cut(e.text, " for ")
	if !ok {
		return e, fmt.Errorf("it does not say how long, as in `for 10h`")
	}
	if zone := strings.Fields(expression); len(zone) > 0 && strings.Contains(zone[0], "TZ=") && len(zone) != 6 {
		return e, fmt.Errorf("after the time zone come five fields") // the library does not look
	}
	if e.when, err = fiveFields.Parse(expression); err != nil {
		return e, err
	}
	words = strings.Fields(rest)
	if len(words) == 0 {
		return e, fmt.Errorf("it does not say how long, as in `for 10h`")
	}
	length, err := ParseDuration(words[0])
	if err != nil || length.D() < time.Minute || length.D() > longestEntry {
		return e, fmt.Errorf("%q is no duration from 1m to 7d", words[0])
	}
	e.length = length.D()
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(value)
		switch {
		case err != nil || n < 0 || n > 1000:
			return e, fmt.Errorf("%q is no number of instances from 0 to 1000", word)
		case key == "min":
			e.least = n
		case key == "max" && n > 0:
			e.most = n
		default:
			return e, fmt.Errorf("%q is neither min=N nor max=N", word)
		}
	}
	if e.least < 0 && e.most < 0 {
		return e, fmt.Errorf("it sets neither min nor max")
	}
	if e.most >= 0 && e.least > e.most {
		return e, fmt.Errorf("min is above max")
	}
	return e, nil
}
