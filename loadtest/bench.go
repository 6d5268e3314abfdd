package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// bench is what the measurements share: a running gateway, the Podman that it
// uses, an image, and the report.
type bench struct {
	options
	dir     string
	gw      *gateway
	podman  *podmanAPI
	image   string   // of examples/hello
	storage []string // environment of the Podman that is apart from the machine's
	report  report
}

// setUp starts a gateway and builds the image that the measured apps run.
func setUp(ctx context.Context, o options) (*bench, error) {
	dir, err := os.MkdirTemp("", "fgbench-") // short: unix sockets live below it
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, dir: dir, image: "localhost/fluxgate-loadtest:hello"}
	if err := b.begin(ctx); err != nil {
		return nil, errors.Join(err, b.tearDown())
	}
	return b, nil
}

func (b *bench) begin(ctx context.Context) error {
	var err error
	if b.storage, err = isolate(filepath.Join(b.dir, "podman")); err != nil {
		return err
	}
	// Plain HTTP beside HTTPS, for the comparison with proxies that speak it.
	if b.gw, err = newGateway(b.bin, filepath.Join(b.dir, "data"), "--plain-http"); err != nil {
		return err
	}
	b.gw.env = b.storage
	if err := b.gw.start(ctx); err != nil {
		return err
	}
	if b.options.podman != "" {
		b.podman = newPodman(b.options.podman)
	} else if b.podman, err = findPodman(ctx, b.gw.data); err != nil {
		return err
	}
	program, err := os.ReadFile("examples/hello/hello")
	if err != nil {
		return fmt.Errorf("run this from the repository, after `just build`: %w", err)
	}
	return b.podman.build(ctx, b.image, map[string][]byte{
		"hello": program, "Containerfile": []byte("FROM scratch\nCOPY hello /hello\nENTRYPOINT [\"/hello\"]\n"),
	})
}

// tearDown removes everything: apps, containers, image, gateway, folder.
func (b *bench) tearDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var errs []error
	if b.podman != nil {
		errs = append(errs, b.removeApps(ctx))
		ids, err := b.podman.labelled(ctx, rawLabel)
		errs = append(errs, err)
		for _, id := range ids {
			errs = append(errs, (&rawContainer{podman: b.podman, id: id}).remove(ctx))
		}
		_ = b.podman.removeImage(ctx, b.image) // it may never have been built
	}
	if b.gw != nil {
		errs = append(errs, b.gw.stop())
	}
	if b.storage != nil {
		errs = append(errs, clearStorage(ctx, filepath.Join(b.dir, "podman"), b.storage))
	}
	if b.keep {
		b.say("kept %s", b.dir)
	} else {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	return errors.Join(errs...)
}

// say tells whoever waits what goes on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

// machineFacts are what numbers depend on.
func machineFacts(ctx context.Context, b *bench) [][]string {
	first := func(name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil && line == "" {
			return "not installed"
		}
		return strings.TrimSpace(line)
	}
	memory := "?"
	if total, err := memoryOfMachine("MemTotal"); err == nil {
		memory = fmt.Sprintf("%d GiB", (total+1<<29)>>30)
	}
	return [][]string{
		{"cores, memory", fmt.Sprintf("%d, %s", runtime.NumCPU(), memory)},
		{"kernel", first("uname", "-r")},
		{"fluxgate", first(b.gw.bin, "version")},
		{"built with", runtime.Version()},
		{"podman", first("podman", "--version")},
		{"redis", first("redis-server", "--version")},
		{"haproxy", first("haproxy", "-v")},
		{"date", time.Now().UTC().Format(time.DateOnly)},
	}
}
