package api_test

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/gateway/api/apitest"
	"github.com/fluxgate/fluxgate/router"
)

func TestClientSaysWhatIsWrong(t *testing.T) {
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nginx", http.StatusBadGateway) }))
	t.Cleanup(other.Close)
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, `{"version":`)
	}))
	t.Cleanup(cut.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	tests := map[string]struct {
		opts api.ClientOptions
		say  string
	}{
		"nobody listens":    {api.ClientOptions{URL: "http://" + closed.Addr().String()}, "fluxgate up"},
		"no socket":         {api.ClientOptions{URL: "https://fluxgate.localhost", Address: "unix:///nowhere/api.sock"}, "/nowhere/api.sock"},
		"unknown authority": {api.ClientOptions{URL: secure.URL}, "--ca"},
		"wrong name":        {api.ClientOptions{URL: "https://fluxgate.test", Address: secure.Listener.Addr().String(), RootPEM: root}, "another name"},
		"not a gateway":     {api.ClientOptions{URL: other.URL}, "not as a Fluxgate control API"},
		"cut":               {api.ClientOptions{URL: cut.URL}, "broke off"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.opts.Token = router.NewSecret("fgt_0123456789ab_secret")
			c, err := api.NewClient(test.opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.Info(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.say) || strings.Contains(err.Error(), "_secret") {
				t.Errorf("error %v does not say %q", err, test.say)
			}
		})
	}
	for _, url := range []string{"", "fluxgate.example.com", "ftp://x", "https://user:pass@x", "https://"} {
		if _, err := api.NewClient(api.ClientOptions{URL: url}); err == nil {
			t.Errorf("%q is taken for an address", url)
		}
	}
	if _, err := api.NewClient(api.ClientOptions{URL: "https://x", RootPEM: []byte("no PEM")}); err == nil {
		t.Error("any text is taken for a certificate")
	}
}

func TestClientWays(t *testing.T) {
	r := apitest.Start(t)
	port := r.URL[strings.LastIndexByte(r.URL, ':')+1:]
	dir, err := os.MkdirTemp("", "fg") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "api.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: r.Server}
	go func() { _ = hs.Serve(ln) }()
	t.Cleanup(func() { _ = hs.Close() })
	for name, opts := range map[string]api.ClientOptions{
		"another address": {URL: "http://fluxgate.test", Address: "127.0.0.1:" + port},
		"localhost names": {URL: "http://fluxgate.localhost:" + port},
		"socket":          {URL: "https://fluxgate.localhost:8443", Address: "unix://" + socket},
	} {
		t.Run(name, func(t *testing.T) {
			opts.Token = r.Token
			c, err := api.NewClient(opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if info, err := c.Info(t.Context()); err != nil || info.Token != "admin" {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
}
