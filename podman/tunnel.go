package podman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

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

// login opens a connection and logs in. The end of ctx ends it in every phase.
func (t *Tunnel) login(ctx context.Context) (*ssh.Client, error) {
	methods, tried, closeAgent, err := identities(ctx, t.o.Identity)
	if err != nil {
		return nil, err
	}
	defer closeAgent()
	config := &ssh.ClientConfig{
		User: t.user, Auth: methods, HostKeyAlgorithms: algorithms(t.pinned),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !bytes.Equal(key.Marshal(), t.pinned.Marshal()) {
				return router.Errorf(router.CodeConflict, "%s shows the host key %s, and %s is pinned: it was installed anew, or somebody is in between; if it is right, remove the node and add it again", t.addr, ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(t.pinned))
			}
			return nil
		},
	}
	client, err := handshake(ctx, t.addr, config, t.wire.hold)
	var ours *router.Error
	switch {
	case err == nil:
		return client, nil
	case errors.As(err, &ours):
		return nil, ours
	case strings.Contains(err.Error(), "unable to authenticate"):
		return nil, router.Errorf(router.CodeUnavailable, "%s refuses the login of %s; tried: %s. Put the gateway's public key into ~%s/.ssh/authorized_keys there, or name its private key with `up --ssh-key`", t.addr, t.user, tried, t.user)
	case strings.Contains(err.Error(), "no common algorithm for host key"):
		return nil, router.Errorf(router.CodeConflict, "%s no longer has the pinned host key %s: it was installed anew, or somebody is in between; if it is right, remove the node and add it again", t.addr, ssh.FingerprintSHA256(t.pinned))
	}
	return nil, router.Errorf(router.CodeUnavailable, "%s cannot be reached by SSH: %w", t.addr, err)
}

// handshake is ssh.Dial with a context that is heeded throughout. opened may be
// nil; it gets the connection below.
func handshake(ctx context.Context, addr string, config *ssh.ClientConfig, opened func(net.Conn)) (*ssh.Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if opened != nil {
		opened(conn)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, addr, config)
	if !stop() && err == nil {
		_ = c.Close()
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		var ours *router.Error
		if ctx.Err() != nil && !errors.As(err, &ours) {
			err = errors.New("it accepts connections and does not answer")
		}
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
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

// HostKey connects to the machine at an ssh:// URL only as far as its host key
// and returns it with its fingerprint. It is for somebody to compare.
func HostKey(ctx context.Context, raw string) (key, fingerprint string, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "ssh" || u.Hostname() == "" {
		return "", "", router.Errorf(router.CodeInvalid, "only ssh:// URLs have a host key")
	}
	ctx, cancel := context.WithTimeout(ctx, sshDial)
	defer cancel()
	var shown ssh.PublicKey
	seen := errors.New("seen")
	_, err = handshake(ctx, hostPort(u), &ssh.ClientConfig{
		User: u.User.Username(), HostKeyAlgorithms: []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
		HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
			shown = k
			return seen
		},
	}, nil)
	if shown == nil {
		return "", "", router.Errorf(router.CodeUnavailable, "%s cannot be reached by SSH: %w", hostPort(u), err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(shown))), ssh.FingerprintSHA256(shown), nil
}

// algorithms are those by which a host can show the pinned key.
func algorithms(key ssh.PublicKey) []string {
	if key.Type() == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{key.Type()}
}

// identities are the ways to log in, and what to call them in an error.
func identities(ctx context.Context, file string) (methods []ssh.AuthMethod, tried string, closeAgent func(), err error) {
	closeAgent = func() {}
	if file != "" {
		signer, err := readKey(file)
		if err != nil {
			return nil, "", closeAgent, err
		}
		return []ssh.AuthMethod{ssh.PublicKeys(signer)}, file, closeAgent, nil
	}
	var names []string
	var signers []ssh.Signer
	if socket := os.Getenv("SSH_AUTH_SOCK"); socket != "" {
		if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket); err == nil {
			closeAgent = func() { _ = conn.Close() }
			methods = append(methods, ssh.PublicKeysCallback(agent.NewClient(conn).Signers))
			names = append(names, "the agent's keys")
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			if signer, err := readKey(filepath.Join(home, ".ssh", name)); err == nil {
				signers = append(signers, signer)
				names = append(names, "~/.ssh/"+name)
			}
		}
	}
	if len(signers) > 0 {
		methods = append(methods, ssh.PublicKeys(signers...))
	}
	if len(methods) == 0 {
		return nil, "", closeAgent, router.Errorf(router.CodeInvalid, "there is no SSH key to log in with: make one (ssh-keygen -t ed25519), or name one with `up --ssh-key`")
	}
	return methods, strings.Join(names, ", "), closeAgent, nil
}

func readKey(file string) (ssh.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, router.Errorf(router.CodeInvalid, "the SSH key cannot be read: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, router.Errorf(router.CodeInvalid, "the SSH key %s has a passphrase: load it into an agent, or use one without", file)
	case err != nil: // its text could show what is in the file
		return nil, router.Errorf(router.CodeInvalid, "%s is not a private SSH key", file)
	}
	return signer, nil
}
