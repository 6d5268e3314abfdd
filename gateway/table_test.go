package gateway

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/fluxgate/fluxgate/router"
)

// Apps come, change, scale and go while requests for others and for them run.
func TestUpdatesDuringRequests(t *testing.T) {
	r := newRig(t, nil)
	r.app("steady", hello)
	addr := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "moving") })
	stop := make(chan struct{})
	var changing, asking sync.WaitGroup
	for i := range 2 {
		app := fmt.Sprintf("moving-%d", i)
		changing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				var ins []router.Instance
				for k := range n%3 + 1 {
					ins = append(ins, instance(fmt.Sprintf("%s-%d", app, n+k), router.Ready, addr))
				}
				st := record(app, ins...)
				st.App.Domains = []string{fmt.Sprintf("d%d.%s.example.com", n%5, app)}
				st.Deleted = n%10 == 9
				r.applyLocked(st)
			}
		})
	}
	for i := range 8 {
		c := r.client()
		asking.Go(func() {
			for n := range 50 {
				if res, body := r.get(c, "http://steady.localhost/"); res.StatusCode != 200 || body != "hello" {
					t.Errorf("steady: %d %q", res.StatusCode, body)
				}
				// Between a deletion and the next record it is not there.
				res, body := r.get(c, fmt.Sprintf("http://moving-%d.localhost/", (i+n)%2))
				if (res.StatusCode != 200 || body != "moving") && res.StatusCode != 404 {
					t.Errorf("moving: %d %q", res.StatusCode, body)
				}
			}
		})
	}
	asking.Wait()
	close(stop)
	changing.Wait()
}

// applyLocked is apply for several goroutines: versions reach the Catalog in
// order, as they do from the change stream.
func (r *rig) applyLocked(st router.AppState) {
	r.applying.Lock()
	defer r.applying.Unlock()
	r.apply(st)
}

// An app has names once it has a release that serves, and no longer than that.
func TestNamesOfAnAppWithoutARelease(t *testing.T) {
	r := newRig(t, nil)
	st := record("a", instance("a-1", router.Ready, server(t, hello)))
	c := r.client()
	for _, step := range []struct{ current, status int }{{0, 404}, {1, 200}, {0, 404}} {
		st.App.Current = step.current
		r.apply(st)
		if res, _ := r.get(c, "http://a.localhost/"); res.StatusCode != step.status {
			t.Errorf("release %d serves: %d, want %d", step.current, res.StatusCode, step.status)
		}
	}
}

func TestClassify(t *testing.T) {
	for name, want := range map[string]class{
		"Accept": pass, "X-Forward": pass, "X-Forwardedfor": pass, "Content-Type": pass, "Cookie": pass, "": pass,
		"Host": essential, "hOST": essential,
		"Connection": hopConnection, "Upgrade": hopUpgrade, "Content-Length": framingLength, "transfer-encoding": framingEncoding,
		"TE": drop, "Trailer": drop, "Keep-Alive": drop, "Proxy-Connection": drop, "Proxy-Authorization": drop, "Proxy-Authenticate": drop, "Proxy": drop,
		"Expect": drop, "Forwarded": drop, "X-Forwarded-For": drop, "x_forwarded_proto": drop, "X-Forwarded-": drop, "X-Real-IP": drop, "X_Request_Id": drop,
		"True-Client-IP": drop, "X-Client-IP": drop, "X-Cluster-Client-Ip": drop,
	} {
		if got := classify([]byte(name)); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}

// Whatever header arrives: what goes to the app is one request, the same one,
// with our own word for where it came from and nobody else's.
func FuzzRequestHead(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
		"POST /x?y HTTP/1.1\r\nHost: a.localhost:80\r\nContent-Length: 0\r\nX-Forwarded-For: x\r\nConnection: close, x\r\nX: y\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET http://b/ HTTP/1.0\r\nHost: a\r\nX_Real_Ip: 1\r\n x\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\nA:b\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var ctx fasthttp.RequestCtx
		h := &ctx.Request.Header
		if h.Read(reader(data)) != nil {
			return
		}
		x := &exchange{ctx: &ctx, conn: &conn{head: []byte("X-Forwarded-For: us\r\nX-Forwarded-Proto: http\r\n")}}
		x.newID()
		if x.readHead(h) != "" {
			return
		}
		x.readTarget()
		if _, ok := router.NormalizeHost(x.name[:0], x.host); !ok {
			return
		}
		out := x.appendHead(nil)
		var again fasthttp.RequestHeader
		br := reader(append(out, "rest"...))
		if err := again.Read(br); err != nil {
			t.Fatalf("%q became %q: %v", data, out, err)
		}
		if n := br.Buffered(); n != len("rest") {
			t.Fatalf("%q became %q, which ends %d bytes before its end", data, out, n-len("rest"))
		}
		if want := max(x.length, 0); again.ContentLength() != x.length && max(again.ContentLength(), 0) != want {
			t.Errorf("%q: length %d became %d", data, x.length, again.ContentLength())
		}
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id", "Host"} {
			if n := len(again.PeekAll(name)); n != 1 {
				t.Errorf("%q became %q: %d times %s", data, out, n, name)
			}
		}
		for _, name := range []string{"Forwarded", "X-Real-Ip", "Proxy", "Te", "Trailer", "Keep-Alive", "X_forwarded_for"} {
			if again.Peek(name) != nil {
				t.Errorf("%q became %q: %s is left", data, out, name)
			}
		}
		if again.ContentLength() == -1 && again.Peek("Content-Length") != nil {
			t.Errorf("%q became %q: two lengths", data, out)
		}
	})
}

// Whatever an Accept or Connection field holds, taking it apart ends.
func FuzzFieldLists(f *testing.F) {
	f.Add([]byte("close, keep-alive,, x ,\t"))
	f.Fuzz(func(t *testing.T, v []byte) {
		var x exchange
		x.nominate(v)
		for _, n := range x.nominated {
			if len(n) == 0 || len(trim(n)) != len(n) {
				t.Errorf("%q names %q", v, n)
			}
		}
		_ = namesClose(v)
		_ = prefersJSON(v)
	})
}
