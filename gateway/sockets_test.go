package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/fasthttp/websocket"

	"github.com/fluxgate/fluxgate/router"
)

// socket is a connection that a client holds open: say sends a line through the
// instance and reads it back.
type socket struct {
	say   func(line string) error
	close func()
}

// An instance with a connection open through a gateway is not acknowledged as
// drained, so that nobody freezes it; where the policy allows freezing it, the
// connection outlives the drain.
func TestOpenSocketsAndDrains(t *testing.T) {
	for kind, open := range map[string]func(*rig, chan string) socket{"WebSocket": openWebSocket, "event stream": openEvents} {
		for _, freeze := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, freeze_sockets %v", kind, freeze), func(t *testing.T) {
				ack := &acks{}
				r := newRig(t, func(_ *Options, f *fakeEngine) { f.ack = ack.ack })
				events := make(chan string, 10)
				addr := server(t, socketApp(t, events))
				st := func(state router.InstanceState) router.AppState {
					st := record("a", instance("a-1", state, addr))
					st.App.Policy.FreezeSockets = freeze
					return st
				}
				r.apply(st(router.Ready))
				s := open(r, events)
				if err := s.say("one"); err != nil {
					t.Fatal(err)
				}
				want := int64(1)
				if freeze {
					want = 0
				}
				eventually(t, "it counts as it should", func() bool { return r.admission("a").inFlight.Load() == want })
				r.apply(st(router.Draining))
				// Another instance's drain is acknowledged meanwhile, so this one's would
				// have been, too.
				r.apply(record("b", instance("b-1", router.Draining, "127.0.0.1:1")))
				eventually(t, "b-1 is acknowledged", func() bool { return ack.count("b-1") == 1 })
				if freeze {
					eventually(t, "it is acknowledged", func() bool { return ack.count("a-1") == 1 })
				} else if ack.count("a-1") != 0 {
					t.Error("acknowledged although a connection is open")
				}
				if err := s.say("two"); err != nil {
					t.Errorf("after the drain began: %v", err)
				}
				r.apply(st(router.Ready))
				if err := s.say("three"); err != nil {
					t.Errorf("after it serves again: %v", err)
				}
				r.apply(st(router.Draining))
				s.close()
				eventually(t, "it is acknowledged in the end", func() bool { return ack.count("a-1") > 0 })
			})
		}
	}
}

// What is open into a machine that was lost is cut, though it holds no place.
func TestSocketsOfTheGoneAreCut(t *testing.T) {
	r := newRig(t, nil)
	events := make(chan string, 10)
	addr := server(t, socketApp(t, events))
	st := record("a", instance("a-1", router.Ready, addr))
	st.App.Policy.FreezeSockets = true
	r.apply(st)
	s := openWebSocket(r, events)
	if err := s.say("one"); err != nil {
		t.Fatal(err)
	}
	st.Instances = nil
	r.apply(st)
	eventually(t, "it is cut", func() bool { return s.say("more") != nil })
	s.close()
}

// socketApp echoes WebSocket messages, and streams what comes from events.
func socketApp(t *testing.T, events <-chan string) http.HandlerFunc {
	t.Helper()
	var up websocket.Upgrader
	return func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			w.(http.Flusher).Flush()
			for {
				select {
				case e := <-events:
					_, _ = io.WriteString(w, "data: "+e+"\n\n")
					w.(http.Flusher).Flush()
				case <-req.Context().Done():
					return
				}
			}
		}
		c, err := up.Upgrade(w, req, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for {
			kind, msg, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, msg) != nil {
				return
			}
		}
	}
}

func openWebSocket(r *rig, _ chan string) socket {
	r.t.Helper()
	d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) {
		c, _ := r.dial()
		return c, nil
	}}
	c, _, err := d.Dial("ws://a.localhost/ws", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return socket{close: func() { _ = c.Close() }, say: func(line string) error {
		if err := c.WriteMessage(websocket.TextMessage, []byte(line)); err != nil {
			return err
		}
		_, got, err := c.ReadMessage()
		if err == nil && string(got) != line {
			return fmt.Errorf("got %q", got)
		}
		return err
	}}
}

func openEvents(r *rig, events chan string) socket {
	r.t.Helper()
	c, br := r.dial()
	_, _ = io.WriteString(c, "GET /events HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	body := bufio.NewReader(res.Body)
	return socket{close: func() { _ = c.Close() }, say: func(line string) error {
		events <- line
		for {
			got, err := body.ReadString('\n')
			if err != nil {
				return err
			}
			if strings.TrimSpace(got) == "data: "+line {
				return nil
			}
		}
	}}
}
