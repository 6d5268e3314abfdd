package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fluxgate/fluxgate/router"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// certmagic's own job queue and rate limits live as long as the process.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*jobManager).worker"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
		// fasthttp refreshes its Date header for as long as the process lives.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	)
}

// waitTime bounds every wait of these tests. Nothing is expected to take
// anywhere near as long.
const waitTime = 20 * time.Second

// fakeEngine is everything around the Edge, as functions.
type fakeEngine struct {
	wake  func(ctx context.Context, app string) (router.Wake, error)
	flush func(ctx context.Context, gateway string, second time.Time, samples map[string]router.Sample) error
	ack   func(ctx context.Context, gateway, instance string) error
}

func (f *fakeEngine) Wake(ctx context.Context, app string) (router.Wake, error) {
	return f.wake(ctx, app)
}

func (f *fakeEngine) FlushRates(ctx context.Context, gateway string, second time.Time, samples map[string]router.Sample) error {
	return f.flush(ctx, gateway, second, samples)
}

func (f *fakeEngine) AckDrain(ctx context.Context, gateway, instance string) error {
	return f.ack(ctx, gateway, instance)
}

// rig is an Edge with listeners on loopback, a Catalog and a fake rest.
type rig struct {
	*fakeEngine
	t        testing.TB
	edge     *Edge
	catalog  *router.Catalog
	http     string // address
	https    string // address, empty without TLS
	version  atomic.Uint64
	applying sync.Mutex
	stop     sync.Once
}

// newRig starts an Edge. change may be nil.
func newRig(t testing.TB, change func(*Options, *fakeEngine)) *rig {
	t.Helper()
	r := &rig{t: t, catalog: router.NewCatalog(), fakeEngine: &fakeEngine{
		wake: func(context.Context, string) (router.Wake, error) {
			return router.Wake{}, router.Errorf(router.CodeUnavailable, "nobody wakes apps in this test")
		},
		flush: func(context.Context, string, time.Time, map[string]router.Sample) error { return nil },
		ack:   func(context.Context, string, string) error { return nil },
	}}
	opts := Options{
		Gateway: "g1", Domain: "localhost", Catalog: r.catalog,
		Waker: r.fakeEngine, Rates: r.fakeEngine, Acks: r.fakeEngine,
		HTTP: listen(t), PlainHTTP: true, Logger: testLog(t),
	}
	if change != nil {
		change(&opts, r.fakeEngine)
	}
	edge, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	r.edge, r.http = edge, opts.HTTP.Addr().String()
	if opts.HTTPS != nil {
		r.https = opts.HTTPS.Addr().String()
	}
	edge.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitTime)
		defer cancel()
		r.stop.Do(func() {
			if err := edge.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		})
	})
	return r
}

func withTLS(t testing.TB) func(*Options, *fakeEngine) {
	t.Helper()
	return func(o *Options, _ *fakeEngine) {
		o.HTTPS = listen(t)
		o.PlainHTTP = false
		o.Certificates = newMemStore()
	}
}

func testLog(t testing.TB) *slog.Logger {
	t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// record is an app's record with one release that serves.
func record(app string, instances ...router.Instance) router.AppState {
	p := router.DefaultPolicy()
	return router.AppState{
		App:       router.App{Name: app, Current: 1, Next: 1, Policy: p},
		Releases:  []router.Release{{App: app, Number: 1, Run: router.DefaultRun()}},
		Instances: instances,
	}
}

// instance is one of release 1.
func instance(id string, state router.InstanceState, addr string) router.Instance {
	return router.Instance{ID: id, Release: 1, State: state, Addr: addr}
}

// apply puts a record into the Catalog with the next version.
func (r *rig) apply(st router.AppState) {
	st = st.Clone()
	st.Version = r.version.Add(1)
	for i := range st.Instances {
		st.Instances[i].App = st.App.Name
	}
	r.catalog.Apply(st)
}

// app starts a server that answers with h, as the only instance of an app.
func (r *rig) app(name string, h http.HandlerFunc) string {
	r.t.Helper()
	s := httptest.NewServer(h)
	r.t.Cleanup(s.Close)
	addr := s.Listener.Addr().String()
	r.apply(record(name, instance(name+"-1", router.Ready, addr)))
	return addr
}

// client is an HTTP client whose every address leads to the rig's plain
// listener. It follows no redirects.
func (r *rig) client() *http.Client {
	r.t.Helper()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", r.http)
		},
		MaxIdleConnsPerHost: 2000,
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport: tr, Timeout: waitTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get fetches a URL and returns the answer with its body read.
func (r *rig) get(c *http.Client, url string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.do(c, req)
}

func (r *rig) do(c *http.Client, req *http.Request) (*http.Response, string) {
	r.t.Helper()
	res, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(body)
}

// dial opens a raw connection to the plain listener.
func (r *rig) dial() (net.Conn, *bufio.Reader) {
	r.t.Helper()
	c, err := net.Dial("tcp", r.http)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(waitTime))
	return c, bufio.NewReader(c)
}

// raw sends text on a connection of its own and reads one answer.
func (r *rig) raw(text string) (*http.Response, string) {
	r.t.Helper()
	c, br := r.dial()
	if _, err := io.WriteString(c, text); err != nil {
		r.t.Fatal(err)
	}
	return readAnswer(r.t, br)
}

func readAnswer(t testing.TB, br *bufio.Reader) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the body: %v", err)
	}
	return res, string(body)
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(waitTime)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// rawApp accepts connections and hands each to serve in a goroutine of its own.
func rawApp(t testing.TB, serve func(n int, c net.Conn, br *bufio.Reader)) string {
	t.Helper()
	ln := listen(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Add(1)
	go func() {
		defer wg.Done()
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(waitTime))
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				serve(n, c, bufio.NewReader(c))
			}()
		}
	}()
	return ln.Addr().String()
}

func ok(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func reader(b []byte) *bufio.Reader { return bufio.NewReaderSize(bytes.NewReader(b), readBuffer) }
