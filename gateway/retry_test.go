package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// closedPort is an address that refuses connections.
func closedPort(t testing.TB) string {
	t.Helper()
	ln := listen(t)
	_ = ln.Close()
	return ln.Addr().String()
}

// requestLine reads one request whole and returns its first line.
func requestLine(br *bufio.Reader) (string, error) {
	req, err := http.ReadRequest(br)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, req.Body)
	return req.Method + " " + req.URL.Path, err
}

// Contract 3: a request is given to the app a second time only if not one byte
// of it was written, or if its method is safe, it has no body, and nothing was
// answered.
func TestRetries(t *testing.T) {
	const get, post = "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n", "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 2\r\n\r\nhi"
	const getWithBody = "GET / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 2\r\n\r\nhi"
	const del = "DELETE / HTTP/1.1\r\nHost: a.localhost\r\n\r\n"
	const upgrade = "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	die := func(net.Conn) {}
	for name, tc := range map[string]struct {
		request string
		// onFirst answers the first request that the app gets; later ones get 200.
		onFirst func(c net.Conn)
		refuse  bool // one more instance refuses connections
		status  int
		given   int32 // how many times the app got the request
	}{
		"GET, closed without an answer":                {get, die, false, 200, 2},
		"HEAD, closed without an answer":               {strings.Replace(get, "GET", "HEAD", 1), die, false, 200, 2},
		"OPTIONS, closed without an answer":            {strings.Replace(get, "GET", "OPTIONS", 1), die, false, 200, 2},
		"POST, closed without an answer":               {post, die, false, 502, 1},
		"DELETE, closed without an answer":             {del, die, false, 502, 1},
		"GET with a body, closed without an answer":    {getWithBody, die, false, 502, 1},
		"upgrade, closed without an answer":            {upgrade, die, false, 502, 1},
		"GET, closed within the status line":           {get, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 20") }, false, 502, 1},
		"GET, closed within the header":                {get, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nA: b\r\n") }, false, 502, 1},
		"GET, closed after an interim answer":          {get, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n") }, false, 502, 1},
		"GET, not HTTP":                                {get, func(c net.Conn) { _, _ = io.WriteString(c, "220 smtp.example.com ready\r\n\r\n") }, false, 502, 1},
		"POST, another instance refuses connections":   {post, nil, true, 200, 1},
		"GET, another instance refuses connections":    {get, nil, true, 200, 1},
		"DELETE, another instance refuses connections": {del, nil, true, 200, 1},
	} {
		t.Run(name, func(t *testing.T) {
			suspects := make(chan string, 10)
			r := newRig(t, func(o *Options, _ *fakeEngine) { o.Suspect = func(in string) { suspects <- in } })
			var given atomic.Int32
			app := func() string {
				return rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
					for {
						if _, err := requestLine(br); err != nil {
							return
						}
						if n := given.Add(1); n == 1 && tc.onFirst != nil {
							tc.onFirst(c)
							return
						}
						_, _ = io.WriteString(c, ok(""))
					}
				})
			}
			if tc.refuse {
				// Balancing is random: the one that refuses is tried until it was hit.
				addr := app()
				r.apply(record("a", instance("a-1", router.Ready, addr), instance("a-2", router.Ready, closedPort(t))))
				for i := int32(1); ; i++ {
					if res, body := r.raw(tc.request); res.StatusCode != tc.status || given.Load() != i {
						t.Fatalf("%d after %d requests given, want %d after %d\n%s", res.StatusCode, given.Load(), tc.status, i, body)
					}
					if len(suspects) > 0 {
						break
					}
				}
				if s := <-suspects; s != "a-2" {
					t.Errorf("%s is suspected", s)
				}
				return
			}
			r.apply(record("a", instance("a-1", router.Ready, app()), instance("a-2", router.Ready, app())))
			res, body := r.raw(tc.request)
			if res.StatusCode != tc.status {
				t.Errorf("%d, want %d\n%s", res.StatusCode, tc.status, body)
			}
			if n := given.Load(); n != tc.given {
				t.Errorf("the app got the request %d times, want %d", n, tc.given)
			}
		})
	}
}

// A kept connection that dies when it is used again: the app may have acted on
// the request or not, and nobody can know.
func TestKeptConnectionDies(t *testing.T) {
	for name, tc := range map[string]struct {
		method string
		status int
		given  int32
	}{"GET": {"GET", 200, 3}, "POST": {"POST", 502, 2}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			var given atomic.Int32
			addr := rawApp(t, func(n int, c net.Conn, br *bufio.Reader) {
				for i := 1; ; i++ {
					if _, err := requestLine(br); err != nil {
						return
					}
					given.Add(1)
					if n == 1 && i == 2 {
						return
					}
					_, _ = io.WriteString(c, ok(""))
				}
			})
			r.apply(record("a", instance("a-1", router.Ready, addr)))
			c, br := r.dial()
			for i, want := range []int{200, tc.status} {
				_, _ = io.WriteString(c, tc.method+" / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 0\r\n\r\n")
				if res, _ := readAnswer(t, br); res.StatusCode != want {
					t.Errorf("request %d: %d, want %d", i+1, res.StatusCode, want)
				}
			}
			if n := given.Load(); n != tc.given {
				t.Errorf("the app got %d requests, want %d", n, tc.given)
			}
		})
	}
}

// A connection that the app closed while it was idle costs no request, whatever
// the method.
func TestClosedIdleConnectionIsNotUsed(t *testing.T) {
	r := newRig(t, nil)
	closed := make(chan struct{}, 10)
	addr := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
		if _, err := requestLine(br); err == nil {
			_, _ = io.WriteString(c, ok("")) // says nothing of closing, and closes
		}
		_ = c.Close()
		closed <- struct{}{}
	})
	r.apply(record("a", instance("a-1", router.Ready, addr)))
	c, br := r.dial()
	for i := range 5 {
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 2\r\n\r\nhi")
		if res, _ := readAnswer(t, br); res.StatusCode != 200 {
			t.Errorf("request %d: %d", i+1, res.StatusCode)
		}
		<-closed
		up := r.admission("a").target.Load().endpoints[0]
		eventually(t, "the end has arrived", func() bool {
			up.mu.Lock()
			defer up.mu.Unlock()
			return len(up.idle) > 0 && hasInput(up.idle[0].raw)
		})
	}
}

// What an app sends without being asked is not taken for the next answer.
func TestUnaskedAnswerIsNotUsed(t *testing.T) {
	r := newRig(t, nil)
	addr := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
			line, err := requestLine(br)
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, ok(line)+ok("poison"))
		}
	})
	r.apply(record("a", instance("a-1", router.Ready, addr)))
	c, br := r.dial()
	for range 5 {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
		if _, body := readAnswer(t, br); body != "GET /" {
			t.Fatalf("%q", body)
		}
	}
}

func TestNoInstanceAnswers(t *testing.T) {
	r := newRig(t, nil)
	r.apply(record("a", instance("a-1", router.Ready, closedPort(t))))
	res, body := r.get(r.client(), "http://a.localhost/")
	if res.StatusCode != 502 || !strings.Contains(body, "did not answer") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if n := r.admission("a").target.Load().endpoints[0].load(); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}
