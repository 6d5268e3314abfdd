package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// A request waits on a machine that was lost: its record goes, and the wait
// ends at once. What may be tried elsewhere is (contract 3), what may not gets
// 502.
func TestInstanceWithoutARecordIsCut(t *testing.T) {
	for name, tt := range map[string]struct {
		request string
		status  int
	}{
		"GET":  {"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n", http.StatusOK},
		"POST": {"POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 2\r\n\r\nhi", http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			waiting, hung := make(chan struct{}, 1), make(chan struct{})
			defer close(hung)
			silent := rawApp(t, func(_ int, _ net.Conn, br *bufio.Reader) {
				if _, err := requestLine(br); err == nil {
					waiting <- struct{}{}
					<-hung
				}
			})
			other := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
				if _, err := requestLine(br); err == nil {
					_, _ = io.WriteString(c, ok("elsewhere"))
				}
			})
			r.apply(record("a", instance("a-1", router.Ready, silent)))
			answer := make(chan *http.Response, 1)
			go func() {
				res, _ := r.raw(tt.request)
				answer <- res
			}()
			<-waiting
			r.apply(record("a", instance("a-2", router.Ready, other)))
			if res := <-answer; res.StatusCode != tt.status {
				t.Errorf("%d, want %d", res.StatusCode, tt.status)
			}
		})
	}
}

// A scale-down is not cut: its record stays until the last request has ended.
func TestDrainingInstanceIsNotCut(t *testing.T) {
	r := newRig(t, nil)
	waiting, finish := make(chan struct{}, 1), make(chan struct{})
	slow := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
		if _, err := requestLine(br); err == nil {
			waiting <- struct{}{}
			<-finish
			_, _ = io.WriteString(c, ok("done"))
		}
	})
	r.apply(record("a", instance("a-1", router.Ready, slow)))
	answer := make(chan string, 1)
	go func() {
		_, body := r.raw("POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 2\r\n\r\nhi")
		answer <- body
	}()
	<-waiting
	r.apply(record("a", instance("a-1", router.Draining, slow)))
	close(finish)
	if body := <-answer; body != "done" {
		t.Errorf("the request that was under way got %q", body)
	}
}

// A gateway that stood still for a while sends a request to an instance that was
// frozen meanwhile: the app is woken, and the request goes on there, or elsewhere
// where that is not possible.
func TestRequestInAFrozenInstance(t *testing.T) {
	for name, thaws := range map[string]bool{"it is thawed": true, "another is started": false} {
		t.Run(name, func(t *testing.T) {
			var r *rig
			waiting, thawed := make(chan struct{}, 1), make(chan struct{})
			frozen := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
				if _, err := requestLine(br); err == nil {
					waiting <- struct{}{}
					<-thawed
					_, _ = io.WriteString(c, ok("thawed"))
				}
			})
			other := rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
				if _, err := requestLine(br); err == nil {
					_, _ = io.WriteString(c, ok("elsewhere"))
				}
			})
			r = newRig(t, func(_ *Options, f *fakeEngine) {
				f.wake = func(context.Context, string) (router.Wake, error) {
					if thaws {
						r.apply(record("a", instance("a-1", router.Ready, frozen)))
						close(thawed)
					} else {
						r.apply(record("a", instance("a-1", router.Frozen, frozen), instance("a-2", router.Ready, other)))
					}
					return router.Wake{}, nil
				}
			})
			if !thaws {
				defer close(thawed)
			}
			r.apply(record("a", instance("a-1", router.Ready, frozen)))
			answer := make(chan string, 1)
			go func() {
				_, body := r.raw("GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
				answer <- body
			}()
			<-waiting
			r.apply(record("a", instance("a-1", router.Frozen, frozen)))
			if got, want := <-answer, map[bool]string{true: "thawed", false: "elsewhere"}[thaws]; got != want {
				t.Errorf("answered %q, want %q", got, want)
			}
		})
	}
}
