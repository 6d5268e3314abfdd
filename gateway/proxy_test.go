package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// echoHead is an app that answers with the head of the request as it got it.
func echoHead(r *rig) {
	addr := rawApp(r.t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
			var head strings.Builder
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				head.WriteString(line)
				if line == "\r\n" {
					break
				}
			}
			_, _ = io.WriteString(c, ok(head.String()))
		}
	})
	r.apply(record("a", instance("a-1", router.Ready, addr)))
}

func TestRequestHead(t *testing.T) {
	r := newRig(t, nil)
	echoHead(r)
	for name, tc := range map[string]struct {
		send string
		want string // ID stands for the request id
	}{
		"order and spelling stay": {
			"GET /a/../b?c=%20&d HTTP/1.1\r\nhost: A.localhost:8080\r\nx-zebra: 1\r\nACCEPT:  */* \r\nCookie: a=b; c=d\r\nuser-Agent: me\r\nx-zebra: 2\r\n\r\n",
			"GET /a/../b?c=%20&d HTTP/1.1\r\nHost: A.localhost:8080\r\nx-zebra: 1\r\nACCEPT: */*\r\nCookie: a=b; c=d\r\nuser-Agent: me\r\nx-zebra: 2\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: A.localhost:8080\r\nX-Forwarded-Port: 8080\r\nX-Request-Id: ID\r\n\r\n",
		},
		"nobody's word for where it comes from": {
			"GET / HTTP/1.1\r\nHost: a.localhost\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-proto: https\r\nX_Forwarded_Host: evil\r\nX-Forwarded-Anything: x\r\n" +
				"Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nTrue-Client-Ip: 6.6.6.6\r\nX-Request-Id: mine\r\nProxy: http://evil\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.localhost\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.localhost\r\nX-Forwarded-Port: 80\r\nX-Request-Id: ID\r\n\r\n",
		},
		"hop-by-hop fields": {
			"GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: keep-alive, X-Hop, host, x-forwarded-for\r\nConnection: x-hop-2\r\nX-Hop: 1\r\nx-hop-2: 2\r\nX-Stays: 3\r\n" +
				"Keep-Alive: 300\r\nTE: trailers\r\nTrailer: x\r\nProxy-Connection: close\r\nProxy-Authorization: Basic eA==\r\nUpgrade: websocket\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.localhost\r\nX-Stays: 3\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.localhost\r\nX-Forwarded-Port: 80\r\nX-Request-Id: ID\r\n\r\n",
		},
		"h2c is not let through": {
			"GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.localhost\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.localhost\r\nX-Forwarded-Port: 80\r\nX-Request-Id: ID\r\n\r\n",
		},
		"an absolute target's host counts": {
			"GET http://a.localhost:81/x?y HTTP/1.1\r\nHost: b.localhost\r\n\r\n",
			"GET /x?y HTTP/1.1\r\nHost: a.localhost:81\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.localhost:81\r\nX-Forwarded-Port: 81\r\nX-Request-Id: ID\r\n\r\n",
		},
		"an absolute target without a path": {
			"GET http://a.localhost?y HTTP/1.1\r\nHost: b.localhost\r\n\r\n",
			"GET /?y HTTP/1.1\r\nHost: a.localhost\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.localhost\r\nX-Forwarded-Port: 80\r\nX-Request-Id: ID\r\n\r\n",
		},
		"POST without a body says so": {
			"POST / HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: a.localhost\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.localhost\r\nX-Forwarded-Port: 80\r\nX-Request-Id: ID\r\nContent-Length: 0\r\n\r\n",
		},
		"HTTP/1.0 becomes 1.1": {
			"GET / HTTP/1.0\r\nHost: a.localhost\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.localhost\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.localhost\r\nX-Forwarded-Port: 80\r\nX-Request-Id: ID\r\n\r\n",
		},
		"OPTIONS *": {
			"OPTIONS * HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
			"OPTIONS * HTTP/1.1\r\nHost: a.localhost\r\n" +
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.localhost\r\nX-Forwarded-Port: 80\r\nX-Request-Id: ID\r\n\r\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := r.raw(tc.send)
			id := res.Header.Get("X-Request-Id")
			if len(id) != 32 {
				t.Errorf("request id %q", id)
			}
			if want := strings.ReplaceAll(tc.want, "ID", id); body != want {
				t.Errorf("the app got\n%q, want\n%q", body, want)
			}
		})
	}
}

