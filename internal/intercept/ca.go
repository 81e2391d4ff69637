package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
)

const (
	// caLife is longer than any sandbox: an authority that ends would have to be
	// renewed in the memory of programs that run.
	caLife = 10 * 365 * 24 * time.Hour
	// slack allows for a guest whose clock is behind.
	slack = 24 * time.Hour
	// maxCAFile bounds the file of an authority, which has some 1.2 KB.
	maxCAFile = 16 << 10

	pemCert = "CERTIFICATE"
	pemKey  = "PRIVATE KEY"
)

// CA is the authority of one sandbox. Its key is on the host alone: guests get
// the certificate, and saved points hold neither. A fork, or what is made of a
// snapshot, has an authority of its own.
type CA struct {
	path string

	mu     sync.Mutex
	own    *signer // nil: not opened yet
	leaves leafCache
}

// signer is an authority's certificate and key.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA returns the authority that is kept in a file, which is opened or made
// when it is first needed: most sandboxes never do. A file that is damaged, readable
// by others than its owner or out of its time is replaced; the guest is told of the
// new one by the next Install.
func NewCA(path string) *CA { return &CA{path: path} }

// OpenCA is NewCA that opens or makes the authority at once.
func OpenCA(path string, now time.Time) (*CA, error) {
	c := NewCA(path)
	_, err := c.open(now)
	return c, err
}

// PEM returns the certificate, which is no secret; nil where it cannot be opened.
func (c *CA) PEM() []byte {
	s, err := c.open(time.Now())
	if err != nil {
		return nil
	}
	return s.pem()
}

// open returns the authority, from memory, from its file, or made anew.
func (c *CA) open(now time.Time) (*signer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own != nil {
		return c.own, nil
	}
	s, err := readCA(c.path, now)
	if err != nil {
		if s, err = makeCA(now); err != nil {
			return nil, api.Errorf(api.Internal, "make the sandbox's certificate authority: %w", err)
		}
		text, err := s.encode()
		if err == nil {
			err = store.WriteFile(c.path, text, 0o600)
		}
		if err != nil {
			return nil, api.Errorf(api.Unavailable, "keep the sandbox's certificate authority: %w", err)
		}
	}
	c.own = s
	return s, nil
}

func (s *signer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: s.cert.Raw})
}

func readCA(path string, now time.Time) (*signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 || st.Size() > maxCAFile || !st.Mode().IsRegular() {
		return nil, fs.ErrPermission
	}
	text := make([]byte, st.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, err
	}
	return decodeCA(text, now)
}

func decodeCA(text []byte, now time.Time) (*signer, error) {
	keyBlock, rest := pem.Decode(text)
	certBlock, _ := pem.Decode(rest)
	if keyBlock == nil || certBlock == nil {
		return nil, errors.New("not the file of an authority")
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, errors.New("key and certificate of the authority do not belong together")
	}
	if now.Before(cert.NotBefore) || now.Add(leafLife).After(cert.NotAfter) {
		return nil, errors.New("the authority is out of its time")
	}
	return &signer{cert, private}, nil
}

func makeCA(now time.Time) (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(point)
	t := &x509.Certificate{
		SerialNumber: serial(),
		// A name of its own, so that no program takes it for that of another sandbox.
		Subject:               pkix.Name{Organization: []string{"smolvm"}, CommonName: "smolvm sandbox " + hex.EncodeToString(id[:8])},
		NotBefore:             now.Add(-slack).UTC(),
		NotAfter:              now.Add(caLife).UTC(),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		SubjectKeyId:          id[:20],
	}
	raw, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	return &signer{cert, key}, nil
}

func (s *signer) encode() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: key})
	return append(text, s.pem()...), nil
}

// serial returns a random number of 127 bits (RFC 5280 section 4.1.2.2).
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}
