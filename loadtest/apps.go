package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// app is what `fluxgate apps --json` says of one.
type app struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

// instance is what `fluxgate ps --json` says of one.
type instance struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Address string `json:"address"`
}

// hello is a manifest for an app of the bench's own image.
type hello struct {
	policy   map[string]string
	greeting string
	cpu      float64
}

// push pushes the bench's image under each of the names, a few at a time.
func (b *bench) push(ctx context.Context, h hello, names ...string) error {
	dir, err := os.MkdirTemp(b.dir, "push-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if h.cpu == 0 {
		h.cpu = 1
	}
	text := fmt.Sprintf("[build]\nimage = %q\n\n[http]\nhealth = \"/healthz\"\n\n[resources]\ncpu = %g\nmemory = \"64MB\"\n", b.image, h.cpu)
	if h.greeting != "" {
		text += fmt.Sprintf("\n[env]\nGREETING = %q\n", h.greeting)
	}
	if len(h.policy) > 0 {
		text += "\n[scale]\n"
		for _, key := range sorted(h.policy) {
			text += fmt.Sprintf("%s = %q\n", key, h.policy[key])
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "fluxgate.toml"), []byte(text), 0o600); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, name := range names {
		group.Go(func() error {
			_, err := b.gw.cli(ctx, "push", "--name", name, dir)
			return err
		})
	}
	return group.Wait()
}

// remove removes apps; what remains of them is the gateway's to clean up.
func (b *bench) remove(ctx context.Context, names ...string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, name := range names {
		group.Go(func() error {
			_, err := b.gw.cli(ctx, "rm", "--yes", name)
			return err
		})
	}
	return group.Wait()
}

// setPolicy changes the policy of apps.
func (b *bench) setPolicy(ctx context.Context, policy map[string]string, names ...string) error {
	args := []string{"policy", "", "set"}
	for _, key := range sorted(policy) {
		args = append(args, key+"="+policy[key])
	}
	for _, name := range names {
		args[1] = name
		if _, err := b.gw.cli(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// await returns when each of the apps is in the state.
func (b *bench) await(ctx context.Context, state string, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute+time.Duration(len(names))*2*time.Second)
	defer cancel()
	for {
		out, err := b.gw.cli(ctx, "apps", "--json")
		if err != nil {
			return err
		}
		var apps []app
		if err := json.Unmarshal(out, &apps); err != nil {
			return fmt.Errorf("fluxgate apps --json: %w", err)
		}
		states := map[string]string{}
		for _, a := range apps {
			states[a.Name] = a.State
		}
		var others []string
		for _, name := range names {
			if states[name] != state {
				others = append(others, name+" is "+states[name])
			}
		}
		if len(others) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for apps to be %s: %w: %s", state, ctx.Err(), strings.Join(others[:min(len(others), 5)], ", "))
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// instances are the instances of an app.
func (b *bench) instances(ctx context.Context, name string) ([]instance, error) {
	out, err := b.gw.cli(ctx, "ps", "--json", name)
	if err != nil {
		return nil, err
	}
	var list []instance
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("fluxgate ps --json: %w", err)
	}
	return list, nil
}

// numbered are count names that start with prefix.
func numbered(prefix string, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return names
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// removeApps removes every app of the gateway; a gateway that is gone has none
// that could be removed through it.
func (b *bench) removeApps(ctx context.Context) error {
	if b.gw == nil || !b.gw.running() {
		return nil
	}
	out, err := b.gw.cli(ctx, "apps", "--json")
	if err != nil {
		return err
	}
	var apps []app
	if err := json.Unmarshal(out, &apps); err != nil {
		return fmt.Errorf("fluxgate apps --json: %w", err)
	}
	names := make([]string, len(apps))
	for i, a := range apps {
		names[i] = a.Name
	}
	return b.remove(ctx, names...)
}
