package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/fasthttp/websocket"

	"github.com/fluxgate/fluxgate/router"
)

func TestWebSocket(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(o *Options, f *fakeEngine) {
				if secure {
					withTLS(t)(o, f)
				}
			})
			up := websocket.Upgrader{Subprotocols: []string{"echo"}}
			r.app("a", func(w http.ResponseWriter, req *http.Request) {
				c, err := up.Upgrade(w, req, nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				for {
					kind, msg, err := c.ReadMessage()
					if err != nil {
						return
					}
					if c.WriteMessage(kind, msg) != nil {
						return
					}
				}
			})
			d := websocket.Dialer{Subprotocols: []string{"echo"}, NetDial: func(string, string) (net.Conn, error) {
				if secure {
					return r.dialTLS("a.localhost"), nil
				}
				c, _ := r.dial()
				return c, nil
			}}
			// The dialer makes the connection itself, TLS included.
			c, res, err := d.Dial("ws://a.localhost/ws", http.Header{"Origin": {"http://a.localhost"}})
			if err != nil {
				t.Fatal(err)
			}
			if res.Header.Get("Sec-Websocket-Protocol") != "echo" || len(res.Header.Get("X-Request-Id")) != 32 {
				t.Errorf("%v", res.Header)
			}
			for _, msg := range []string{"hello", strings.Repeat("x", 100_000), ""} {
				if err := c.WriteMessage(websocket.TextMessage, []byte(msg)); err != nil {
					t.Fatal(err)
				}
				if _, got, err := c.ReadMessage(); err != nil || string(got) != msg {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
			}
			if n := r.admission("a").inFlight.Load(); n != 1 {
				t.Errorf("%d in flight, want 1 for as long as it is open", n)
			}
			_ = c.Close()
			eventually(t, "the place is given back", func() bool { return r.admission("a").inFlight.Load() == 0 })
		})
	}
}

const upgradeRequest = "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: talk/1\r\n\r\n"

// talkApp upgrades to a protocol of its own and runs talk.
func talkApp(r *rig, early string, talk func(c net.Conn, br *bufio.Reader)) {
	addr := rawApp(r.t, func(_ int, c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") != "talk/1" || req.Header.Get("Connection") != "Upgrade" {
			r.t.Errorf("the app got %v", req.Header)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: talk/1\r\nConnection: Upgrade\r\n\r\n"+early)
		talk(c, br)
	})
	r.apply(record("a", instance("a-1", router.Ready, addr)))
}

// Either side may end its sending and go on receiving, and what either side
// sends together with its half of the handshake is not lost.
func TestTunnelHalfClose(t *testing.T) {
	r := newRig(t, nil)
	talkApp(r, "early ", func(c net.Conn, br *bufio.Reader) {
		all, _ := io.ReadAll(br) // until the client ends its sending
		_, _ = io.WriteString(c, "you said "+string(all))
	})
	c, br := r.dial()
	_, _ = io.WriteString(c, upgradeRequest+"first ")
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "talk/1" || !strings.EqualFold(res.Header.Get("Connection"), "upgrade") {
		t.Fatalf("%v %v", res, err)
	}
	_, _ = io.WriteString(c, "second")
	_ = c.(*net.TCPConn).CloseWrite()
	all, err := io.ReadAll(br)
	if string(all) != "early you said first second" || err != nil {
		t.Errorf("%q %v", all, err)
	}
	eventually(t, "the place is given back", func() bool { return r.admission("a").inFlight.Load() == 0 })
}

// When one side of a tunnel breaks, the other does not stay behind.
func TestTunnelBreaks(t *testing.T) {
	for name, appBreaks := range map[string]bool{"the app's side": true, "the client's side": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			ended := make(chan struct{})
			talkApp(r, "", func(c net.Conn, br *bufio.Reader) {
				defer close(ended)
				if appBreaks {
					_ = c.(*net.TCPConn).SetLinger(0)
					_ = c.Close() // with a reset
					return
				}
				_, _ = io.Copy(io.Discard, br)
			})
			c, br := r.dial()
			_, _ = io.WriteString(c, upgradeRequest)
			if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
				t.Fatalf("%v %v", res, err)
			}
			if appBreaks {
				_, _ = io.Copy(io.Discard, br) // ends
			} else {
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
			<-ended
			eventually(t, "the place is given back", func() bool { return r.admission("a").inFlight.Load() == 0 })
		})
	}
}

// An app may answer a request for an upgrade as any other.
func TestUpgradeDeclined(t *testing.T) {
	r := newRig(t, nil)
	r.app("a", hello)
	c, br := r.dial()
	for range 2 {
		_, _ = io.WriteString(c, upgradeRequest)
		if res, body := readAnswer(t, br); res.StatusCode != 200 || body != "hello" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	}
}
