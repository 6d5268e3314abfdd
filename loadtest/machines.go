package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// separateEngines has the hosts' Podmans use locks of their own, and the OCI
// runtime that works on machines of many kinds.
func separateEngines(dir string) error {
	runtime := "crun"
	if _, err := exec.LookPath("runc"); err == nil {
		runtime = "runc"
	}
	file := filepath.Join(dir, "containers.conf")
	text := "[engine]\nruntime=\"" + runtime + "\"\nlock_type=\"file\"\n"
	return errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Setenv("CONTAINERS_CONF", file))
}

// host is a machine of its own as far as the product can tell: a network
// namespace with its own address, SSH server, and Podman with its own storage.
type host struct {
	name   string
	dir    string
	space  string // network namespace
	link   string // this machine's end of the cable
	ip     string
	print  string // fingerprint of the SSH host key
	url    string
	podman []string // the command on the host
	engine *podmanAPI
	procs  []*exec.Cmd
}

// newHost starts a host that logs in whoever has the key in keyFile.
func newHost(ctx context.Context, dir string, number int, keyFile string) (*host, error) {
	id := fmt.Sprintf("fgb%d%d", os.Getpid()%10000, number)
	h := &host{name: fmt.Sprintf("n%d", number), dir: filepath.Join(dir, fmt.Sprintf("n%d", number)), space: id, link: id + "a", ip: fmt.Sprintf("10.252.%d.2", number)}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	h.podman = []string{
		"podman", "--root", filepath.Join(h.dir, "root"), "--runroot", filepath.Join(h.dir, "run"), "--tmpdir", filepath.Join(h.dir, "tmp"), "--cgroup-manager", "cgroupfs",
		"--network-config-dir", filepath.Join(h.dir, "networks"), "--volumepath", filepath.Join(h.dir, "volumes"),
	}
	return h, errors.Join(h.wire(ctx, number), h.serve(ctx, keyFile))
}

// wire gives the host its cable.
func (h *host) wire(ctx context.Context, number int) error {
	far := h.space + "b"
	for _, line := range []string{
		"netns add " + h.space,
		"link add " + h.link + " type veth peer name " + far,
		"link set " + far + " netns " + h.space,
		fmt.Sprintf("addr add 10.252.%d.1/24 dev %s", number, h.link),
		"link set " + h.link + " up",
		"-n " + h.space + " addr add " + h.ip + "/24 dev " + far,
		"-n " + h.space + " link set lo up",
		"-n " + h.space + " link set " + far + " up",
		"-n " + h.space + fmt.Sprintf(" route add default via 10.252.%d.1", number),
	} {
		if err := command(ctx, "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// serve starts its SSH server and its Podman.
func (h *host) serve(ctx context.Context, keyFile string) error {
	if err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(h.dir, "host")); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ssh-keygen", "-lf", filepath.Join(h.dir, "host.pub")).Output()
	if err != nil {
		return err
	}
	h.print = strings.Fields(string(out))[1]
	pub, err := os.ReadFile(keyFile + ".pub")
	if err != nil {
		return err
	}
	conf := "Port 22\nListenAddress " + h.ip + "\nHostKey " + filepath.Join(h.dir, "host") + "\nAuthorizedKeysFile " + filepath.Join(h.dir, "authorized") +
		"\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nMaxStartups 100\n"
	for file, text := range map[string]string{"authorized": string(pub), "sshd.conf": conf} {
		if err := os.WriteFile(filepath.Join(h.dir, file), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return err
	}
	socket := filepath.Join(h.dir, "podman.sock")
	h.url = "ssh://root@" + h.ip + socket
	h.engine = newPodman(socket)
	return errors.Join(
		h.run(ctx, "tcp", h.ip+":22", "/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(h.dir, "sshd.conf")),
		h.run(ctx, "unix", socket, append(h.podman, "system", "service", "--time", "0", "unix://"+socket)...),
	)
}

// inside is a command on the host. Unlike `ip netns exec`, nsenter leaves the
// cgroup mounts in sight.
func (h *host) inside(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.space}, args...)...)
}

// run starts a server there and waits until it listens.
func (h *host) run(ctx context.Context, network, addr string, args ...string) error {
	cmd := h.inside(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	h.procs = append(h.procs, cmd)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if c, err := new(net.Dialer).DialContext(ctx, network, addr); err == nil {
			return c.Close()
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%s does not listen at %s", args[0], addr)
		}
	}
}

// cut and mend are the host's cable, pulled out at its own end.
func (h *host) cut(ctx context.Context) error {
	return command(ctx, "ip", "-n", h.space, "link", "set", h.space+"b", "down")
}

func (h *host) mend(ctx context.Context) error {
	return command(ctx, "ip", "-n", h.space, "link", "set", h.space+"b", "up")
}

// close removes everything of the host.
func (h *host) close() {
	_ = h.inside(append(h.podman, "rm", "--all", "--force", "--time", "0")...).Run()
	for _, p := range h.procs {
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
		_ = p.Wait()
	}
	ctx := context.Background()
	_ = command(ctx, "umount", filepath.Join(h.dir, "root", "overlay"))
	_ = command(ctx, "ip", "netns", "del", h.space)
	_ = command(ctx, "ip", "link", "del", h.link)
}

func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// balancer passes connections on to those of several addresses that take them,
// in turn, as a TCP load balancer does.
type balancer struct {
	ln   net.Listener
	to   []string
	next int
}

func newBalancer(to ...string) (*balancer, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &balancer{ln: ln, to: to}
	go b.accept()
	return b, nil
}

func (b *balancer) accept() {
	for {
		c, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.next++
		go pipe(c, b.to, b.next)
	}
}

func pipe(c net.Conn, to []string, first int) {
	defer c.Close()
	for i := range to {
		up, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", to[(first+i)%len(to)])
		if err != nil {
			continue
		}
		defer up.Close()
		done := make(chan struct{}, 2)
		for _, pair := range [][2]net.Conn{{c, up}, {up, c}} {
			go func() {
				_, _ = io.Copy(pair[0], pair[1])
				done <- struct{}{}
			}()
		}
		<-done
		return
	}
}
