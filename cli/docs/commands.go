package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/cli"
)

const commandsIntro = `# Command line reference

<!-- made by ` + "`just docs`" + ` from the code; do not edit -->

Flags may come before or after arguments; what follows ` + "`--`" + ` is never a flag. Exit codes: 0 done, 1 failed,
2 wrong usage.

With ` + "`--json`" + `, a command prints one JSON value as described below, and nothing else; if it fails, it prints a
problem ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) on standard error, with the members ` + "`title`, `status`, `detail`," + `
` + "`code`" + ` (what kind of failure it is) and ` + "`errors`" + ` (everything that is wrong with the input: ` + "`field`, `value`, `limit`, `remedy`" + `).
Members may be added to these shapes; none is removed or changed.

`

// commandReference is docs/cli.md.
func commandReference() string {
	app, shapes := cli.App(), cli.JSONShapes()
	var b strings.Builder
	b.WriteString(commandsIntro)
	b.WriteString("## Global flags\n\n")
	writeFlags(&b, app.Flags)
	for _, c := range app.Commands {
		writeCommand(&b, c, nil, shapes)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func writeCommand(b *strings.Builder, c *urfave.Command, parents []string, shapes map[string]any) {
	path := append(slices.Clone(parents), c.Name)
	words := strings.Join(path, " ")
	if len(parents) == 0 {
		fmt.Fprintf(b, "## %s\n\n", words)
	} else {
		fmt.Fprintf(b, "### %s\n\n", words)
	}
	fmt.Fprintf(b, "%s.\n\n", upperFirst(c.Usage))
	if len(c.Subcommands) == 0 || c.ArgsUsage != "" {
		fmt.Fprintf(b, "```\n%s\n```\n\n", strings.TrimSpace("fluxgate "+words+" "+c.ArgsUsage))
	}
	if c.Description != "" {
		fmt.Fprintf(b, "%s\n\n", c.Description)
	}
	writeFlags(b, c.Flags)
	if shape, ok := shapes[words]; ok {
		writeShape(b, words, shape)
	}
	for _, sub := range c.Subcommands {
		writeCommand(b, sub, path, shapes)
	}
}

func writeFlags(b *strings.Builder, flags []urfave.Flag) {
	var rows []string
	for _, f := range flags {
		doc, ok := f.(urfave.DocGenerationFlag)
		if !ok || f.Names()[0] == "help" {
			continue
		}
		placeholder, usage := unquote(doc.GetUsage())
		var names []string
		for _, n := range f.Names() {
			dashes := "--"
			if len(n) == 1 {
				dashes = "-"
			}
			names = append(names, dashes+n)
		}
		name := strings.Join(names, ", ")
		if doc.TakesValue() && placeholder != "" {
			name += " " + placeholder
		}
		byDefault := ""
		if doc.TakesValue() {
			byDefault = doc.GetDefaultText()
		}
		variable := ""
		if vars := doc.GetEnvVars(); len(vars) > 0 {
			variable = "`" + strings.Join(vars, "`, `") + "`"
		}
		rows = append(rows, row("`"+name+"`", usage, strings.Trim(byDefault, `"`), variable))
	}
	if len(rows) == 0 {
		return
	}
	b.WriteString("| flag | meaning | default | variable |\n|---|---|---|---|\n")
	b.WriteString(strings.Join(rows, "") + "\n")
}

// unquote takes the `NAME` of a flag's value out of its usage, as the program's
// own help does.
func unquote(usage string) (placeholder, text string) {
	before, rest, ok := strings.Cut(usage, "`")
	name, after, ok2 := strings.Cut(rest, "`")
	if !ok || !ok2 {
		return "VALUE", usage
	}
	return name, before + name + after
}

// writeShape describes the JSON that a command prints.
func writeShape(b *strings.Builder, words string, shape any) {
	t := reflect.TypeOf(shape)
	what := "an object"
	if t.Kind() == reflect.Slice {
		what, t = "a list of objects", t.Elem()
	}
	if words == "logs" {
		what = "one object a line"
	}
	fmt.Fprintf(b, "`--json`: %s.\n\n| member | type | meaning |\n|---|---|---|\n", what)
	writeMembers(b, t, "")
	b.WriteString("\n")
}

func writeMembers(b *strings.Builder, t reflect.Type, prefix string) {
	for f := range fields(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == "-" {
			continue
		}
		if f.Anonymous && tag == "" {
			writeMembers(b, f.Type, prefix)
			continue
		}
		doc := f.Tag.Get("doc")
		if enum := f.Tag.Get("enum"); enum != "" {
			doc = joined(doc, "one of "+strings.ReplaceAll(enum, ",", ", "))
		}
		if strings.Contains(options, "omitempty") {
			doc = joined(doc, "absent where it does not apply")
		}
		name := prefix + tag
		kind, inner := jsonType(f.Type)
		b.WriteString(row("`"+name+"`", kind, doc))
		if inner != nil {
			if strings.HasPrefix(kind, "list") {
				name += "[]"
			}
			writeMembers(b, inner, name+".")
		}
	}
}

func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// jsonType names a type as JSON has it; inner is the struct to go into.
func jsonType(t reflect.Type) (kind string, inner reflect.Type) {
	switch t.String() {
	case "time.Time":
		return "time (RFC 3339)", nil
	case "time.Duration":
		return "integer, nanoseconds", nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return jsonType(t.Elem())
	case reflect.Slice:
		of, inner := jsonType(t.Elem())
		if rest, nested := strings.CutPrefix(of, "list of "); nested {
			return "list of lists of " + rest, inner
		}
		return "list of " + of + "s", inner
	case reflect.Map:
		of, _ := jsonType(t.Elem())
		return "object of " + of + "s", nil
	case reflect.Struct:
		return "object", t
	case reflect.Bool:
		return "boolean", nil
	case reflect.Float64:
		return "number", nil
	case reflect.String:
		return "string", nil
	}
	return "integer", nil
}

// row is one row of a table.
func row(cells ...string) string {
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(strings.ReplaceAll(c, "|", `\|`), "\n", " ")
	}
	return strings.Join(strings.Fields("| "+strings.Join(cells, " | ")+" |"), " ") + "\n"
}

func joined(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
