package state

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestParseURL(t *testing.T) {
	for name, c := range map[string]struct {
		url, addrs, user, password, master string
		db                                 int
		tls                                bool
	}{
		"plain":              {url: "redis://localhost:6380", addrs: "localhost:6380"},
		"default port":       {url: "redis://r.example.com", addrs: "r.example.com:6379"},
		"no host":            {url: "redis://", addrs: "localhost:6379"},
		"password and db":    {url: "redis://:hidden@h:1/3", addrs: "h:1", password: "hidden", db: 3},
		"user":               {url: "redis://joe:hidden@h", addrs: "h:6379", user: "joe", password: "hidden"},
		"escaped password":   {url: "redis://:a%2Fb%40c@h", addrs: "h:6379", password: "a/b@c"},
		"IPv6":               {url: "redis://[::1]:7000", addrs: "[::1]:7000"},
		"TLS":                {url: "rediss://h:1", addrs: "h:1", tls: true},
		"socket":             {url: "unix:///run/my%20redis.sock?db=2", addrs: "/run/my redis.sock", db: 2},
		"socket, password":   {url: "unix://:hidden@/run/r.sock", addrs: "/run/r.sock", password: "hidden"},
		"cluster":            {url: "redis://joe:hidden@a:1,b:2,c", addrs: "a:1,b:2,c:6379", user: "joe", password: "hidden"},
		"sentinel":           {url: "redis+sentinel://:hidden@a,b:2/main/4", addrs: "a:26379,b:2", password: "hidden", master: "main", db: 4},
		"sentinel, no db":    {url: "redis+sentinel://a/main", addrs: "a:26379", master: "main"},
		"sentinel, password": {url: "rediss+sentinel://a/main?sentinel_password=s", addrs: "a:26379", master: "main", tls: true},
	} {
		t.Run(name, func(t *testing.T) {
			o, label, err := parseURL(c.url)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(o.Addrs, ","); got != c.addrs || label != c.addrs {
				t.Errorf("addresses %q, label %q, want %q", got, label, c.addrs)
			}
			if o.Username != c.user || o.Password != c.password || o.MasterName != c.master || o.DB != c.db || (o.TLSConfig != nil) != c.tls {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestParseURLRefusesWithoutShowingIt(t *testing.T) {
	for name, url := range map[string]string{
		"no scheme":             "hidden",
		"other scheme":          "http://:hidden@h",
		"slash in the password": "redis://:hid/hidden@h:6379",
		"bad escape":            "redis://:%zzhidden@h",
		"database":              "redis://h/hidden",
		"option":                "redis://h?hidden=1",
		"no master":             "redis+sentinel://:hidden@h",
		"cluster with database": "redis://:hidden@a,b/1",
		"empty host in a list":  "redis://:hidden@a,,b",
		"relative socket":       "unix://hidden.sock",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parseURL(url)
			wantCode(t, err, router.CodeInvalid)
			if strings.Contains(err.Error(), "hidden") {
				t.Fatal(err)
			}
		})
	}
}

// standIn accepts connections on loopback until the test ends.
func standIn(t *testing.T, serve func(net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "redis://joe:hidden@" + l.Addr().String()
}

func TestOpenFails(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := "redis://:hidden@" + closed.Addr().String()
	_ = closed.Close()

	replies := func(line string) func(net.Conn) {
		return func(c net.Conn) {
			r := bufio.NewReader(c)
			for {
				if _, err := r.ReadString('\n'); err != nil {
					return
				}
				_, _ = io.WriteString(c, line+"\r\n")
			}
		}
	}
	info := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			r := bufio.NewReader(c)
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				switch strings.ToLower(strings.TrimSpace(line)) {
				case "hello", "auth":
					_, _ = io.WriteString(c, "-ERR unknown command\r\n")
				case "info":
					_, _ = io.WriteString(c, "$"+strconv.Itoa(len(text))+"\r\n"+text+"\r\n")
				}
			}
		}
	}
	for name, c := range map[string]struct {
		url  string
		code router.Code
		says string
	}{
		"nobody listens": {refusing, router.CodeUnavailable, "does not answer"},
		"no socket":      {"unix:///nowhere/redis.sock", router.CodeUnavailable, "does not answer"},
		"never answers":  {standIn(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), router.CodeUnavailable, "does not answer"},
		"hangs up":       {standIn(t, func(c net.Conn) { _ = c.Close() }), router.CodeUnavailable, "does not answer"},
		"password":       {standIn(t, replies("-WRONGPASS invalid username-password pair")), router.CodeUnavailable, "user or password"},
		"too old":        {strings.Replace(standIn(t, info("redis_version:5.0.14\r\nredis_mode:standalone\r\nmaxmemory:0\r\n")), "joe:hidden@", "", 1), router.CodeInvalid, "too old"},
		"bad prefix":     {"redis://localhost", router.CodeInvalid, "prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second)
			defer cancel()
			o := Options{URL: c.url}
			if name == "bad prefix" {
				o.Prefix = "{braces}"
			}
			_, err := Open(ctx, o)
			wantCode(t, err, c.code)
			if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hidden") {
				t.Fatal(err)
			}
		})
	}
}

