package gateway

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/fluxgate/fluxgate/router"
)

// pebble is a running ACME server for tests.
type pebble struct {
	directory string
	client    *http.Client   // for the server's own addresses
	trust     *x509.CertPool // for the server's own certificate
	roots     string         // where its issuing root is
	ca        *localCA       // of its own certificate
}

// startPebble runs Pebble, which validates at the two ports and finds every
// name at 127.0.0.1.
func startPebble(t *testing.T, httpPort, tlsPort int) *pebble {
	t.Helper()
	bin := findPebble(t)
	dir := t.TempDir()
	ca := &localCA{storage: newMemStore()}
	cert, key := ownCertificate(t, ca)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, certFile, cert)
	write(t, keyFile, key)
	listenAddr, manageAddr := closedPort(t), closedPort(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listenAddr, "managementListenAddress": manageAddr,
		"certificate": certFile, "privateKey": keyFile,
		"httpPort": httpPort, "tlsPort": tlsPort,
	}})
	if err != nil {
		t.Fatal(err)
	}
	configFile := filepath.Join(dir, "pebble.json")
	write(t, configFile, config)

	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, bin, "-config", configFile, "-dnsserver", serveDNS(t))
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "PEBBLE_AUTHZREUSE=0")
	cmd.Stdout, cmd.Stderr = testWriter{t}, testWriter{t}
	if !testing.Verbose() {
		cmd.Stdout, cmd.Stderr = nil, nil
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })

	root, err := ca.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	trust := x509.NewCertPool()
	trust.AddCert(root.cert)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}}
	t.Cleanup(tr.CloseIdleConnections)
	p := &pebble{
		directory: "https://" + listenAddr + "/dir", roots: "https://" + manageAddr + "/roots/0",
		client: &http.Client{Transport: tr, Timeout: waitTime}, trust: trust, ca: ca,
	}
	eventually(t, "Pebble answers", func() bool {
		_, err := p.fetch(t, p.directory)
		return err == nil
	})
	return p
}

func findPebble(t *testing.T) string {
	t.Helper()
	if bin, err := exec.LookPath("pebble"); err == nil {
		return bin
	}
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOPATH").Output()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(strings.TrimSpace(string(out)), "bin", "pebble")
	if _, err := os.Stat(bin); err != nil {
		t.Fatal("Pebble is not installed; `just setup` installs it, or: go install github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1")
	}
	return bin
}

func ownCertificate(t *testing.T, ca *localCA) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.sign(t.Context(), &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, &private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", issued.Raw), encode("EC PRIVATE KEY", keyDER)
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serveDNS answers every question for an address with 127.0.0.1. Pebble asks
// over TCP (RFC 1035 section 4.2.2: a length, then the message).
func serveDNS(t *testing.T) string {
	t.Helper()
	return rawApp(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
			var size [2]byte
			if _, err := io.ReadFull(br, size[:]); err != nil {
				return
			}
			question := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(br, question); err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(question) != nil || len(m.Questions) == 0 {
				return
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			answer, err := m.Pack()
			if err != nil {
				return
			}
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		}
	})
}

func (p *pebble) fetch(t *testing.T, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, from, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	return io.ReadAll(res.Body)
}

