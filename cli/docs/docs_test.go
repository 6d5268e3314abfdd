package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	urfave "github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/cli"
	"github.com/fluxgate/fluxgate/router"
)

var update = flag.Bool("update", false, "rewrite the pages")

const root = "../.."

func TestPagesAreUpToDate(t *testing.T) {
	if *update {
		if err := write(root); err != nil {
			t.Fatal(err)
		}
	}
	want, err := pages(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || string(got) != text {
			t.Errorf("%s is out of date (%v); run `just docs`", name, err)
		}
	}
}

func TestEveryCommandSaysWhatItPrints(t *testing.T) {
	shapes := cli.JSONShapes()
	page := commandReference()
	var walk func(commands []*urfave.Command, parents string)
	walk = func(commands []*urfave.Command, parents string) {
		for _, c := range commands {
			words := strings.TrimSpace(parents + " " + c.Name)
			if !strings.Contains(page, "# "+words+"\n") || c.Usage == "" {
				t.Errorf("%s is not described", words)
			}
			hasJSON := false
			for _, f := range c.Flags {
				hasJSON = hasJSON || f.Names()[0] == "json"
			}
			if _, ok := shapes[words]; ok != hasJSON || (!hasJSON && len(c.Subcommands) == 0 && words != "up") {
				t.Errorf("%s: has --json: %v, is described: %v", words, hasJSON, ok)
			}
			delete(shapes, words)
			walk(c.Subcommands, words)
		}
	}
	walk(cli.App().Commands, "")
	for words := range shapes {
		t.Errorf("there is no command %s", words)
	}
}

func TestManifestReferenceNamesEveryKey(t *testing.T) {
	page := manifestReference()
	for _, f := range router.ManifestFields {
		if key := f.Key[strings.LastIndexByte(f.Key, '.')+1:]; !strings.Contains(page, "| `"+key+"` |") {
			t.Errorf("%s is missing", f.Key)
		}
	}
	for _, f := range router.PolicyFields {
		if !strings.Contains(page, "| `"+f.Key+"` |") {
			t.Errorf("scale.%s is missing", f.Key)
		}
	}
	// The example is one that a user may copy.
	_, rest, _ := strings.Cut(page, "```toml\n")
	example, _, _ := strings.Cut(rest, "```")
	if m, err := router.ParseManifest([]byte(example)); err != nil || m.Name != "hello" {
		t.Errorf("the example does not parse: %v", err)
	}
}

func TestReadmeWithoutPlace(t *testing.T) {
	if _, err := fillPolicy("# Fluxgate\n"); err == nil {
		t.Error("the table went nowhere")
	}
}
