package gateway

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// noise is n bytes that differ from place to place, and their digest.
func noise(n int) ([]byte, [32]byte) {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(b)
	return b, sha256.Sum256(b)
}

// Bodies of all sizes and both framings arrive whole, there and back, and the
// client's connection can be used again.
func TestBodies(t *testing.T) {
	r := newRig(t, nil)
	r.app("a", func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			t.Errorf("the app could not read the body: %v", err)
		}
		if req.URL.Query().Has("fixed") {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		w.Header().Set("X-Framing", fmt.Sprint(req.ContentLength))
		for len(b) > 0 {
			n := min(len(b), 10_000)
			_, _ = w.Write(b[:n])
			b = b[n:]
			w.(http.Flusher).Flush()
		}
	})
	c := r.client()
	for _, size := range []int{0, 1, 100, prefetched - 1, prefetched, prefetched + 1, readBuffer, 100_000, 3 << 20} {
		body, want := noise(size)
		for _, query := range []string{"", "?fixed"} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d bytes%s, chunked %v", size, query, chunked), func(t *testing.T) {
					var rd io.Reader = bytes.NewReader(body)
					if chunked {
						rd = io.MultiReader(rd) // of unknown length
					}
					req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://a.localhost/"+query, rd)
					if chunked {
						req.ContentLength = -1
					}
					res, got := r.do(c, req)
					if sum := sha256.Sum256([]byte(got)); res.StatusCode != 200 || sum != want {
						t.Errorf("%d, %d bytes came back", res.StatusCode, len(got))
					}
					framing := fmt.Sprint(size)
					if chunked {
						framing = "-1"
					}
					if f := res.Header.Get("X-Framing"); f != framing {
						t.Errorf("the app saw length %s, want %s", f, framing)
					}
				})
			}
		}
	}
	if n := r.admission("a").inFlight.Load(); n != 0 {
		t.Errorf("%d requests are still in flight", n)
	}
}

// An upload far larger than memory that anybody would buffer: what is kept of
// it is bounded by the gateway's buffers. The app counts; nothing is stored.
func TestUploadIsStreamed(t *testing.T) {
	r := newRig(t, nil)
	var got atomic.Int64
	r.app("a", func(w http.ResponseWriter, req *http.Request) {
		buf := make([]byte, 64<<10)
		for {
			n, err := req.Body.Read(buf)
			got.Add(int64(n))
			if err != nil {
				break
			}
		}
		fmt.Fprint(w, got.Load())
	})
	pr, pw := io.Pipe()
	sent := make(chan hash.Hash, 1)
	go func() {
		defer close(sent)
		chunk, _ := noise(64 << 10)
		for i := range 200 {
			if _, err := pw.Write(chunk); err != nil {
				t.Error(err)
				return
			}
			// It arrives while the upload goes on.
			eventually(t, "it arrives", func() bool { return got.Load() >= int64(i-32)*64<<10 })
		}
		_ = pw.Close()
	}()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://a.localhost/", pr)
	if res, body := r.do(r.client(), req); res.StatusCode != 200 || body != fmt.Sprint(200*64<<10) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	<-sent
}

// Server-sent events: each goes out when it is written, in chunks, with a
// length, and until the connection ends.
func TestEventsArriveAtOnce(t *testing.T) {
	const event = "data: 0123456789\n\n"
	for name, tc := range map[string]struct {
		head, before, after string
	}{
		"in chunks":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n", len(event)), "\r\n"},
		"with a length": {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 5*len(event)), "", ""},
		"until the end": {"HTTP/1.1 200 OK\r\n\r\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			next := make(chan struct{})
			addr := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
				_, _ = requestLine(br)
				_, _ = io.WriteString(c, tc.head)
				for range next {
					_, _ = io.WriteString(c, tc.before+event+tc.after)
				}
			})
			r.apply(record("a", instance("a-1", router.Ready, addr)))
			res, err := r.client().Get("http://a.localhost/") // the header comes before any event
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			buf := make([]byte, len(event))
			for range 5 {
				next <- struct{}{}
				if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != event {
					t.Fatalf("%q %v", buf, err)
				}
			}
			close(next)
		})
	}
}

// A conversation: the app answers each line of the request's body while the
// rest of it is still to come.
func TestBothWaysAtOnce(t *testing.T) {
	r := newRig(t, nil)
	r.app("a", func(w http.ResponseWriter, req *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.(http.Flusher).Flush()
		lines := bufio.NewScanner(req.Body)
		for lines.Scan() {
			fmt.Fprintf(w, "got %s\n", lines.Text())
			w.(http.Flusher).Flush()
		}
	})
	c, br := r.dial()
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
	var res *http.Response
	var lines *bufio.Reader
	for i := range 10 {
		line := fmt.Sprintf("line %d\n", i)
		fmt.Fprintf(c, "%x\r\n%s\r\n", len(line), line)
		if res == nil {
			var err error
			if res, err = http.ReadResponse(br, nil); err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			lines = bufio.NewReader(res.Body)
		}
		if got, err := lines.ReadString('\n'); got != "got "+line {
			t.Fatalf("%q %v", got, err)
		}
	}
	_, _ = io.WriteString(c, "0\r\n\r\n")
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		t.Errorf("%q %v", rest, err)
	}
	eventually(t, "the place is given back", func() bool { return r.admission("a").inFlight.Load() == 0 })
}

