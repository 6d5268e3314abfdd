package gateway

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/fluxgate/fluxgate/router"
)

// wish is one call of Options.Busy.
type wish struct {
	app, instance string
	until         time.Time
}

// What an app says of being busy reaches the controller and not the client.
func TestBusyHeader(t *testing.T) {
	for name, tc := range map[string]struct {
		says  string
		until time.Duration // from now; 0: nothing is asked
	}{
		"a duration":       {says: "90s", until: 90 * time.Second},
		"seconds":          {says: "45", until: 45 * time.Second},
		"longer than ever": {says: "9000h", until: 9000 * time.Hour}, // the controller cuts it
		"nonsense":         {says: "as long as I like"},
		"nothing":          {},
		"not busy at all":  {says: "0"},
	} {
		t.Run(name, func(t *testing.T) {
			wishes := make(chan wish, 10)
			r := newRig(t, func(o *Options, _ *fakeEngine) {
				o.Busy = func(app, instance string, until time.Time) { wishes <- wish{app, instance, until} }
			})
			r.app("a", func(w http.ResponseWriter, _ *http.Request) {
				if tc.says != "" {
					w.Header().Set("Fluxgate-Busy", tc.says)
				}
				_, _ = io.WriteString(w, "ok")
			})
			before := time.Now()
			res, body := r.get(r.client(), "http://a.localhost/")
			after := time.Now()
			if res.StatusCode != 200 || body != "ok" || len(res.Header.Values("Fluxgate-Busy")) != 0 {
				t.Errorf("%d %q, Fluxgate-Busy %q", res.StatusCode, body, res.Header.Get("Fluxgate-Busy"))
			}
			if tc.until == 0 {
				if len(wishes) != 0 {
					t.Errorf("asked: %v", <-wishes)
				}
				return
			}
			w := <-wishes
			if w.app != "a" || w.instance != "a-1" || w.until.Before(before.Add(tc.until)) || w.until.After(after.Add(tc.until)) {
				t.Errorf("asked: %+v", w)
			}
		})
	}
}

func TestLeaseIsAskedForOnce(t *testing.T) {
	now := time.Now()
	const longest = 10 * time.Minute
	at := func(d time.Duration) time.Time { return now.Add(d) }
	for name, tc := range map[string]struct {
		has, asks time.Duration // 0: none
		want      bool
	}{
		"the first":                    {0, time.Minute, true},
		"the same again":               {time.Minute, time.Minute, false},
		"a little longer":              {time.Minute, time.Minute + 900*time.Millisecond, false},
		"longer":                       {time.Minute, time.Minute + 2*time.Second, true},
		"shorter":                      {time.Minute, 30 * time.Second, false},
		"its end":                      {time.Minute, 0, true},
		"the end of none":              {0, 0, false},
		"the end of one that is over":  {-time.Minute, 0, false},
		"after one that is over":       {-time.Minute, 2 * time.Second, true},
		"more than the policy gives":   {longest - 10*time.Second, time.Hour, false},
		"more than it gives, later on": {longest - time.Minute, time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := place()
			if tc.has != 0 {
				u.leased(at(tc.has))
			}
			if got := u.lease(at(tc.asks), now, longest); got != tc.want {
				t.Errorf("asked for: %v, want %v", got, tc.want)
			}
		})
	}
}

// However many answers say so, one lease is one wish.
func TestBusyRace(t *testing.T) {
	wishes := make(chan wish, 1000)
	until := strconv.FormatInt(time.Now().Add(time.Minute).Unix(), 10)
	r := newRig(t, func(o *Options, _ *fakeEngine) {
		o.Busy = func(app, instance string, until time.Time) { wishes <- wish{app, instance, until} }
	})
	addr := r.app("a", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Fluxgate-Busy", until) })
	var wg sync.WaitGroup
	c := r.client()
	for range 8 {
		wg.Go(func() {
			for range 50 {
				r.get(c, "http://a.localhost/")
			}
		})
	}
	wg.Wait()
	if len(wishes) != 1 {
		t.Fatalf("%d wishes, want 1", len(wishes))
	}
	// The record says what was granted; without it the instance has none.
	r.apply(record("a", instance("a-1", router.Ready, addr)))
	r.get(c, "http://a.localhost/")
	if len(wishes) != 2 {
		t.Errorf("%d wishes after the lease was gone, want 2", len(wishes))
	}
}

func BenchmarkFinishHead(b *testing.B) {
	r := newRig(b, nil)
	r.apply(record("a", instance("a-1", router.Ready, "127.0.0.1:1")))
	a := r.admission("a")
	x := &exchange{edge: r.edge, target: a.target.Load(), up: a.target.Load().endpoints[0]}
	x.newID()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 62\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nCache-Control: no-store\r\nEtag: \"abc\"\r\nVary: Accept\r\n\r\n"
	ctx := new(fasthttp.RequestCtx)
	x.ctx = ctx
	br := reader(nil)
	src := []byte(head)
	b.ReportAllocs()
	for b.Loop() {
		br.Reset(&onceReader{src})
		if err := ctx.Response.Header.Read(br); err != nil {
			b.Fatal(err)
		}
		x.finishHead(&ctx.Response.Header)
	}
}

type onceReader struct{ left []byte }

func (r *onceReader) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}