func port(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

// A public name gets its certificate from the ACME server in its first
// handshake, by each of the two kinds of validation alone; a second gateway on
// the same store then has it without asking anybody.
func TestACME(t *testing.T) {
	const name = "hello.example.com"
	for challenge, byHTTP := range map[string]bool{"HTTP-01": true, "TLS-ALPN-01": false} {
		t.Run(challenge, func(t *testing.T) {
			store := newMemStore()
			dead := listen(t)
			deadPort := port(dead)
			_ = dead.Close() // validation at this port fails
			var p *pebble
			start := func() *rig {
				r := newRig(t, func(o *Options, f *fakeEngine) {
					withTLS(t)(o, f)
					if p == nil && byHTTP {
						p = startPebble(t, port(o.HTTP), deadPort)
					} else if p == nil {
						p = startPebble(t, deadPort, port(o.HTTPS))
					}
					o.Certificates, o.ACMECA, o.ACMERoots, o.Email = store, p.directory, p.trust, "owner@example.com"
				})
				st := record("hello", instance("hello-1", router.Ready, server(t, hello)))
				st.App.Domains = []string{name}
				r.apply(st)
				return r
			}
			r := start()
			// Without this, the first try might use the other kind, and the next one
			// comes a minute later.
			r.edge.tls.acme.DisableTLSALPNChallenge, r.edge.tls.acme.DisableHTTPChallenge = byHTTP, !byHTTP
			roots := x509.NewCertPool()
			pem, err := p.fetch(t, p.roots)
			if err != nil || !roots.AppendCertsFromPEM(pem) {
				t.Fatalf("Pebble's root: %q, %v", pem, err)
			}
			serial := certified(t, r, name, roots)
			// The same gateway has the local CA for names of the other kind.
			_ = r.dialTLS("hello.localhost").Close()
			// A public name that leads nowhere gets nothing.
			if c, err := tls.Dial("tcp", r.https, &tls.Config{ServerName: "other.example.com", RootCAs: roots}); err == nil {
				_ = c.Close()
				t.Error("a certificate for a name that leads nowhere")
			}
			if again := certified(t, start(), name, roots); again != serial {
				t.Error("the second gateway got another certificate")
			}
		})
	}
}

// certified makes a request over TLS and returns the certificate's serial
// number.
func certified(t *testing.T, r *rig, name string, roots *x509.CertPool) string {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: roots}}
	nc, err := d.DialContext(t.Context(), "tcp", r.https)
	if err != nil {
		t.Errorf("handshake: %v", err)
		return ""
	}
	defer nc.Close()
	c := nc.(*tls.Conn)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+name+"\r\n\r\n")
	if res, body := readAnswer(t, bufio.NewReader(c)); res.StatusCode != 200 || body != "hello" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// counting is a way to Pebble that counts what is asked for on it, by path.
func (p *pebble) counting(t *testing.T, ca *localCA) (directory string, count func(path string) int) {
	t.Helper()
	target, err := url.Parse(p.directory)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := ownCertificate(t, ca)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := map[string]int{}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host})
			r.Out.Host = r.In.Host // of which Pebble makes its addresses
		},
		Transport: p.client.Transport,
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path]++
		mu.Unlock()
		forward.ServeHTTP(w, r)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL + "/dir", func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		return asked[path]
	}
}

// Of two gateways on one store, either answers the challenge that the other one
// has begun, and both together order one certificate, however many ask for it at
// once.
func TestACMEOfTwoGateways(t *testing.T) {
	const name = "hello.example.com"
	for challenge, byHTTP := range map[string]bool{"HTTP-01": true, "TLS-ALPN-01": false} {
		for begun, both := range map[string]bool{"begun by the other one": false, "begun by both": true} {
			t.Run(challenge+", "+begun, func(t *testing.T) {
				store := newMemStore()
				dead := listen(t)
				deadPort := port(dead)
				_ = dead.Close() // validation at this port fails
				var p *pebble
				var directory string
				var count func(string) int
				start := func(gateway string) *rig {
					r := newRig(t, func(o *Options, f *fakeEngine) {
						withTLS(t)(o, f)
						if p == nil { // it asks the first gateway only
							if byHTTP {
								p = startPebble(t, port(o.HTTP), deadPort)
							} else {
								p = startPebble(t, deadPort, port(o.HTTPS))
							}
							directory, count = p.counting(t, p.ca)
						}
						o.Gateway, o.Certificates, o.ACMECA, o.ACMERoots, o.Email = gateway, store, directory, p.trust, "owner@example.com"
					})
					r.edge.tls.acme.DisableTLSALPNChallenge, r.edge.tls.acme.DisableHTTPChallenge = byHTTP, !byHTTP
					st := record("hello", instance("hello-1", router.Ready, server(t, hello)))
					st.App.Domains = []string{name}
					r.apply(st)
					return r
				}
				validated, other := start("g1"), start("g2")
				roots := x509.NewCertPool()
				pem, err := p.fetch(t, p.roots)
				if err != nil || !roots.AppendCertsFromPEM(pem) {
					t.Fatalf("Pebble's root: %q, %v", pem, err)
				}
				var serials [2]string
				if both {
					var group sync.WaitGroup
					for i, r := range []*rig{other, validated} {
						group.Go(func() { serials[i] = certified(t, r, name, roots) })
					}
					group.Wait()
				} else {
					serials[0] = certified(t, other, name, roots)
					serials[1] = certified(t, validated, name, roots)
				}
				if serials[0] == "" || serials[0] != serials[1] {
					t.Errorf("the certificates are %q", serials)
				}
				if n := count("/order-plz"); n != 1 {
					t.Errorf("%d certificates were ordered", n)
				}
			})
		}
	}
}
