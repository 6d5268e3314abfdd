package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// extent is how large a simulated fleet is.
type extent struct {
	nodes, apps, active, gateways int
}

func (e extent) String() string {
	return fmt.Sprintf("%d nodes, %d apps, %d of them active, %d gateways", e.nodes, e.apps, e.active, e.gateways)
}

// times is the extent, so many times as large. The gateways stay as many, and
// active apps do not become more: the requests to them share this machine with
// all that they measure.
func (e extent) times(factor float64) extent {
	grow := func(n int) int { return max(1, int(float64(n)*factor)) }
	return extent{nodes: max(2*rackSize, grow(e.nodes)), apps: grow(e.apps), active: min(e.active, grow(e.active)), gateways: e.gateways}
}

// What an extent takes of a machine's memory, in bytes, as measured.
const (
	appInGateway   = 6 << 10
	nodeInGateway  = 140 << 10
	appWhileStart  = 4 << 10 // beside: a gateway that reads all has it twice in part
	appInRedis     = 3 << 10
	nodeInFakeNode = 100 << 10
)

// within is the extent with as many of its gateways as so much memory holds, but
// two: with fewer nothing travels.
func (e extent) within(memory int64) extent {
	left := memory - int64(e.apps)*(appWhileStart+appInRedis) - int64(e.nodes)*nodeInFakeNode
	one := int64(e.apps)*appInGateway + int64(e.nodes)*nodeInGateway
	e.gateways = min(e.gateways, max(2, int(left/one)))
	return e
}

// nodesInOne is how many fake nodes one process answers for: it has a
// connection or two of each gateway for each, and may open no more files than
// other processes.
const nodesInOne = 1000

// ownSpace marks a process that runs in its own network namespace, where the
// addresses of the fake nodes are nobody else's, and a rack's cable can be
// pulled.
const ownSpace = "FLUXGATE_LOADTEST_SPACE"

// runScale measures simulated fleets and prints how figures grow.
func runScale(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("a network namespace of its own needs root")
	}
	if os.Getenv(ownSpace) == "" {
		return inOwnSpace(ctx)
	}
	if err := command(ctx, "ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	whole := extent{nodes: o.nodes, apps: o.registered, active: o.active, gateways: o.gateways}
	var all []scaleFigures
	var failed error // what was measured before is printed all the same
	b := &bench{options: o}
	for _, text := range strings.Split(o.sizes, ",") {
		factor, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil || factor <= 0 {
			return fmt.Errorf("--sizes: %q is no factor", text)
		}
		memory, err := memoryOfMachine("MemAvailable")
		if err != nil {
			return err
		}
		size := whole.times(factor).within(memory)
		b.say("%s", size)
		f, err := measureExtent(ctx, o, size)
		if err != nil {
			failed = fmt.Errorf("%s: %w", size, err)
			break
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		return failed
	}
	path, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	b.gw = &gateway{bin: path}
	scaleReport(&b.report, all)
	text := b.report.markdown(machineFacts(ctx, b))
	fmt.Println(text)
	if failed != nil || o.write == "" {
		return failed
	}
	return writeGenerated(o.write, "scale", text)
}

// inOwnSpace runs this program again in a network namespace of its own.
func inOwnSpace(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), ownSpace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd.Run()
}

// simulated is a fleet whose machines do not exist: real gateways, a real
// Redis, and fake nodes in processes of their own.
type simulated struct {
	*bench
	extent   extent
	redis    *exec.Cmd
	socket   string
	fakes    []*exec.Cmd
	gateways []*gateway
}

func newSimulated(ctx context.Context, o options, e extent) (*simulated, error) {
	dir, err := os.MkdirTemp("", "fgs")
	if err != nil {
		return nil, err
	}
	s := &simulated{bench: &bench{options: o, dir: dir}, extent: e, socket: filepath.Join(dir, "redis.sock")}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *simulated) open(ctx context.Context) error {
	s.redis = exec.Command("redis-server", "--port", "0", "--unixsocket", s.socket, "--dir", s.dir, "--appendonly", "yes", "--save", "")
	s.redis.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.redis.Start(); err != nil {
		return err
	}
	for first := 0; first < s.extent.nodes; first += nodesInOne {
		if err := s.fake(first, min(first+nodesInOne, s.extent.nodes)); err != nil {
			return err
		}
	}
	for i := range s.extent.gateways {
		g, err := newGateway(s.bin, filepath.Join(s.dir, "g"+strconv.Itoa(i)), "--no-local", "--plain-http", "--redis", "unix://"+s.socket)
		if err != nil {
			return err
		}
		g.patience = 20 * time.Minute
		s.gateways = append(s.gateways, g)
	}
	s.gw = s.gateways[0]
	for s.ask(ctx, "ping") != "PONG" {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// fake starts a process that answers for some of the nodes.
func (s *simulated) fake(first, last int) error {
	cmd := exec.Command("/proc/self/exe", "nodes", strconv.Itoa(first), strconv.Itoa(last))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.fakes = append(s.fakes, cmd)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("the fake nodes do not start: %q %w", line, err)
	}
	return nil
}

func (s *simulated) close() error {
	for _, g := range s.gateways {
		_ = g.stop()
	}
	for _, cmd := range append(s.fakes, s.redis) {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	if s.keep {
		s.say("kept %s", s.dir)
		return nil
	}
	return os.RemoveAll(s.dir)
}

// ask asks Redis itself.
func (s *simulated) ask(ctx context.Context, args ...string) string {
	out, _ := exec.CommandContext(ctx, "redis-cli", append([]string{"-s", s.socket}, args...)...).Output()
	return strings.TrimSpace(string(out))
}

// leader is which of the gateways decides.
func (s *simulated) leader(ctx context.Context) (int, error) {
	holder := s.ask(ctx, "hget", "fluxgate:lease:{autoscaler}", "holder")
	for i, g := range s.gateways {
		id, err := os.ReadFile(filepath.Join(g.data, "gateway-id"))
		if err != nil {
			return 0, err
		}
		if strings.TrimSpace(string(id)) == holder {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no gateway is %q, which holds the lease", holder)
}

// rackCable pulls a rack's cable, or puts it back: everything to and from its
// nodes is dropped without a word.
func rackCable(ctx context.Context, rack int, pulled bool) error {
	what := "-D"
	if pulled {
		what = "-I"
	}
	ip := fakeAddress(rack * rackSize)
	subnet := ip[:strings.LastIndexByte(ip, '.')] + ".0/24"
	return errors.Join(command(ctx, "iptables", what, "INPUT", "-d", subnet, "-j", "DROP"), command(ctx, "iptables", what, "INPUT", "-s", subnet, "-j", "DROP"))
}

// rackOf is the rack that a node is in, by its name; -1 where it has none.
func rackOf(node string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(node, "n"))
	if err != nil {
		return -1
	}
	return n / rackSize
}

// placements are all instances, as a gateway lists them.
func (s *simulated) placements(ctx context.Context, g *gateway) ([]placed, error) {
	var list []placed
	return list, s.get(ctx, g, "v1/instances", &list)
}

// get asks a gateway's API.
func (s *simulated) get(ctx context.Context, g *gateway, path string, into any) error {
	resp, err := s.call(ctx, g, "GET", path, "")
	if err != nil {
		return err
	}
	return json.Unmarshal(resp, into)
}
