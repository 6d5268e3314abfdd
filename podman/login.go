package podman

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/fluxgate/fluxgate/router"
)

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
