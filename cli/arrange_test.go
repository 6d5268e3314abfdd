package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestArrange(t *testing.T) {
	tests := map[string]string{
		"":                                "",
		"logs hello -f":                   "logs -f -- hello",
		"logs -f hello":                   "logs -f -- hello",
		"logs hello -n 5 -f":              "logs -n 5 -f -- hello",
		"logs hello -n=5":                 "logs -n=5 -- hello",
		"logs hello -fn 5":                "logs -fn 5 -- hello",
		"logs -- -f":                      "logs -- -f",
		"logs hello --context prod":       "--context prod logs -- hello",
		"--context prod logs hello":       "--context prod logs -- hello",
		"logs --context=prod hello -f":    "--context=prod logs -f -- hello",
		"apps --json":                     "apps --json",
		"apps apps":                       "apps -- apps",
		"policy hello":                    "policy -- hello",
		"policy hello set max=4 --json":   "policy set --json -- hello max=4",
		"policy set hello max=4":          "policy set -- hello max=4",
		"policy set set max=4":            "policy set -- set max=4",
		"policy --json hello history":     "policy --json history -- hello",
		"policy hello max set":            "policy -- hello max set",
		"policy rehearse --with a=1 b=2":  "policy rehearse --with a=1 -- b=2",
		"policy hello rehearse --last 1h": "policy rehearse --last 1h -- hello",
		"policy -- hello set":             "policy -- hello set",
		"env hello set A=b --json":        "env --json -- hello set A=b",
		"env hello set A=-x":              "env -- hello set A=-x",
		"env hello -- set -A=b":           "env -- hello set -A=b",
		"token create ci --json":          "token create --json -- ci",
		"token --json ls":                 "token --json ls",
		"token rm 1 --force":              "token rm --force -- 1",
		"push . --name x":                 "push --name x -- .",
		"push -":                          "push -- -",
		"help":                            "--help",
		"help push":                       "push --help",
		"help token create":               "token create --help",
		"nonsense --json":                 "--json -- nonsense",
		"rm help --yes":                   "rm --yes -- help",
		"logs hello --colour red":         "logs --colour -- hello red",
		"--data /d up --http 8080 extra":  "--data /d up --http 8080 -- extra",
	}
	for in, want := range tests {
		t.Run(in, func(t *testing.T) {
			args, _, _ := arrange(App(), append([]string{"fluxgate"}, strings.Fields(in)...))
			if got := strings.Join(args[1:], " "); got != want {
				t.Errorf("%q became %q, want %q", in, got, want)
			}
		})
	}
}

// FuzzArrange: nothing is lost or made up, and arranging twice changes nothing.
func FuzzArrange(f *testing.F) {
	f.Add("logs hello -fn 5 --context=x")
	f.Add("env a set -- --b -c")
	f.Add("token - -- --")
	f.Add("policy a set --json b=c")
	app := App()
	f.Fuzz(func(t *testing.T, line string) {
		args := append([]string{"fluxgate"}, strings.Fields(line)...)
		if len(args) > 1 && args[1] == "help" {
			return
		}
		once, _, err := arrange(app, slices.Clone(args))
		if err != nil {
			return
		}
		sorted := func(list []string) []string {
			var words []string
			for _, a := range list {
				if a != "--" {
					words = append(words, a)
				}
			}
			slices.Sort(words)
			return words
		}
		if strings.Count(line, "--") == strings.Count(strings.ReplaceAll(line, " -- ", ""), "--") && !slices.Equal(sorted(once), sorted(args)) {
			t.Fatalf("%q became %q", args, once)
		}
		if twice, _, _ := arrange(app, slices.Clone(once)); !slices.Equal(twice, once) {
			t.Fatalf("%q, then %q", once, twice)
		}
	})
}
