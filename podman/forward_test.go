package podman

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// echo answers what it is sent once the sender has said that it is all.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				text, _ := io.ReadAll(c)
				_, _ = c.Write([]byte("you said " + string(text)))
			}()
		}
	}()
	return ln.Addr().String()
}

// say sends text, ends it, and returns the answer.
func say(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestForward(t *testing.T) {
	addr := echo(t)
	path := filepath.Join(t.TempDir(), "s")
	refuse := make(chan bool, 1)
	f, err := Forward(path, func(ctx context.Context) (net.Conn, error) {
		select {
		case <-refuse:
			return nil, errors.New("not now")
		default:
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if got := say(t, dial(), "hello"); got != "you said hello" {
		t.Errorf("the answer is %q", got)
	}
	refuse <- true
	refused := dial()
	if _, err := refused.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that leads nowhere stays open")
	}
	_ = refused.Close()

	open := dial() // one that nobody ends
	defer open.Close()
	if _, err := open.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the forwarder")
	}
}

func TestBridgeKnowsDeadlines(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c, err := bridge(near)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the read ends with %v", err)
	}
	_ = c.Close()
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the far end sees %v", err)
	}
}

// TestSilentMachine: one that accepts connections and never answers.
func TestSilentMachine(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = HostKey(ctx, "ssh://root@"+ln.Addr().String())
	wantCode(t, err, router.CodeUnavailable)
	if !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nsecretsecret\n-----END OPENSSH PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{"none": filepath.Join(dir, "no"), "no key": file} {
		t.Run(name, func(t *testing.T) {
			_, err := readKey(file)
			wantCode(t, err, router.CodeInvalid)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows what is in the file: %v", err)
			}
		})
	}
}