// Messages in which the next server could see another end than we do, or that
// are no HTTP/1, are refused, and the connection is closed.
func TestRefusedRequests(t *testing.T) {
	r := newRig(t, nil)
	echoHead(r)
	for name, text := range map[string]string{
		"length and chunks":            "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks and length":            "POST / HTTP/1.1\r\nHost: a.localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"two lengths":                  "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"a list of lengths":            "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 5, 5\r\n\r\nhello",
		"a signed length":              "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: +5\r\n\r\nhello",
		"a hexadecimal length":         "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 0x5\r\n\r\nhello",
		"another encoding":             "POST / HTTP/1.1\r\nHost: a.localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"identity":                     "POST / HTTP/1.1\r\nHost: a.localhost\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
		"identity alone":               "POST / HTTP/1.1\r\nHost: a.localhost\r\nTransfer-Encoding: identity\r\n\r\n",
		"encoding with a vertical tab": "POST / HTTP/1.1\r\nHost: a.localhost\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"encoding twice":               "POST / HTTP/1.1\r\nHost: a.localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"encoding in HTTP/1.0":         "POST / HTTP/1.0\r\nHost: a.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"encoding with an underscore":  "POST / HTTP/1.1\r\nHost: a.localhost\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
		"folded line":                  "GET / HTTP/1.1\r\nHost: a.localhost\r\nX-A: b\r\n c\r\n\r\n",
		"folded line with a tab":       "GET / HTTP/1.1\r\nHost: a.localhost\r\nX-A: b\r\n\tTransfer-Encoding: chunked\r\n\r\n",
		"space before the colon":       "GET / HTTP/1.1\r\nHost: a.localhost\r\nX-A : b\r\n\r\n",
		"space in a name":              "GET / HTTP/1.1\r\nHost: a.localhost\r\nX A: b\r\n\r\n",
		"no name":                      "GET / HTTP/1.1\r\nHost: a.localhost\r\n: b\r\n\r\n",
		"no colon":                     "GET / HTTP/1.1\r\nHost: a.localhost\r\nX-A\r\n\r\n",
		"a bare CR":                    "GET / HTTP/1.1\r\nHost: a.localhost\r\nX-A: b\rX-C: d\r\n\r\n",
		"a NUL":                        "GET / HTTP/1.1\r\nHost: a.localhost\r\nX-A: b\x00\r\n\r\n",
		"HTTP/1.9":                     "GET / HTTP/1.9\r\nHost: a.localhost\r\n\r\n",
		"HTTP/2.0":                     "GET / HTTP/2.0\r\nHost: a.localhost\r\n\r\n",
		"HTTP/0.9":                     "GET /\r\n\r\n",
		"no host":                      "GET / HTTP/1.1\r\n\r\n",
		"empty host":                   "GET / HTTP/1.1\r\nHost:\r\n\r\n",
		"two hosts":                    "GET / HTTP/1.1\r\nHost: a.localhost\r\nHost: b.localhost\r\n\r\n",
		"host with a path":             "GET / HTTP/1.1\r\nHost: a.localhost/x\r\n\r\n",
		"host with a user":             "GET / HTTP/1.1\r\nHost: x@a.localhost\r\n\r\n",
		"host with a space":            "GET / HTTP/1.1\r\nHost: a.localhost b\r\n\r\n",
		"absolute with a user":         "GET http://x@a.localhost/ HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
		"a forward proxy's request":    "CONNECT a.localhost:443 HTTP/1.1\r\nHost: a.localhost:443\r\n\r\n",
		"no target":                    "GET  HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
		"noise":                        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, br := r.dial()
			_, _ = io.WriteString(c, text)
			res, body := readAnswer(t, br)
			if res.StatusCode != 400 {
				t.Errorf("%d, want 400\n%s", res.StatusCode, body)
			}
			if len(res.Header.Get("X-Request-Id")) != 32 {
				t.Error("no request id")
			}
			if b, err := io.ReadAll(br); len(b) > 0 {
				t.Errorf("after the refusal: %q, %v", b, err)
			}
		})
	}
	t.Run("too long a header", func(t *testing.T) {
		res, _ := r.raw("GET / HTTP/1.1\r\nHost: a.localhost\r\nX-A: " + strings.Repeat("b", readBuffer) + "\r\n\r\n")
		if res.StatusCode != 431 {
			t.Errorf("%d, want 431", res.StatusCode)
		}
	})
	t.Run("nearly too long a header", func(t *testing.T) {
		res, _ := r.raw("GET / HTTP/1.1\r\nHost: a.localhost\r\nX-A: " + strings.Repeat("b", readBuffer-100) + "\r\n\r\n")
		if res.StatusCode != 200 {
			t.Errorf("%d, want 200", res.StatusCode)
		}
	})
}

