package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	caLock   = "fluxgate_local_ca"
	caCert   = "fluxgate/ca/root.crt"
	caKey    = "fluxgate/ca/root.key"
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
	backdate = time.Hour // for clients whose clock is behind
)

// localCA certifies names that no public authority can. Its root is made once
// and kept with the certificates, so that all gateways on one store share it.
type localCA struct {
	storage certmagic.Storage

	mu   sync.Mutex
	root *caRoot
}

type caRoot struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

var _ certmagic.Issuer = (*localCA)(nil)

// IssuerKey implements certmagic.Issuer.
func (ca *localCA) IssuerKey() string { return "fluxgate-local" }

// Issue implements certmagic.Issuer.
func (ca *localCA) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	root, err := ca.load(ctx)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	leaf := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     csr.DNSNames,
		IPAddresses:  csr.IPAddresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root.cert, csr.PublicKey, root.key)
	if err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	return &certmagic.IssuedCertificate{Certificate: encode("CERTIFICATE", der)}, nil
}

// load returns the root, from memory, from the store, or newly made.
func (ca *localCA) load(ctx context.Context) (*caRoot, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if ca.root != nil {
		return ca.root, nil
	}
	if err := ca.storage.Lock(ctx, caLock); err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	defer func() { _ = ca.storage.Unlock(context.WithoutCancel(ctx), caLock) }()
	root, err := ca.read(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		root, err = ca.create(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	ca.root = root
	return root, nil
}

func (ca *localCA) read(ctx context.Context) (*caRoot, error) {
	keyPEM, err := ca.storage.Load(ctx, caKey)
	if err != nil {
		return nil, err
	}
	certPEM, err := ca.storage.Load(ctx, caCert)
	if err != nil {
		return nil, err
	}
	keyBlock, _ := pem.Decode(keyPEM)
	certBlock, _ := pem.Decode(certPEM)
	if keyBlock == nil || certBlock == nil {
		return nil, errors.New("the stored root is not PEM")
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, errors.New("the stored root key cannot be read") // no detail: it is a key
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the stored root key is not that of the root certificate")
	}
	return &caRoot{cert, key, bytes.Clone(certPEM)}, nil
}

func (ca *localCA) create(ctx context.Context) (*caRoot, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(public)
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		// A person who has several of these in a list can tell them apart.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Fluxgate local CA %x", id[:4]), Organization: []string{"Fluxgate"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		SubjectKeyId:          id[:20],
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	// The certificate last: read looks for the key first, and takes a key without
	// its certificate for no root.
	if err := ca.storage.Store(ctx, caKey, encode("EC PRIVATE KEY", keyDER)); err != nil {
		return nil, err
	}
	root := &caRoot{cert, key, encode("CERTIFICATE", der)}
	if err := ca.storage.Store(ctx, caCert, root.pem); err != nil {
		return nil, err
	}
	return root, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// newSerial is 127 random bits (CA/Browser Forum: at least 64, positive).
func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
