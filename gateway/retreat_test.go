package gateway

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// The only instance has died and nobody has noticed: the first request that
// finds out is answered by the next instance, whatever its method.
func TestDeadInstanceIsReplacedUnseen(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			var r *rig
			var once sync.Once
			addr := server(t, hello)
			r = newRig(t, func(o *Options, f *fakeEngine) {
				o.Suspect = func(instance string) {
					if instance != "a-1" {
						t.Errorf("%q is suspected", instance)
					}
					once.Do(func() { go r.apply(record("a")) }) // its death is written down
				}
				f.wake = func(context.Context, string) (router.Wake, error) {
					r.apply(record("a", instance("a-2", router.Ready, addr)))
					return router.Wake{App: "a", Instance: "a-2", From: router.RungAbsent}, nil
				}
			})
			r.apply(record("a", instance("a-1", router.Ready, closedPort(t))))
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.http+"/", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "a.localhost"
			res, err := r.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Errorf("%d, want 200", res.StatusCode)
			}
			if in, waiting := r.edge.Load("a"); in != 0 || waiting != 0 {
				t.Errorf("%d places are held and %d wait after the answer", in, waiting)
			}
		})
	}
}

// An instance that is ready by all accounts and refuses connections all the
// same is tried for a while; then the app counts as not answering.
func TestInstanceThatRefusesForever(t *testing.T) {
	r := newRig(t, nil)
	r.apply(record("a", instance("a-1", router.Ready, closedPort(t))))
	if res, _ := r.get(r.client(), "http://a.localhost/"); res.StatusCode != http.StatusBadGateway {
		t.Errorf("%d, want 502", res.StatusCode)
	}
	if in, waiting := r.edge.Load("a"); in != 0 || waiting != 0 {
		t.Errorf("%d places are held and %d wait after the answer", in, waiting)
	}
}