// What an app answers, and what the client gets of it.
func TestAnswers(t *testing.T) {
	r := newRig(t, nil)
	for name, tc := range map[string]struct {
		method, answer string
		closes         bool // the app ends the connection
		status         int
		header         []string // all but Date and X-Request-Id, sorted
		length         int64
		body           string
	}{
		"with a length":  {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: mine\r\nETag: \"x\"\r\n\r\nhello", false, 200, []string{"Content-Length: 5", "Etag: \"x\"", "Server: mine"}, 5, "hello"},
		"in chunks":      {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n", false, 200, nil, -1, "hello world"},
		"with trailers":  {"GET", "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", false, 200, nil, -1, "hello"},
		"until it ends":  {"GET", "HTTP/1.1 200 OK\r\n\r\nhello", true, 200, nil, -1, "hello"},
		"HTTP/1.0":       {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", true, 200, []string{"Content-Length: 5"}, 5, "hello"},
		"empty":          {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200, []string{"Content-Length: 0"}, 0, ""},
		"no content":     {"GET", "HTTP/1.1 204 No Content\r\n\r\n", false, 204, nil, 0, ""},
		"bad 204":        {"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", false, 204, nil, 0, ""},
		"not modified":   {"GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n", false, 304, []string{"Content-Length: 5", "Etag: \"x\""}, 0, ""},
		"HEAD, length":   {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, 200, []string{"Content-Length: 5"}, 5, ""},
		"HEAD, chunks":   {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, 200, nil, -1, ""},
		"HEAD, neither":  {"HEAD", "HTTP/1.1 200 OK\r\n\r\n", false, 200, nil, -1, ""},
		"own status":     {"GET", "HTTP/1.1 299 Quite Fine\r\nContent-Length: 0\r\n\r\n", false, 299, []string{"Content-Length: 0"}, 0, ""},
		"early hints":    {"GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, 200, []string{"Content-Length: 2"}, 2, "ok"},
		"its own id":     {"GET", "HTTP/1.1 200 OK\r\nX-Request-Id: mine\r\nContent-Length: 0\r\n\r\n", false, 200, []string{"Content-Length: 0"}, 0, ""},
		"many cookies":   {"GET", "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: a=2\r\nContent-Length: 0\r\n\r\n", false, 200, []string{"Content-Length: 0", "Set-Cookie: a=1; Path=/", "Set-Cookie: a=2"}, 0, ""},
		"its own types":  {"GET", "HTTP/1.1 200 OK\r\nContent-Type: x/y; z=1\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\n1", false, 200, []string{"Content-Encoding: br", "Content-Length: 1", "Content-Type: x/y; z=1"}, 1, "1"},
		"hop-by-hop":     {"GET", "HTTP/1.1 200 OK\r\nConnection: Keep-Alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nX-Stays: 1\r\nContent-Length: 0\r\n\r\n", false, 200, []string{"Content-Length: 0", "X-Stays: 1"}, 0, ""},
		"closing":        {"GET", "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok", true, 200, []string{"Content-Length: 2"}, 2, "ok"},
		"two lengths":    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", false, 502, nil, -2, ""},
		"other encoding": {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nok", false, 502, nil, -2, ""},
		"unasked 101":    {"GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", false, 502, nil, -2, ""},
		"endless hints":  {"GET", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100), false, 502, nil, -2, ""},
		"long header":    {"GET", "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", upstreamBuffer) + "\r\nContent-Length: 0\r\n\r\n", false, 502, nil, -2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var conns atomic.Int32
			addr := rawApp(t, func(n int, c net.Conn, br *bufio.Reader) {
				conns.Store(int32(n))
				for {
					if _, err := requestLine(br); err != nil {
						return
					}
					_, _ = io.WriteString(c, tc.answer)
					if tc.closes {
						return
					}
				}
			})
			r.apply(record("a", instance("a-"+strings.ReplaceAll(name, " ", "-"), router.Ready, addr)))
			c, br := r.dial()
			for i := range 2 { // the client's connection is fit for another one
				_, _ = io.WriteString(c, tc.method+" / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
				res, err := http.ReadResponse(br, &http.Request{Method: tc.method})
				if err != nil {
					t.Fatalf("answer %d: %v", i+1, err)
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				if res.StatusCode != tc.status {
					t.Fatalf("%d, want %d", res.StatusCode, tc.status)
				}
				if id := res.Header.Values("X-Request-Id"); len(id) != 1 || len(id[0]) != 32 {
					t.Errorf("request id %q", id)
				}
				if tc.length == -2 {
					continue // a page of ours
				}
				var header []string
				for k, vs := range res.Header {
					for _, v := range vs {
						if k != "Date" && k != "X-Request-Id" {
							header = append(header, k+": "+v)
						}
					}
				}
				sort.Strings(header)
				if !slices.Equal(header, tc.header) {
					t.Errorf("header %q, want %q", header, tc.header)
				}
				if string(body) != tc.body || res.ContentLength != tc.length {
					t.Errorf("body %q of length %d, want %q of %d", body, res.ContentLength, tc.body, tc.length)
				}
			}
			if reusable := tc.status < 500 && !tc.closes && name != "HEAD, neither"; reusable && conns.Load() != 1 {
				t.Errorf("%d connections to the app for two requests", conns.Load())
			}
		})
	}
}

// A client that knows only HTTP/1.0 gets no chunks.
func TestHTTP10Client(t *testing.T) {
	r := newRig(t, nil)
	r.app("a", func(w http.ResponseWriter, req *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "hello ")
			w.(http.Flusher).Flush()
		}
	})
	c, br := r.dial()
	_, _ = io.WriteString(c, "GET / HTTP/1.0\r\nHost: a.localhost\r\nConnection: keep-alive\r\n\r\n")
	all, err := io.ReadAll(br)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := bytes.Cut(all, []byte("\r\n\r\n"))
	if string(body) != "hello hello hello " || bytes.Contains(head, []byte("chunked")) || !bytes.Contains(head, []byte("Connection: close")) {
		t.Errorf("%q", all)
	}
	eventually(t, "the place is given back", func() bool { return r.admission("a").inFlight.Load() == 0 })
}

// An answer that breaks off must not look complete.
func TestAnswerBreaksOff(t *testing.T) {
	for name, answer := range map[string]string{
		"with a length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
		"in chunks":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"in a chunk":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			addr := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
				_, _ = requestLine(br)
				_, _ = io.WriteString(c, answer)
			})
			r.apply(record("a", instance("a-1", router.Ready, addr)))
			res, err := r.client().Get("http://a.localhost/")
			if err != nil {
				return // also fine
			}
			defer res.Body.Close()
			if b, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("a complete answer: %q", b)
			}
		})
	}
}

