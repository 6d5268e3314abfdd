package podman

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// A container reaches this machine at the address that it was told, and is seen
// there under its own.
func TestContainersReachTheHost(t *testing.T) {
	const port = 4077
	n := connect(t, func(o *Options) { o.BusyPort = port })
	if !n.Node().Facts.Direct {
		_, err := n.HostAddress(t.Context())
		wantCode(t, err, router.CodeNotFound)
		t.Skip("containers are not reached at their own addresses here, as without root")
	}
	in, addr := running(t, n, release(appImage(t, n)))
	host, err := n.HostAddress(t.Context())
	must(t, err)
	type call struct{ from, path, body string }
	calls := make(chan call, 1)
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "4077"))
	must(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		calls <- call{from, r.URL.Path, string(body)}
		w.WriteHeader(http.StatusNoContent)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln)
	}()
	defer func() {
		_ = server.Close()
		<-done
	}()
	if got := get(addr, "/busy/90s"); !strings.HasPrefix(got, "204") {
		t.Fatalf("the app's call: %s", got)
	}
	own, _, _ := net.SplitHostPort(addr)
	if got, want := <-calls, (call{own, "/busy/" + in.App + "/" + in.ID, "90s"}); got != want {
		t.Errorf("called %+v, want %+v", got, want)
	}
}
