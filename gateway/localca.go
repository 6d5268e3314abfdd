package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
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
// What it certifies is made in memory, by each gateway for itself: a client
// trusts the root, and nothing has to be read when one asks.
type localCA struct {
	storage certmagic.Storage

	mu   sync.Mutex
	root *caRoot

	leaves leaves
}

// leaves are the certificates that were asked for, by name.
type leaves struct {
	mu     sync.RWMutex
	byName map[string]*tls.Certificate
}

// maxLeaves bounds what is kept in memory; more are made again when asked for.
const maxLeaves = 10_000

type caRoot struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// certificate is the one for a name. It is made at the first call, and anew when
// two thirds of its life are over.
func (ca *localCA) certificate(ctx context.Context, name string) (*tls.Certificate, error) {
	ca.leaves.mu.RLock()
	leaf := ca.leaves.byName[name]
	ca.leaves.mu.RUnlock()
	if leaf != nil && time.Until(leaf.Leaf.NotAfter) > leafLife/3 {
		return leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := ca.sign(ctx, &x509.Certificate{DNSNames: []string{name}}, &key.PublicKey)
	if err != nil {
		return nil, err
	}
	leaf = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	ca.leaves.mu.Lock()
	defer ca.leaves.mu.Unlock()
	if ca.leaves.byName == nil {
		ca.leaves.byName = map[string]*tls.Certificate{}
	}
	if len(ca.leaves.byName) >= maxLeaves {
		clear(ca.leaves.byName) // simpler than to know which are in use: each takes a tenth of a millisecond
	}
	ca.leaves.byName[name] = leaf
	return leaf, nil
}

// sign certifies the names and addresses of leaf.
func (ca *localCA) sign(ctx context.Context, leaf *x509.Certificate, key *ecdsa.PublicKey) (*x509.Certificate, error) {
	root, err := ca.load(ctx)
	if err != nil {
		return nil, err
	}
	if leaf.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	now := time.Now()
	leaf.NotBefore, leaf.NotAfter = now.Add(-backdate), now.Add(leafLife)
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root.cert, key, root.key)
	if err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	return x509.ParseCertificate(der)
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
