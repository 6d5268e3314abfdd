package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/podman/registry"
)

// onEachStorage runs a test with a registry in a folder, and with one in a real
// S3 server.
func onEachStorage(t *testing.T, test func(t *testing.T, newRig rigMaker)) {
	t.Helper()
	t.Run("files", func(t *testing.T) { test(t, newRig) })
	t.Run("S3", func(t *testing.T) {
		test(t, func(t *testing.T, change ...func(*registry.Options)) *rig {
			t.Helper()
			storage := s3Bucket(t)
			return newRig(t, append(change, func(o *registry.Options) { o.Dir, o.S3 = "", storage })...)
		})
	})
}

// rigMaker is newRig on one kind of storage.
type rigMaker func(t *testing.T, change ...func(*registry.Options)) *rig

// s3Server is versitygw, which all tests share; each has a bucket of its own.
var s3Server struct {
	once  sync.Once
	dir   string // of its own
	addr  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
	err   error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if s := &s3Server; s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	if s3Server.dir != "" {
		_ = os.RemoveAll(s3Server.dir)
	}
	os.Exit(code)
}

func s3Bucket(t *testing.T) *registry.S3 {
	t.Helper()
	s := &s3Server
	s.once.Do(func() { s.err = startS3() })
	if s.err != nil {
		t.Fatal(s.err)
	}
	bucket, err := os.MkdirTemp(filepath.Join(s.dir, "buckets"), "b")
	if err != nil {
		t.Fatal(err)
	}
	return &registry.S3{Bucket: filepath.Base(bucket), Prefix: "images/here", Endpoint: "http://" + s.addr, Region: "us-east-1", AccessKey: "access", SecretKey: "secret"}
}

// startS3 runs the server on a free port. Another program may take the port in
// between: then it ends, and another port is tried.
func startS3() error {
	bin, err := exec.LookPath("versitygw")
	if err != nil {
		out, _ := exec.CommandContext(context.Background(), "go", "env", "GOPATH").Output()
		bin = filepath.Join(strings.TrimSpace(string(out)), "bin", "versitygw")
		if _, err := os.Stat(bin); err != nil {
			return errors.New("versitygw is not installed; `just test` installs it, or: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
		}
	}
	s := &s3Server
	if s.dir, err = os.MkdirTemp("", "fgs3"); err != nil {
		return err
	}
	for _, sub := range []string{"buckets", "meta"} {
		if err := os.Mkdir(filepath.Join(s.dir, sub), 0o700); err != nil {
			return err
		}
	}
	for range 5 {
		ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s.addr = ln.Addr().String()
		_ = ln.Close()
		s.cmd = exec.CommandContext(context.Background(), bin, "--port", s.addr, "--access", "access", "--secret", "secret", "--quiet",
			"posix", "--sidecar", filepath.Join(s.dir, "meta"), filepath.Join(s.dir, "buckets"))
		if err := s.cmd.Start(); err != nil {
			return err
		}
		s.ended = make(chan struct{})
		go func() {
			_ = s.cmd.Wait()
			close(s.ended)
		}()
		if answers(s.addr, s.ended) {
			return nil
		}
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	return fmt.Errorf("versitygw does not listen on %s", s.addr)
}

// answers waits until a server listens or has ended.
func answers(addr string, ended <-chan struct{}) bool {
	late := time.After(20 * time.Second)
	for {
		if c, err := new(net.Dialer).DialContext(context.Background(), "tcp", addr); err == nil {
			_ = c.Close()
			return true
		}
		select {
		case <-ended:
			return false
		case <-late:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
}
