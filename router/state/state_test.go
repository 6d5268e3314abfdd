package state

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fluxgate/fluxgate/router"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(gatewayDir); dir != "" {
		beGateway(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// limit bounds every test's waits: a broken test fails then, instead of
// hanging. No test takes anything near as long.
const limit = 30 * time.Second

func testContext(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	tb.Cleanup(cancel)
	return ctx
}

// startServer runs a private server for one test.
func startServer(tb testing.TB) *Server {
	tb.Helper()
	srv, err := StartServer(testContext(tb), tb.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := srv.Close(ctx); err != nil {
			tb.Errorf("closing the server: %v", err)
		}
	})
	return srv
}

// openStore is another gateway's Store on srv.
func openStore(tb testing.TB, srv *Server) *Store {
	tb.Helper()
	s, err := Open(testContext(tb), Options{URL: srv.URL(), Prefix: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	s.block = 100 * time.Millisecond
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func newStore(tb testing.TB) *Store {
	tb.Helper()
	return openStore(tb, startServer(tb))
}

// create makes an app with the given domains.
func create(t *testing.T, s *Store, app string, domains ...string) router.AppState {
	t.Helper()
	return update(t, s, app, func(st *router.AppState) error {
		st.App.Policy = router.DefaultPolicy()
		st.App.Domains = domains
		return nil
	})
}

func update(t *testing.T, s *Store, app string, fn func(*router.AppState) error) router.AppState {
	t.Helper()
	st, err := s.Update(testContext(t), app, fn)
	if err != nil {
		t.Fatalf("updating %s: %v", app, err)
	}
	return st
}

func wantCode(t *testing.T, err error, code router.Code) {
	t.Helper()
	var e *router.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error %v, want one of code %s", err, code)
	}
}

// eventually waits for something that other processes or goroutines bring
// about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// serverPID is the process of the server that this test started.
func serverPID(t *testing.T, s *Store) int {
	t.Helper()
	text, err := s.client.Info(testContext(t), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(parseInfo(text)["process_id"])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func signal(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}
