package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func (r *rig) shutdown(d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var err error
	r.stop.Do(func() { err = r.edge.Shutdown(ctx) })
	return err
}

// Under load, over kept and over new connections, with short and with long
// answers, a shutdown cuts no request: each client gets every answer whole, up
// to the one that says that the connection closes, or cannot connect any more.
func TestShutdownUnderLoad(t *testing.T) {
	r := newRig(t, nil)
	body, _ := noise(50_000)
	r.app("a", func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/long" {
			for i := range 10 {
				_, _ = w.Write(body[i*5000 : (i+1)*5000])
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond) // a stream takes its time
			}
			return
		}
		_, _ = io.WriteString(w, "hello")
	})
	var wg sync.WaitGroup
	var served, closed atomic.Int64
	for i := range 32 {
		path, want, kept := "/", 5, i%4 != 0
		if i%2 == 0 {
			path, want = "/long", len(body)
		}
		wg.Go(func() {
			for {
				c, err := net.Dial("tcp", r.http)
				if err != nil {
					return // nobody listens any more
				}
				br := bufio.NewReader(c)
				for {
					if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a.localhost\r\n\r\n"); err != nil {
						t.Errorf("cut while sending: %v", err)
						break
					}
					res, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Errorf("cut before the answer: %v", err)
						break
					}
					b, err := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if err != nil || len(b) != want || res.StatusCode != 200 {
						t.Errorf("cut: %d, %d of %d bytes, %v", res.StatusCode, len(b), want, err)
						break
					}
					served.Add(1)
					if res.Close {
						closed.Add(1)
						break
					}
					if !kept {
						break
					}
				}
				_ = c.Close()
			}
		})
	}
	eventually(t, "there is load", func() bool { return served.Load() > 300 })
	if err := r.shutdown(waitTime); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if closed.Load() == 0 {
		t.Error("nobody was told that the connection closes")
	}
}

// An idle connection, one that never said anything, and half a request do not
// hold a shutdown up for long, the first two not at all.
func TestShutdownClosesIdleConnections(t *testing.T) {
	r := newRig(t, nil)
	r.app("a", hello)
	r.dial()
	c, br := r.dial()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
	readAnswer(t, br)
	if err := r.shutdown(waitTime); err != nil {
		t.Error(err)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("%v, want the end", err)
	}
}

// Tunnels, streams without an end and requests that wait for an app are cut
// when the time is over, and everything is let go of.
func TestShutdownDeadline(t *testing.T) {
	r := newRig(t, func(_ *Options, f *fakeEngine) {
		f.wake = func(ctx context.Context, _ string) (router.Wake, error) {
			<-ctx.Done()
			return router.Wake{}, ctx.Err()
		}
	})
	r.apply(record("sleepy"))
	talkApp(r, "", func(_ net.Conn, br *bufio.Reader) { _, _ = io.Copy(io.Discard, br) })
	tunnel, br := r.dial()
	_, _ = io.WriteString(tunnel, upgradeRequest)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("%v %v", res, err)
	}
	forever := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
		_, _ = requestLine(br)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nbegin")
		_, _ = br.ReadByte()
	})
	r.apply(record("b", instance("b-1", router.Ready, forever)))
	stream, _ := r.dial()
	_, _ = io.WriteString(stream, "GET / HTTP/1.1\r\nHost: b.localhost\r\n\r\n")
	waits, _ := r.dial()
	_, _ = io.WriteString(waits, "GET / HTTP/1.1\r\nHost: sleepy.localhost\r\n\r\n")
	eventually(t, "all are there", func() bool {
		return r.waiting("sleepy") == 1 && r.admission("a").inFlight.Load() == 1 && r.admission("b").inFlight.Load() == 1
	})
	if err := r.shutdown(200 * time.Millisecond); err == nil {
		t.Error("no error")
	}
	for name, c := range map[string]net.Conn{"tunnel": tunnel, "stream": stream, "wait": waits} {
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the %s is still open", name)
		}
	}
	for _, app := range []string{"a", "b"} {
		if n := r.admission(app).inFlight.Load(); n != 0 {
			t.Errorf("%d places of %s are still taken", n, app)
		}
	}
}
