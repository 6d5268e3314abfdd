package main

import (
	"fmt"
	"os"
	"strings"
)

// report is everything measured.
type report struct {
	versus   string // what the references are; empty: measured in the same run
	verdicts []verdict
	tables   []table
}

// verdict is one number that was promised, beside its reference.
type verdict struct {
	what      string
	got       string
	reference string
	allowed   string
	met       bool
}

// table is the detail behind some verdicts.
type table struct {
	title string
	note  string
	head  []string
	rows  [][]string
}

func (r *report) verdict(v verdict) { r.verdicts = append(r.verdicts, v) }
func (r *report) table(t table)     { r.tables = append(r.tables, t) }

// markdown is the report with facts about the machine at its head.
func (r *report) markdown(facts [][]string) string {
	var b strings.Builder
	writeTable(&b, []string{"machine", ""}, facts)
	b.WriteString("\n## Promised numbers\n\n")
	var rows [][]string
	for _, v := range r.verdicts {
		rows = append(rows, []string{v.what, v.got, v.reference, v.allowed, yesNo(v.met)})
	}
	versus := r.versus
	if versus == "" {
		versus = "reference, same run"
	}
	writeTable(&b, []string{"number", "measured", versus, "allowed", "met"}, rows)
	for _, t := range r.tables {
		fmt.Fprintf(&b, "\n## %s\n\n", t.title)
		if t.note != "" {
			fmt.Fprintf(&b, "%s\n\n", t.note)
		}
		writeTable(&b, t.head, t.rows)
	}
	return b.String()
}

func writeTable(b *strings.Builder, head []string, rows [][]string) {
	line := func(cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	rule := make([]string, len(head))
	for i := range rule {
		rule[i] = "---"
	}
	line(rule)
	for _, row := range rows {
		line(row)
	}
}

func yesNo(met bool) string {
	if met {
		return "yes"
	}
	return "**no**"
}

// The generated parts of a page lie between these lines; a part has the name of
// its measurements.
func beginMark(part string) string {
	return "<!-- made by `just bench " + strings.TrimSpace(part+" --write") + "` -->"
}

const endMark = "<!-- end -->"

// writeGenerated replaces a generated part of a page; the rest, written by
// people, stays.
func writeGenerated(path, part, text string) error {
	beginMark := beginMark(part)
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q to write between", path, beginMark, endMark)
	}
	return os.WriteFile(path, []byte(before+beginMark+"\n\n"+text+"\n"+endMark+after), 0o644) //nolint:gosec // a page of the repository, for all to read
}
