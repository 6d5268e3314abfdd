package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMultiply(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "one"), filepath.Join(dir, "many")
	lines := []string{
		`{"kind":"header","fluxgate_backup":1}`,
		`{"kind":"node","name":"n0","value":"{\"name\":\"n0\",\"url\":\"tcp://127.100.0.1:2375\",\"labels\":{\"rack\":\"r0\"}}"}`,
		`{"kind":"app","name":"app0","fields":{"app":"{\"name\":\"app0\",\"domains\":[\"app0.example.com\"]}","rel:1":"{}"}}`,
		`{"kind":"end","records":3,"sha256":"of what was before"}`,
	}
	if err := os.WriteFile(from, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := multiply(from, to, extent{nodes: 50, apps: 3}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"app2.example.com`, `tcp://127.100.1.10:2375`, `"r1\`, `"records":51`} {
		if !bytes.Contains(text, []byte(strings.ReplaceAll(want, `"app2`, `\"app2`))) {
			t.Errorf("no %s in it", want)
		}
	}
	if n := bytes.Count(text, []byte("\n")); n != 1+1+46+3+1 {
		t.Errorf("%d lines", n)
	}
}

func TestExtent(t *testing.T) {
	base := extent{nodes: 1000, apps: 100_000, active: 1000, gateways: 5}
	const gib = 1 << 30
	for name, c := range map[string]struct {
		factor float64
		memory int64
		want   extent
	}{
		"a tenth":                      {0.1, 20 * gib, extent{nodes: 100, apps: 10_000, active: 100, gateways: 5}},
		"a thousandth keeps two racks": {0.001, 20 * gib, extent{nodes: 2 * rackSize, apps: 100, active: 1, gateways: 5}},
		"whole":                        {1, 20 * gib, base},
		"ten times, as much as fits":   {10, 22 * gib, extent{nodes: 10_000, apps: 1_000_000, active: 1000, gateways: 2}},
		"ten times, all fit":           {10, 64 * gib, extent{nodes: 10_000, apps: 1_000_000, active: 1000, gateways: 5}},
		"hardly any memory":            {1, gib / 2, extent{nodes: 1000, apps: 100_000, active: 1000, gateways: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := base.times(c.factor).within(c.memory); got != c.want {
				t.Errorf("%s; want %s", got, c.want)
			}
		})
	}
}

// A small fleet goes through what is measured of a large one.
func TestSmallScale(t *testing.T) {
	if os.Getenv(ownSpace) == "" {
		t.Skip("a network namespace of its own needs root")
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "fluxgate")
	if out, err := exec.Command("go", "build", "-o", bin, "../cli/fluxgate").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e := extent{nodes: 2*rackSize - 20, apps: 200, active: 20, gateways: 2}
	s, err := newSimulated(t.Context(), options{bin: bin}, e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	f := scaleFigures{extent: e}
	if f.add, f.restore, err = s.populate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(context.Context, *scaleFigures) error{s.startAll, s.wakeAll, s.changeTravel, s.trimmed, s.listings, s.loseRack} {
		if err := step(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	if f.rack.instances == 0 || f.rack.leftovers != 0 || f.rack.failedLater != 0 {
		t.Errorf("of the rack: %+v", f.rack)
	}
}

// TestMain runs the tests in a network namespace, where root may make one; and
// is the process that answers for fake nodes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "nodes" {
		if err := runFakeNodes(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(ownSpace) == "" {
		if err := inOwnSpace(context.Background()); err != nil {
			os.Exit(1) // it has said why
		}
		return
	}
	if err := command(context.Background(), "ip", "link", "set", "lo", "up"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
