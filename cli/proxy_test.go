package cli_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// engineProxy stands between gateways and one Podman. Every call goes through
// it, and a test may have something happen at exactly one of them, or have all
// be accepted and never answered.
type engineProxy struct {
	url    string // unix://
	server *http.Server

	mu    sync.Mutex
	trap  *trap
	muted chan struct{} // closed when calls are answered again; nil: they are
}

// trap is sprung by the first call that matches.
type trap struct {
	call   *regexp.Regexp // of "METHOD path"
	before bool           // the call does not reach Podman; else its answer does not come back
	do     func()
	sprung chan struct{}
}

// newEngineProxy leads to the Podman at a unix:// URL.
func newEngineProxy(t *testing.T, dir, to string) *engineProxy {
	t.Helper()
	socket := filepath.Join(dir, "proxy.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p := &engineProxy{url: "unix://" + socket}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "d"})
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(to, "unix://"))
		}},
		FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			p.spring(r.Request, false)
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		muted := p.muted
		p.mu.Unlock()
		if muted != nil {
			select {
			case <-muted:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		}
		if p.spring(r, true) {
			panic(http.ErrAbortHandler)
		}
		forward.ServeHTTP(w, r)
	})}
	go func() { _ = p.server.Serve(ln) }() // until it is closed
	t.Cleanup(func() {
		p.mute(false)
		_ = p.server.Close()
	})
	return p
}

// at has do be called at the next call that matches. sprung is closed when that
// is done.
func (p *engineProxy) at(call string, before bool, do func()) (sprung chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = &trap{regexp.MustCompile(call), before, do, make(chan struct{})}
	return p.trap.sprung
}

func (p *engineProxy) spring(r *http.Request, before bool) bool {
	p.mu.Lock()
	t := p.trap
	if t == nil || t.before != before || !t.call.MatchString(r.Method+" "+r.URL.Path) {
		p.mu.Unlock()
		return false
	}
	p.trap = nil
	p.mu.Unlock()
	t.do()
	close(t.sprung)
	return true
}

// mute makes Podman take calls and never answer, or ends that. What is under
// way is cut off by neither.
func (p *engineProxy) mute(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case on && p.muted == nil:
		p.muted = make(chan struct{})
	case !on && p.muted != nil:
		close(p.muted)
		p.muted = nil
	}
}