func TestOpenOwnsItsPrefix(t *testing.T) {
	srv := startServer(t)
	s := openStore(t, srv)
	create(t, s, "mine")
	other, err := Open(testContext(t), Options{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = other.Load(testContext(t), "mine")
	wantCode(t, err, router.CodeNotFound)
	name, err := other.Info(testContext(t))
	if err != nil || name != srv.Version() || !strings.Contains(name, " ") {
		t.Fatalf("%q and %q, %v", name, srv.Version(), err)
	}
}

// A Redis that hangs, and one that comes back: every call ends within its
// deadline, with an error that says that it may be tried again.
func TestRedisThatHangs(t *testing.T) {
	s := newStore(t)
	create(t, s, "app")
	pid := serverPID(t, s)
	signal(t, pid, syscall.SIGSTOP)
	defer signal(t, pid, syscall.SIGCONT)
	for name, call := range map[string]func(context.Context) error{
		"Load":   func(ctx context.Context) error { _, err := s.Load(ctx, "app"); return err },
		"Update": func(ctx context.Context) error { _, err := s.Update(ctx, "app", touch); return err },
		"Rebuild": func(ctx context.Context) error {
			_, err := s.Rebuild(ctx, []router.AppState{{App: router.App{Name: "app"}}})
			return err
		},
		"Rates": func(ctx context.Context) error { _, err := s.Rates(ctx, time.Now(), time.Now()); return err },
		"FlushRates": func(ctx context.Context) error {
			return s.FlushRates(ctx, "g", time.Now(), map[string]router.Sample{"app": {}})
		},
		"Acquire":  func(ctx context.Context) error { _, _, err := s.Acquire(ctx, "l", "g", time.Second); return err },
		"Announce": func(ctx context.Context) error { return s.Announce(ctx, "g", time.Second) },
		"Ping":     s.Ping,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
			defer cancel()
			err := call(ctx)
			wantCode(t, err, router.CodeUnavailable)
			var e *router.Error
			if errors.As(err, &e) && e.RetryAfter == 0 {
				t.Error("no time to try again")
			}
		})
	}
	t.Run("cancelled by the caller", func(t *testing.T) {
		ctx, cancel := context.WithCancel(testContext(t))
		cancel()
		_, err := s.Load(ctx, "app")
		if code := router.CodeOf(err); !errors.Is(err, context.Canceled) || code == router.CodeUnavailable {
			t.Fatalf("Redis is blamed for what the caller did: %v", err)
		}
	})
	signal(t, pid, syscall.SIGCONT)
	update(t, s, "app", touch)
}

func touch(st *router.AppState) error {
	st.App.Next++
	return nil
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	if err := s.client.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Update(ctx, "app", touch)
	wantCode(t, err, router.CodeUnavailable)
	if !strings.Contains(err.Error(), "maxmemory") {
		t.Fatal(err)
	}
	if err := s.client.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	update(t, s, "app", touch)
}
