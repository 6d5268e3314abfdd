package main

import (
	"fmt"
	"strings"

	"github.com/fluxgate/fluxgate/router"
)

const manifestIntro = `# Manifest reference

<!-- made by ` + "`just docs`" + ` from the code; do not edit -->

` + "`fluxgate.toml`" + ` lies in the folder that is pushed. It is optional, and so is every key. A key that is not listed here is
an error; all errors are reported at once. Durations are written ` + "`\"30s\"`, `\"10m\"`, `\"24h\"`, `\"7d\"`" + `, sizes ` + "`\"256MB\"`, `\"1GB\"`" + `
(powers of 1024).

` + "```toml" + `
name = "hello"
domains = ["hello.example.com"]

[build]
containerfile = "Containerfile"

[http]
port = 8080
health = "/healthz"
timeout = "60s"

[resources]
cpu = 0.5
memory = "256MB"

[scale]
max = 10
freeze_after = "30s"

[env]
GREETING = "hi"
` + "```" + `

`

const envText = "## [env]\n\n" +
	"Variables of the app's environment: names of `A-Z`, `a-z`, `0-9` and `_`, values of any scalar type. They are shown by\n" +
	"`fluxgate env`; what nobody should see is set with `fluxgate env APP set NAME=VALUE` instead, which wins over the\n" +
	"manifest. `PORT` is set by Fluxgate.\n\n"

const contextText = "## What is sent\n\n" +
	"For a Containerfile, the whole folder less what `.containerignore` (or else `.dockerignore`) leaves out; the Containerfile\n" +
	"is always sent, `fluxgate.toml` never. For a static site, its folder without hidden files; `.well-known` is sent. Links\n" +
	"are sent as links. Only names, contents and the executable bit count: owners and times make no new release.\n"

// manifestReference is docs/manifest.md.
func manifestReference() string {
	var b strings.Builder
	b.WriteString(manifestIntro)
	table, first := "", true
	for _, f := range router.ManifestFields {
		in, _, nested := strings.Cut(f.Key, ".")
		if !nested {
			in = ""
		}
		if first || in != table {
			table = in
			title := "[" + in + "]"
			if in == "" {
				title = "At the top"
			}
			if !first {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "## %s\n\n", title)
			if in == "build" {
				b.WriteString("One of these; without any, what the folder holds decides.\n\n")
			}
			b.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
			first = false
		}
		b.WriteString(row("`"+strings.TrimPrefix(f.Key, in+".")+"`", f.Type, f.Default, f.Doc))
	}
	b.WriteString("\n## [scale]\n\nThe app's policy. A key that is left out keeps the value that the app has; `fluxgate policy APP set KEY=VALUE`\nchanges one without a push.\n\n")
	b.WriteString(policyTable())
	b.WriteString("\n" + envText + contextText)
	return b.String()
}

func policyTable() string {
	var b strings.Builder
	b.WriteString("| key | default | may be | meaning |\n|---|---|---|---|\n")
	for _, f := range router.PolicyFields {
		b.WriteString(row("`"+f.Key+"`", f.Get(router.DefaultPolicy()), f.Limit, f.Doc))
	}
	return b.String()
}

// The policy's table in README.md is between these lines.
const (
	policyBegin = "<!-- policy fields, made by `just docs` -->\n"
	policyEnd   = "<!-- end -->\n"
)

// fillPolicy is readme with a fresh table.
func fillPolicy(readme string) (string, error) {
	before, rest, ok := strings.Cut(readme, policyBegin)
	_, after, ok2 := strings.Cut(rest, policyEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("README.md lacks the lines %q and %q", policyBegin, policyEnd)
	}
	return before + policyBegin + "\n" + policyTable() + "\n" + policyEnd + after, nil
}
