package podman

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fluxgate/fluxgate/router"
)

const (
	sshDial      = 10 * time.Second // from the TCP connection to the login
	sshKeepalive = 5 * time.Second  // between two questions whether the node is there, and for the answer
)

// SSHOptions say how to log in on a node.
type SSHOptions struct {
	URL      string // ssh://user@host[:port][/socket]
	HostKey  string // pinned: "ssh-ed25519 AAAA…"
	Identity string // file of the private key; empty: the agent's, and the user's own
	Logger   *slog.Logger
}

// Tunnel is the SSH connection to a node. It is opened when it is first needed,
// watched, and opened anew when it broke. Its methods may be called
// concurrently; Close ends all connections through it.
type Tunnel struct {
	o      SSHOptions
	user   string
	addr   string // host:port
	pinned ssh.PublicKey
	life   context.Context
	end    context.CancelFunc
	group  sync.WaitGroup

	turn     chan struct{} // held by the one who connects
	offering chan struct{} // held by the one who opens a listener there
	offered  struct {      // guarded by offering
		client *ssh.Client
		addr   string
	}

	mu     sync.Mutex
	client *ssh.Client
	wire   wire   // what the newest connection goes over
	socket string // on the node; found out at the first login where the URL has none
}

// NewTunnel checks what it is told and connects to nothing yet.
func NewTunnel(o SSHOptions) (*Tunnel, error) {
	if bad := router.CheckNodeURL(o.URL, "", false); len(bad) > 0 {
		return nil, router.Invalid("the node", bad)
	}
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, router.Errorf(router.CodeInvalid, "the URL of the node cannot be read")
	}
	pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(o.HostKey))
	if err != nil {
		return nil, router.Errorf(router.CodeInvalid, "the host key of %s is not one (ssh-ed25519 AAAA…): %w", u.Host, err)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	t := &Tunnel{o: o, user: u.User.Username(), addr: hostPort(u), pinned: pinned, socket: u.Path, turn: make(chan struct{}, 1), offering: make(chan struct{}, 1)}
	t.life, t.end = context.WithCancel(context.Background())
	return t, nil
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "22"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// Close ends the connection and everything that goes through it.
func (t *Tunnel) Close() error {
	t.end()
	t.mu.Lock()
	if t.client != nil {
		_ = t.client.Close()
	}
	t.mu.Unlock()
	t.group.Wait()
	return nil
}

// Dial connects to an address on the node: "tcp" and host:port, or "unix" and
// a path, where the empty one is Podman's socket. The result knows no
// deadlines.
func (t *Tunnel) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	client, err := t.connected(ctx)
	if err != nil {
		return nil, err
	}
	if network == "unix" && addr == "" {
		t.mu.Lock()
		addr = t.socket
		t.mu.Unlock()
	}
	conn, err := client.DialContext(ctx, network, addr)
	var refused *ssh.OpenChannelError
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &refused) && network == "unix":
		return nil, router.Errorf(router.CodeUnavailable, "nothing answers at %s on %s (%s): systemctl enable --now podman.socket there, or name another socket in the URL", addr, t.addr, refused.Message)
	case errors.As(err, &refused):
		return nil, router.Errorf(router.CodeUnavailable, "%s on %s refuses connections: %s", addr, t.addr, refused.Message)
	}
	t.drop(client)
	return nil, router.Errorf(router.CodeUnavailable, "the SSH connection to %s broke: %w", t.addr, err)
}

