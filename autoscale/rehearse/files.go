package rehearse

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/fluxgate/fluxgate/router"
)

// mostRate is the highest rate that a trace may have, in requests/s: what a
// run counts stays far within 64 bits.
const mostRate = 100_000_000

// mostSeconds bounds a trace: 31 days.
const mostSeconds = 31 * 24 * 3600

// ReadTrace reads `t_s,rps`: one row a second from 0 on, rates with at most
// three decimals. Every wrong row is reported, the first twenty of them.
func ReadTrace(r io.Reader) (Trace, error) {
	lines := bufio.NewScanner(r)
	var trace Trace
	var bad []router.Violation
	wrong := func(row int, value, limit, fix string) {
		if len(bad) < 20 {
			bad = append(bad, router.Violation{Field: "row " + strconv.Itoa(row), Value: value, Limit: limit, Remedy: fix})
		}
	}
	for row := 0; lines.Scan(); row++ {
		text := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
		if row == 0 {
			if text != "t_s,rps" {
				wrong(row, text, "the first line is t_s,rps", "write it there")
			}
			continue
		}
		if text == "" {
			continue
		}
		t, rate, _ := strings.Cut(text, ",")
		if t != strconv.Itoa(len(trace)) {
			wrong(row, text, "t_s counts 0, 1, 2, …", fmt.Sprintf("this row is second %d", len(trace)))
		}
		milli, ok := thousandths(rate)
		if !ok {
			wrong(row, text, fmt.Sprintf("a rate from 0 to %d with at most three decimals", mostRate), "for example 12.5")
		}
		if len(trace) == mostSeconds {
			wrong(row, text, "at most 31 days", "cut the trace")
			break
		}
		trace = append(trace, milli)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the trace: %w", err)
	}
	if len(trace) == 0 && len(bad) == 0 {
		wrong(1, "", "at least one second", "is it the right file?")
	}
	if len(bad) > 0 {
		return nil, router.Invalid("the trace cannot be used", bad)
	}
	return trace, nil
}

// thousandths reads a decimal of at most three places.
func thousandths(s string) (int64, bool) {
	whole, frac, _ := strings.Cut(s, ".")
	if len(frac) > 3 || whole == "" {
		return 0, false
	}
	w, err := strconv.ParseUint(whole, 10, 32)
	if err != nil || w > mostRate {
		return 0, false
	}
	f, err := strconv.ParseUint((frac + "000")[:3], 10, 16)
	if err != nil {
		return 0, false
	}
	return int64(w*1000 + f), true
}

// ReadTimeline reads `t_s,desired[,frozen]`: rows in order of time, with at most
// one decimal.
func ReadTimeline(r io.Reader) ([]Row, error) {
	lines := bufio.NewScanner(r)
	var rows []Row
	for n := 0; lines.Scan(); n++ {
		if n == 0 || strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		cells := strings.Split(strings.TrimSpace(lines.Text()), ",")
		wrong := router.Errorf(router.CodeInvalid, "line %d of the timeline is %q; it must be a time with at most one decimal, later than the line before, and counts: 12.5,3,1", n+1, lines.Text())
		if len(cells) < 2 || len(cells) > 3 {
			return nil, wrong
		}
		ms, ok := thousandths(cells[0])
		desired, err := strconv.Atoi(cells[1])
		frozen := 0
		var err2 error
		if len(cells) == 3 && cells[2] != "" {
			frozen, err2 = strconv.Atoi(cells[2])
		}
		if !ok || ms%stepMS != 0 || err != nil || err2 != nil || len(rows) > 0 && ms < rows[len(rows)-1].MS {
			return nil, wrong
		}
		rows = append(rows, Row{ms, desired, frozen})
	}
	return rows, lines.Err()
}

// WriteTimeline writes what ReadTimeline reads.
func WriteTimeline(w io.Writer, rows []Row) error {
	out := bufio.NewWriter(w)
	_, _ = out.WriteString("t_s,desired,frozen\n") // Flush tells
	for _, r := range rows {
		_, _ = fmt.Fprintf(out, "%d.%d,%d,%d\n", r.MS/1000, r.MS%1000/stepMS, r.Desired, r.Frozen)
	}
	return out.Flush()
}

// appFile is an app file as it is written.
type appFile struct {
	Name        string  `json:"name" toml:"name"`
	ServiceMS   int64   `json:"service_time_ms" toml:"service_time_ms"`
	Concurrency int64   `json:"concurrency" toml:"concurrency"`
	StartMS     startMS `json:"start_ms" toml:"start_ms"`
	Max         int     `json:"max_instances" toml:"max_instances"`
}

type startMS struct {
	Absent  int64 `json:"absent" toml:"absent"`
	Stopped int64 `json:"stopped" toml:"stopped"`
	Frozen  int64 `json:"frozen" toml:"frozen"`
}

// ReadApp reads an app file, TOML if its name ends in .toml and JSON otherwise.
// Unknown keys are refused.
func ReadApp(r io.Reader, path string) (App, error) {
	f := appFile{Name: strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))}
	var err error
	if filepath.Ext(path) == ".toml" {
		err = toml.NewDecoder(r).DisallowUnknownFields().Decode(&f)
	} else {
		d := json.NewDecoder(r)
		d.DisallowUnknownFields()
		err = d.Decode(&f)
	}
	if err != nil {
		return App{}, router.Errorf(router.CodeInvalid, "the app file %s cannot be read: %w", path, err)
	}
	var bad []router.Violation
	limit := func(field string, value, least, most int64) {
		if value < least || value > most {
			bad = append(bad, router.Violation{Field: field, Value: strconv.FormatInt(value, 10), Limit: fmt.Sprintf("a whole number from %d to %d", least, most), Remedy: "see docs/autoscaling.md for an example"})
		}
	}
	limit("service_time_ms", f.ServiceMS, 1, 3_600_000)
	limit("concurrency", f.Concurrency, 1, 100_000)
	limit("start_ms.absent", f.StartMS.Absent, 0, 3_600_000)
	limit("start_ms.stopped", f.StartMS.Stopped, 0, 3_600_000)
	limit("start_ms.frozen", f.StartMS.Frozen, 0, 3_600_000)
	limit("max_instances", int64(f.Max), 1, 100_000)
	if len(bad) > 0 {
		return App{}, router.Invalid("the app file cannot be used", bad)
	}
	return App{f.Name, f.ServiceMS, f.Concurrency, f.StartMS.Absent, f.StartMS.Stopped, f.StartMS.Frozen, f.Max}, nil
}
