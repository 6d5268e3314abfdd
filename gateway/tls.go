package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/fluxgate/fluxgate/router"
)

const (
	handshakeStep = 10 * time.Second  // for what the client has to send
	handshakeTime = 150 * time.Second // with the first certificate of a name in it
	acmeProtocol  = "acme-tls/1"
)

// certificates ends TLS for the hostnames of the Table and for no others: by
// the local CA for names that no public authority would certify, by ACME for
// the rest. A certificate is obtained during the first handshake for its name.
type certificates struct {
	edge   *Edge
	config *tls.Config
	cache  *certmagic.Cache
	ca     *localCA
	public *certmagic.Config
	acme   *certmagic.ACMEIssuer
	fresh  chan string // hostnames whose certificates are to be loaded
}

func newCertificates(e *Edge) (*certificates, error) {
	t := &certificates{edge: e, ca: &localCA{storage: e.opts.Certificates}, fresh: make(chan string, maxFresh)}
	quiet := zap.NewNop() // what matters comes through event
	t.cache = certmagic.NewCache(certmagic.CacheOptions{
		Logger:           quiet,
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return t.public, nil },
	})
	template := certmagic.Config{
		Logger:   quiet,
		Storage:  e.opts.Certificates,
		OnDemand: &certmagic.OnDemandConfig{DecisionFunc: t.allowed},
		OnEvent:  t.event,
		ShouldEmitFunc: func(event string) bool {
			return event == "cert_obtained" || event == "cert_failed"
		},
	}
	t.public = certmagic.New(t.cache, template)
	t.acme = certmagic.NewACMEIssuer(t.public, t.acmeTemplate(quiet))
	t.public.Issuers = []certmagic.Issuer{t.acme}
	t.config = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1", acmeProtocol},
		GetCertificate: t.get,
	}
	return t, nil
}

// acmeTemplate says how our own listeners take part in validation: the
// challenges arrive at ports 80 and 443 in public, which are, or are forwarded
// to, the listeners' ports.
func (t *certificates) acmeTemplate(log *zap.Logger) certmagic.ACMEIssuer {
	o := &t.edge.opts
	tmpl := certmagic.ACMEIssuer{
		CA:                   o.ACMECA,
		Email:                o.Email,
		Agreed:               true,
		TrustedRoots:         o.ACMERoots,
		Logger:               log,
		DisableHTTPChallenge: o.HTTP == nil,
	}
	if a, ok := o.HTTPS.Addr().(*net.TCPAddr); ok {
		tmpl.AltTLSALPNPort = a.Port
		if !a.IP.IsUnspecified() {
			tmpl.ListenHost = a.IP.String()
		}
	}
	if o.HTTP != nil {
		if a, ok := o.HTTP.Addr().(*net.TCPAddr); ok {
			tmpl.AltHTTPPort = a.Port
		}
	}
	return tmpl
}

// internal reports whether only the local CA can certify a name.
func (t *certificates) internal(name string) bool {
	return router.InternalHost(name) || t.underInternalDomain(name)
}

func (t *certificates) underInternalDomain(name string) bool {
	domain := t.edge.opts.Domain
	return router.InternalHost(domain) && len(name) > len(domain) &&
		name[len(name)-len(domain)-1] == '.' && name[len(name)-len(domain):] == domain
}

// known reports whether a hostname, as a client wrote it, leads anywhere, and
// returns its normal form.
func (t *certificates) known(name string) (string, bool) {
	var room [253]byte
	host, ok := router.NormalizeHost(room[:0], []byte(name))
	if !ok {
		return "", false
	}
	_, ok = t.edge.table.Load().Lookup(host)
	return string(host), ok
}

// get is the TLS server's question for a certificate. No certificate and no
// error makes crypto/tls refuse with unrecognized_name.
func (t *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, ok := t.known(hello.ServerName)
	if !ok {
		return nil, nil
	}
	if t.internal(name) {
		return t.ca.certificate(hello.Context(), name)
	}
	// Getting one may take a while; the client's time for its next message
	// begins after that.
	defer func() { _ = hello.Conn.SetReadDeadline(time.Now().Add(handshakeStep)) }()
	cert, err := t.public.GetCertificate(hello)
	if err != nil {
		return nil, fmt.Errorf("no certificate for %s: %w", name, err)
	}
	return cert, nil
}

// allowed is certmagic's question whether a name may get a certificate.
func (t *certificates) allowed(_ context.Context, name string) error {
	if _, ok := t.known(name); !ok {
		return errors.New("no app has this name")
	}
	return nil
}

// event reports what happens to certificates.
func (t *certificates) event(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	switch event {
	case "cert_obtained":
		t.edge.log.Info("certificate obtained", "name", name)
	case "cert_failed":
		t.edge.log.Warn("certificate could not be obtained", "name", name, "error", data["error"])
	}
	return nil
}

// answerChallenge answers an HTTP-01 validation that is ours.
func (t *certificates) answerChallenge(w http.ResponseWriter, r *http.Request) bool {
	return t.acme.HandleHTTPChallenge(w, r)
}

// prepare sees to it that the control API's certificate is there before the
// first client asks for it; then it loads the certificates of new hostnames
// that are in the storage already, so that they are served while that is away.
func (t *certificates) prepare(ctx context.Context) {
	if _, err := t.ca.load(ctx); err != nil && ctx.Err() == nil {
		t.edge.log.Warn("the local CA cannot be loaded yet", "error", err)
	}
	if name, ok := t.known(router.PlatformHost(t.edge.opts.Domain)); ok && !t.internal(name) {
		if err := t.public.ObtainCertSync(ctx, name); err == nil { // else reported by event; the first handshake tries again
			t.warm(ctx, name)
		}
	}
	for {
		select {
		case name := <-t.fresh:
			t.warm(ctx, name)
		case <-ctx.Done():
			return
		}
	}
}

// maxFresh is how many hostnames wait to have their certificates loaded. With
// more than that at once, the first handshake loads those of the others.
const maxFresh = 4096

// expect has a hostname's certificate loaded soon. It never blocks.
func (t *certificates) expect(name string) {
	if t.internal(name) {
		return
	}
	select {
	case t.fresh <- name:
	default:
	}
}

func (t *certificates) warm(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, handshakeStep)
	defer cancel()
	// There is none yet for most new names, which is no fault.
	if _, err := t.public.CacheManagedCertificate(ctx, name); err != nil && ctx.Err() != nil {
		t.edge.log.Debug("a certificate could not be loaded ahead", "name", name, "error", err)
	}
}

func (t *certificates) stop() { t.cache.Stop() }

// RootPEM is the local CA's root certificate: what a client must trust to use
// internal names. The CA is made if it does not exist yet. The error is of the
// certificate storage.
func (e *Edge) RootPEM(ctx context.Context) ([]byte, error) {
	if e.tls == nil {
		return nil, errors.New("the gateway serves no HTTPS")
	}
	root, err := e.tls.ca.load(ctx)
	if err != nil {
		return nil, err
	}
	return root.pem, nil
}
