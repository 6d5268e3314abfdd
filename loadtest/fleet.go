package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// fleetRun is two gateways on one Redis, three hosts over SSH, and this
// machine's own Podman as a node to compare with.
type fleetRun struct {
	*bench
	redis    *exec.Cmd
	socket   string // Redis's
	gateways []*gateway
	hosts    []*host
}

// fleetBenches run in this order, on the same fleet.
var fleetBenches = []struct {
	name string
	run  func(context.Context, *fleetRun) error
}{
	{"travel", benchTravel}, {"images", benchImages}, {"remote", benchRemote}, {"pause", benchPause}, {"kill", benchKill}, {"cut", benchCut},
}

// runFleet measures a fleet and prints its tables.
func runFleet(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	dir, err := os.MkdirTemp("", "fgb")
	if err != nil {
		return err
	}
	f := &fleetRun{bench: &bench{options: o, dir: dir, image: "localhost/fluxgate-loadtest:hello"}}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.open(ctx); err != nil {
		return err
	}
	for _, b := range fleetBenches {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+b.name+",") {
			continue
		}
		f.say("%s", b.name)
		if err := b.run(ctx, f); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	text := f.report.markdown(machineFacts(ctx, f.bench))
	fmt.Println(text)
	if o.write == "" {
		return nil
	}
	return writeGenerated(o.write, "fleet", text)
}

func (f *fleetRun) open(ctx context.Context) error {
	key := filepath.Join(f.dir, "key")
	if err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
		return err
	}
	f.socket = filepath.Join(f.dir, "redis.sock")
	f.redis = exec.Command("redis-server", "--port", "0", "--unixsocket", f.socket, "--dir", f.dir, "--appendonly", "yes", "--save", "")
	if err := f.redis.Start(); err != nil {
		return err
	}
	for f.ask(ctx, "ping") != "PONG" {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	var err error
	if err = separateEngines(f.dir); err != nil {
		return err
	}
	for i := range 2 {
		g, err := newGateway(f.bin, filepath.Join(f.dir, "g"+strconv.Itoa(i)), "--no-local", "--plain-http", "--ssh-key", key, "--redis", "unix://"+f.socket)
		if err != nil {
			return err
		}
		if err := g.start(ctx); err != nil {
			return err
		}
		f.gateways = append(f.gateways, g)
	}
	f.gw = f.gateways[0]
	for i := range 3 {
		h, err := newHost(ctx, f.dir, i+1, key)
		if h != nil {
			f.hosts = append(f.hosts, h)
		}
		if err != nil {
			return err
		}
		if _, err := f.gw.cli(ctx, "node", "add", h.url, "--name", h.name, "--host-key", h.print); err != nil {
			return err
		}
	}
	return f.buildHello(ctx)
}

// buildHello makes an app of examples/hello, from which the others take their
// image.
func (f *fleetRun) buildHello(ctx context.Context) error {
	if _, err := f.gw.cli(ctx, "push", "--name", "hello", "examples/hello"); err != nil {
		return err
	}
	_, err := f.gw.cli(ctx, "policy", "hello", "set", "prefetch=3")
	return err
}

func (f *fleetRun) close() error {
	if f.keep {
		f.say("kept %s", f.dir)
	}
	for _, g := range f.gateways {
		_ = g.stop()
	}
	for _, h := range f.hosts {
		h.close()
	}
	if f.redis != nil && f.redis.Process != nil {
		_ = f.redis.Process.Kill()
		_ = f.redis.Wait()
	}
	if f.keep {
		return nil
	}
	return os.RemoveAll(f.dir)
}

// ask asks Redis itself.
func (f *fleetRun) ask(ctx context.Context, args ...string) string {
	out, _ := exec.CommandContext(ctx, "redis-cli", append([]string{"-s", f.socket}, args...)...).Output()
	return strings.TrimSpace(string(out))
}

// manifest writes a folder for an app with the hello program and more files,
// each of which is a layer.
func (f *fleetRun) folder(name, manifest string, layers map[string][]byte) (string, error) {
	dir := filepath.Join(f.dir, "app-"+name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	program, err := os.ReadFile("examples/hello/hello")
	if err != nil {
		return "", fmt.Errorf("run this from the repository, after `just build`: %w", err)
	}
	file := "FROM scratch\nCOPY --chmod=755 hello /hello\n"
	errs := []error{os.WriteFile(filepath.Join(dir, "hello"), program, 0o600)}
	names := make([]string, 0, len(layers))
	for layer := range layers {
		names = append(names, layer)
	}
	sort.Strings(names)
	for _, layer := range names {
		file += "COPY " + layer + " /" + layer + "\n"
		errs = append(errs, os.WriteFile(filepath.Join(dir, layer), layers[layer], 0o600))
	}
	file += "ENTRYPOINT [\"/hello\"]\n"
	errs = append(errs,
		os.WriteFile(filepath.Join(dir, "Containerfile"), []byte(file), 0o600),
		os.WriteFile(filepath.Join(dir, "fluxgate.toml"), []byte("name = \""+name+"\"\n"+manifest), 0o600))
	return dir, errors.Join(errs...)
}

// deploy pushes the hello program under a name.
func (f *fleetRun) deploy(ctx context.Context, name, manifest string) error {
	dir, err := f.folder(name, manifest, nil)
	if err != nil {
		return err
	}
	_, err = f.gw.cli(ctx, "push", dir)
	return err
}

// placed is one instance with its node.
type placed struct {
	ID    string `json:"id"`
	App   string `json:"app"`
	Node  string `json:"node"`
	State string `json:"state"`
}

func (f *fleetRun) instances(ctx context.Context, g *gateway, app ...string) ([]placed, error) {
	text, err := g.cli(ctx, append(append([]string{"ps"}, app...), "--json")...)
	if err != nil {
		return nil, err
	}
	var list []placed
	return list, json.Unmarshal(text, &list)
}

// await waits until an app has instances of exactly these states.
func (f *fleetRun) await(ctx context.Context, app string, states ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	want := strings.Join(states, " ")
	for {
		list, err := f.instances(ctx, f.gw, app)
		if err != nil {
			return err
		}
		have := make([]string, len(list))
		for i, in := range list {
			have[i] = in.State
		}
		if strings.Join(have, " ") == want {
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%s is %q, not %q", app, strings.Join(have, " "), want)
		}
	}
}

// token is the admin's token of the first gateway.
func (g *gateway) token() (string, error) {
	text, err := os.ReadFile(filepath.Join(g.data, "config", "fluxgate", "contexts.json"))
	if err != nil {
		return "", err
	}
	var file struct {
		Contexts map[string]struct {
			Token string `json:"token"`
		} `json:"contexts"`
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&file); err != nil {
		return "", err
	}
	return file.Contexts["local"].Token, nil
}