// Offer opens a listener on the node's loopback whose connections come here,
// for serve to accept, and returns its address. It does so once per SSH
// connection, and anew for the next one; serve's listener ends with the
// connection. The node must allow TCP forwarding.
func (t *Tunnel) Offer(ctx context.Context, serve func(net.Listener)) (string, error) {
	client, err := t.connected(ctx)
	if err != nil {
		return "", err
	}
	select {
	case t.offering <- struct{}{}:
		defer func() { <-t.offering }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if t.offered.client == client {
		return t.offered.addr, nil
	}
	type opened struct {
		ln  net.Listener
		err error
	}
	done := make(chan opened, 1)
	t.group.Go(func() { // it knows no context, and ends with the connection
		ln, err := client.Listen("tcp", "127.0.0.1:0")
		done <- opened{ln, err}
	})
	select {
	case o := <-done:
		if o.err != nil {
			return "", router.Errorf(router.CodeUnavailable, "%s lets no connections through to this gateway (%w): allow TCP forwarding in its sshd (AllowTcpForwarding yes)", t.addr, o.err)
		}
		t.offered.client, t.offered.addr = client, o.ln.Addr().String()
		serve(o.ln)
		return t.offered.addr, nil
	case <-ctx.Done():
		t.drop(client) // so that what hangs ends
		return "", ctx.Err()
	}
}

// connected is the one connection, opened now where there is none.
func (t *Tunnel) connected(ctx context.Context) (*ssh.Client, error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	t.mu.Lock()
	client, socket := t.client, t.socket
	t.mu.Unlock()
	switch {
	case t.life.Err() != nil:
		return nil, router.Errorf(router.CodeUnavailable, "the connection to %s is closed", t.addr)
	case client != nil:
		return client, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sshDial)
	defer cancel()
	defer context.AfterFunc(t.life, cancel)()
	client, err := t.login(ctx)
	if err != nil {
		return nil, err
	}
	if socket == "" {
		if socket, err = findSocket(ctx, client, t.user); err != nil {
			_ = client.Close()
			return nil, router.Errorf(router.CodeUnavailable, "Podman's socket on %s could not be found (%w): name it in the URL: ssh://%s@%s/run/podman/podman.sock", t.addr, err, t.user, t.addr)
		}
	}
	t.mu.Lock()
	t.client, t.socket = client, socket
	t.mu.Unlock()
	t.group.Go(func() { t.keep(client) })
	return client, nil
}

// keep asks now and then whether the node is there, and drops the connection
// when it is not.
func (t *Tunnel) keep(client *ssh.Client) {
	gone := make(chan struct{})
	t.group.Go(func() {
		_ = client.Wait()
		close(gone)
	})
	defer func() {
		t.drop(client)
		<-gone
	}()
	ticker := time.NewTicker(sshKeepalive)
	defer ticker.Stop()
	for {
		select {
		case <-gone:
			return
		case <-t.life.Done():
			return
		case <-ticker.C:
		}
		late := time.AfterFunc(sshKeepalive, func() {
			t.o.Logger.Warn("the node does not answer over SSH; its connection is given up", "node", t.addr)
			_ = client.Close()
		})
		_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			return
		}
	}
}

// drop closes a connection that is no good any more; the next Dial opens one.
func (t *Tunnel) drop(client *ssh.Client) {
	t.mu.Lock()
	if t.client == client {
		t.client = nil
	}
	t.mu.Unlock()
	_ = client.Close()
}

// Clock is how far the node's clock is ahead of this one's.
func (t *Tunnel) Clock(ctx context.Context) (time.Duration, error) {
	client, err := t.connected(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	out, err := ask(ctx, client, "date +%s.%N")
	if err != nil {
		return 0, router.Errorf(router.CodeUnavailable, "the clock of %s cannot be read: %w", t.addr, err)
	}
	seconds, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		return 0, router.Errorf(router.CodeUnavailable, "%s answers %.40q when asked for its time", t.addr, out)
	}
	middle := began.Add(time.Since(began) / 2)
	return time.Duration(seconds*float64(time.Second)) - time.Duration(middle.UnixNano()), nil
}

// findSocket is where Podman listens for a user by default.
func findSocket(ctx context.Context, client *ssh.Client, user string) (string, error) {
	if user == "root" {
		return "/run/podman/podman.sock", nil
	}
	out, err := ask(ctx, client, "id -u")
	if err != nil {
		return "", err
	}
	id, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return "", fmt.Errorf("id -u answers %.40q", out)
	}
	return fmt.Sprintf("/run/user/%d/podman/podman.sock", id), nil
}

// ask runs a command on the node and is what it prints.
func ask(ctx context.Context, client *ssh.Client, command string) (string, error) {
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	defer func() { _ = session.Close() }()
	defer context.AfterFunc(ctx, func() { _ = session.Close() })()
	out, err := session.Output(command)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return string(out), err
}

// Output runs a command on the node and is what it prints.
func (t *Tunnel) Output(ctx context.Context, command string) (string, error) {
	client, err := t.connected(ctx)
	if err != nil {
		return "", err
	}
	return ask(ctx, client, command)
}