// An app may refuse an upload before it has read it. The client gets that
// answer, not a broken connection.
func TestAnswerBeforeTheBodyIsThrough(t *testing.T) {
	for name, framing := range map[string]string{
		"with a length": "Content-Length: 10000000\r\n\r\n",
		"in chunks":     "Transfer-Encoding: chunked\r\n\r\n989680\r\n",
	} {
		for what, unknown := range map[string]string{"by the app": "a.localhost", "by us": "nobody.localhost"} {
			t.Run(name+", "+what, func(t *testing.T) {
				r := newRig(t, nil)
				addr := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
					for line := ""; line != "\r\n"; {
						var err error
						if line, err = br.ReadString('\n'); err != nil {
							return
						}
					}
					_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 6\r\nConnection: close\r\n\r\nenough")
				})
				r.apply(record("a", instance("a-1", router.Ready, addr)))
				c, br := r.dial()
				_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+unknown+"\r\n"+framing)
				go func() {
					chunk := bytes.Repeat([]byte("x"), 10_000)
					for range 60 {
						if _, err := c.Write(chunk); err != nil {
							return // also a way to say enough
						}
					}
				}()
				res, body := readAnswer(t, br)
				if !res.Close {
					t.Error("the connection is to be used again")
				}
				if what == "by us" && res.StatusCode != 404 || what == "by the app" && (res.StatusCode != 413 || body != "enough") {
					t.Errorf("%d %q", res.StatusCode, body)
				}
				eventually(t, "the place is given back", func() bool { return r.admission("a").inFlight.Load() == 0 })
			})
		}
	}
}

// A connection that is closed with something unread is reset, and some clients
// forget an answer that a reset follows.
func TestRefusalIsNotFollowedByReset(t *testing.T) {
	r := newRig(t, nil)
	for range 10 {
		c, br := r.dial()
		body, _ := noise(200_000)
		_, _ = c.Write(fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: nobody.localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		if res, _ := readAnswer(t, br); res.StatusCode != 404 {
			t.Errorf("%d, want 404", res.StatusCode)
		}
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("after the answer: %v, want the end", err)
		}
		_ = c.Close()
	}
}

func TestExpectContinue(t *testing.T) {
	r := newRig(t, nil)
	r.app("a", func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		fmt.Fprint(w, req.Header.Get("Expect"), len(b))
	})
	for _, size := range []int{10, prefetched + 100} {
		c, br := r.dial()
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a.localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", size)
		line, _ := br.ReadString('\n')
		if !strings.HasPrefix(line, "HTTP/1.1 100 ") {
			t.Fatalf("%q", line)
		}
		_, _ = br.ReadString('\n')
		_, _ = io.WriteString(c, strings.Repeat("x", size))
		if res, body := readAnswer(t, br); res.StatusCode != 200 || body != fmt.Sprint(size) {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	}
}

// When the client goes while an answer streams, or while it waits for one, the
// app's connection is closed and the place given back.
func TestClientGoes(t *testing.T) {
	for name, answer := range map[string]string{
		"while the answer streams":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"before the first byte":      "",
		"while a silent body is due": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // noticing takes a few seconds
			r := newRig(t, nil)
			asked, gone := make(chan struct{}), make(chan struct{})
			addr := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
				_, _ = requestLine(br)
				_, _ = io.WriteString(c, answer)
				close(asked)
				if _, err := br.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the app's connection stays open")
				}
				close(gone)
			})
			r.apply(record("a", instance("a-1", router.Ready, addr)))
			c, _ := r.dial()
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
			<-asked
			_ = c.Close()
			<-gone
			eventually(t, "the place is given back", func() bool { return r.admission("a").inFlight.Load() == 0 })
		})
	}
}

// A client that goes in the middle of its upload takes the app's connection
// with it: the app must not take half a body for a whole one.
func TestClientGoesDuringUpload(t *testing.T) {
	for name, framing := range map[string]string{
		"with a length": "Content-Length: 1000000\r\n\r\n",
		"in chunks":     "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhel",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			seen := make(chan error, 1)
			r.app("a", func(_ http.ResponseWriter, req *http.Request) {
				_, err := io.Copy(io.Discard, req.Body)
				seen <- err
			})
			c, _ := r.dial()
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.localhost\r\n"+framing+strings.Repeat("x", 20_000*boolInt(strings.HasPrefix(framing, "Content"))))
			eventually(t, "the app has it", func() bool { return r.admission("a").inFlight.Load() == 1 })
			_ = c.Close()
			if err := <-seen; err == nil {
				t.Error("the app saw the end of a body that has none")
			}
		})
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