func TestFirstByteTimeout(t *testing.T) {
	r := newRig(t, nil)
	gone := make(chan struct{})
	addr := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
		defer close(gone)
		_, _ = requestLine(br)
		if _, err := br.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the app's connection stays open")
		}
	})
	st := record("a", instance("a-1", router.Ready, addr))
	st.Releases[0].Run.Timeout = router.Duration(100 * time.Millisecond)
	r.apply(st)
	res, body := r.get(r.client(), "http://a.localhost/")
	if res.StatusCode != 504 || !strings.Contains(body, "too long") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	<-gone
}

func TestProblemJSON(t *testing.T) {
	r := newRig(t, nil)
	for accept, want := range map[string]string{
		"application/json":                    "application/problem+json",
		"application/problem+json":            "application/problem+json",
		"text/html,application/json;q=0.9":    "text/html; charset=utf-8",
		"*/*":                                 "text/html; charset=utf-8",
		"text/html,application/xhtml+xml,*/*": "text/html; charset=utf-8",
	} {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://nobody.localhost/", http.NoBody)
		req.Header.Set("Accept", accept)
		res, body := r.do(r.client(), req)
		if got := res.Header.Get("Content-Type"); got != want || res.StatusCode != 404 {
			t.Errorf("%s: %d %s\n%s", accept, res.StatusCode, got, body)
		}
	}
}

