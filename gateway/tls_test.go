package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// roots is the rig's local CA.
func (r *rig) roots() *x509.CertPool {
	r.t.Helper()
	pem, err := r.edge.RootPEM(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		r.t.Fatalf("no certificate in %s", pem)
	}
	return pool
}

func TestLocalCA(t *testing.T) {
	r := newRig(t, withTLS(t))
	r.app("a", func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, req.Header.Get("X-Forwarded-Proto")+" "+req.Header.Get("X-Forwarded-Port"))
	})
	c := r.dialTLS("a.localhost") // verifies
	leaf := c.ConnectionState().PeerCertificates[0]
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life > leafLife+2*backdate {
		t.Errorf("the certificate lives for %s", life)
	}
	if len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != "a.localhost" {
		t.Errorf("it is for %q", leaf.DNSNames)
	}
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
	res, body := readAnswer(t, bufio.NewReader(c))
	if res.StatusCode != 200 || body != "https 443" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}

// All gateways on one store have the same root, even if they make it at the
// same time; so has one that starts again.
func TestLocalCARootIsShared(t *testing.T) {
	store := newMemStore()
	pems := make([][]byte, 4)
	var wg sync.WaitGroup
	for i := range pems {
		wg.Go(func() {
			root, err := (&localCA{storage: store}).load(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			pems[i] = root.pem
		})
	}
	wg.Wait()
	for _, p := range pems {
		if !bytes.Equal(p, pems[0]) {
			t.Error("two roots")
		}
	}
}

func TestStoredRootThatCannotBeUsed(t *testing.T) {
	for name, damage := range map[string]func(key, cert []byte) ([]byte, []byte){
		"not PEM":         func(_, cert []byte) ([]byte, []byte) { return []byte("x"), cert },
		"not a key":       func(_, cert []byte) ([]byte, []byte) { return cert, cert },
		"another's key":   func(_, cert []byte) ([]byte, []byte) { return otherKey(t), cert },
		"not certificate": func(key, _ []byte) ([]byte, []byte) { return key, key },
	} {
		t.Run(name, func(t *testing.T) {
			store := newMemStore()
			if _, err := (&localCA{storage: store}).load(t.Context()); err != nil {
				t.Fatal(err)
			}
			key, _ := store.Load(t.Context(), caKey)
			cert, _ := store.Load(t.Context(), caCert)
			newKey, newCert := damage(key, cert)
			_ = store.Store(t.Context(), caKey, newKey)
			_ = store.Store(t.Context(), caCert, newCert)
			_, err := (&localCA{storage: store}).load(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			if strings.Contains(err.Error(), string(key)) {
				t.Error("the key is in the error")
			}
		})
	}
}

func otherKey(t *testing.T) []byte {
	t.Helper()
	store := newMemStore()
	if _, err := (&localCA{storage: store}).load(t.Context()); err != nil {
		t.Fatal(err)
	}
	key, _ := store.Load(t.Context(), caKey)
	return key
}

// Only names of the Table get a handshake, and so a certificate.
func TestUnknownNameGetsNoCertificate(t *testing.T) {
	r := newRig(t, withTLS(t))
	r.app("a", hello)
	for name, sni := range map[string]string{
		"unknown": "b.localhost", "none": "", "nonsense": "a_.-.localhost", "public and unknown": "example.com",
		"a parent": "localhost", "below": "x.a.localhost",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tls.Dial("tcp", r.https, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
			if err == nil {
				_ = c.Close()
				t.Fatalf("a certificate for %q", c.ConnectionState().PeerCertificates[0].DNSNames)
			}
			if !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("%v, want the alert unrecognized_name", err)
			}
		})
	}
	// A name that had one loses it with its app.
	_ = r.dialTLS("a.localhost").Close()
	st := record("a")
	st.Deleted = true
	r.apply(st)
	if c, err := tls.Dial("tcp", r.https, &tls.Config{ServerName: "a.localhost", RootCAs: r.roots()}); err == nil {
		_ = c.Close()
		t.Error("a deleted app's name still has a certificate")
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	r := newRig(t, withTLS(t))
	r.app("a", hello)
	c, err := tls.Dial("tcp", r.https, &tls.Config{ServerName: "a.localhost", RootCAs: r.roots(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil {
		_ = c.Close()
		t.Error("TLS 1.1 works")
	}
}

// The name in the handshake does not decide where a request goes.
func TestHostCountsNotSNI(t *testing.T) {
	r := newRig(t, withTLS(t))
	r.app("a", hello)
	r.app("b", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "b") })
	c := r.dialTLS("a.localhost")
	br := bufio.NewReader(c)
	for host, want := range map[string]string{"b.localhost": "b", "a.localhost": "hello"} {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		if _, body := readAnswer(t, br); body != want {
			t.Errorf("%s: %q", host, body)
		}
	}
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n")
	if res, _ := readAnswer(t, br); res.StatusCode != 404 {
		t.Errorf("%d, want 404", res.StatusCode)
	}
}

func TestRedirectToHTTPS(t *testing.T) {
	r := newRig(t, withTLS(t))
	r.app("a", hello)
	c := r.client()
	_, port, _ := strings.Cut(r.https, ":")
	for url, want := range map[string]string{
		"http://a.localhost/x/y?z=1&b=%20": "https://a.localhost:" + port + "/x/y?z=1&b=%20",
		"http://A.localhost:8080/":         "https://a.localhost:" + port + "/",
	} {
		res, _ := r.get(c, url)
		if res.StatusCode != 308 || res.Header.Get("Location") != want {
			t.Errorf("%s: %d to %q, want 308 to %q", url, res.StatusCode, res.Header.Get("Location"), want)
		}
		if len(res.Header.Get("X-Request-Id")) != 32 {
			t.Errorf("%s: no request id", url)
		}
	}
	for _, url := range []string{"http://b.localhost/", "http://b.localhost/.well-known/acme-challenge/x"} {
		if res, _ := r.get(c, url); res.StatusCode != 404 {
			t.Errorf("%s: %d, want 404", url, res.StatusCode)
		}
	}
	// A challenge that is not ours is a path as any other.
	if res, _ := r.get(c, "http://a.localhost/.well-known/acme-challenge/x"); res.StatusCode != 308 {
		t.Errorf("a challenge of somebody else's: %d, want 308", res.StatusCode)
	}
}

// The local CA is ready before anybody asks, and serves while the storage is
// away, names among them that nobody asked for before.
func TestLocalCAWithoutItsStorage(t *testing.T) {
	store := newMemStore()
	r := newRig(t, func(o *Options, f *fakeEngine) {
		withTLS(t)(o, f)
		o.Certificates = store
	})
	r.app("a", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hi") })
	eventually(t, "the root is stored", func() bool { return store.Exists(t.Context(), caCert) })
	r.roots() // as `up` writes it down
	store.leave(errors.New("the storage is away"))
	c := r.dialTLS("a.localhost")
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
	if res, body := readAnswer(t, bufio.NewReader(c)); res.StatusCode != 200 || body != "hi" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}