// A woken answer tells where its time went, and keeps what the app says itself.
func TestServerTiming(t *testing.T) {
	var r *rig
	addr := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server-Timing", "app;dur=1")
		_, _ = io.WriteString(w, "hello")
	})
	r = newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(_ context.Context, app string) (router.Wake, error) {
			r.apply(record(app, instance("a-1", router.Ready, addr)))
			return router.Wake{App: app, From: router.RungFrozen, Phases: []router.Phase{
				{Name: "claim", Took: 1500 * time.Microsecond}, {Name: "thaw", Took: 7 * time.Millisecond}, {Name: "probe", Took: 250 * time.Microsecond},
			}}, nil
		}
	})
	r.apply(record("a"))
	c := r.client()
	res, _ := r.get(c, "http://a.localhost/")
	got := strings.Join(res.Header.Values("Server-Timing"), ", ")
	var queue, upstream float64
	var app int
	if n, err := fmt.Sscanf(got, "app;dur=%d, queue;dur=%f, claim;dur=1.50, thaw;dur=7.00, probe;dur=0.25, upstream;dur=%f", &app, &queue, &upstream); n != 3 {
		t.Errorf("Server-Timing %q: %v", got, err)
	}
	if res, _ := r.get(c, "http://a.localhost/"); len(res.Header.Values("Server-Timing")) != 1 {
		t.Errorf("a warm answer has Server-Timing %q", res.Header.Values("Server-Timing"))
	}
}

// The control API is on the platform's hostname, over a unix socket.
func TestPlatformHost(t *testing.T) {
	sock := t.TempDir() + "/api.sock"
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "api "+req.Host)
	}), ReadHeaderTimeout: waitTime}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	r := newRig(t, func(o *Options, _ *fakeEngine) { o.APIUpstream = sock })
	// An app cannot take its name.
	st := record("a")
	st.App.Domains = []string{"fluxgate.localhost", "registry.localhost"}
	r.apply(st)
	for _, host := range st.App.Domains {
		if res, body := r.get(r.client(), "http://"+host+"/v1"); res.StatusCode != 200 || body != "api "+host {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	}
}
