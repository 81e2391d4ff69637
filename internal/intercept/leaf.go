package intercept

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"sync"
	"time"
)

const (
	// leafLife stays below what browsers take (398 days), and is renewed in time.
	leafLife  = 90 * 24 * time.Hour
	leafRenew = 30 * 24 * time.Hour
	maxLeaves = 512 // names of a sandbox whose certificates are kept, about 2 KB each
	maxCommon = 64  // bytes of a common name (RFC 5280 appendix A.1)
)

// leafCache keeps the certificates that were shown last. All have one key, which
// is made anew in each process and never written.
type leafCache struct {
	mu    sync.Mutex
	key   *ecdsa.PrivateKey
	known map[string]*list.Element
	order list.List // of *leaf, the last used first
}

type leaf struct {
	name string
	cert *tls.Certificate
}

// leaf returns a certificate for a name or address.
func (c *CA) leaf(name string, now time.Time) (*tls.Certificate, error) {
	s, err := c.open(now)
	if err != nil {
		return nil, err
	}
	l := &c.leaves
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.known[name]; e != nil {
		if kept := e.Value.(*leaf); now.Add(leafRenew).Before(kept.cert.Leaf.NotAfter) {
			l.order.MoveToFront(e)
			return kept.cert, nil
		}
		l.remove(e)
	}
	cert, err := l.sign(s, name, now)
	if err != nil {
		return nil, err
	}
	if l.known == nil {
		l.known = map[string]*list.Element{}
	}
	l.known[name] = l.order.PushFront(&leaf{name, cert})
	if l.order.Len() > maxLeaves {
		l.remove(l.order.Back())
	}
	return cert, nil
}

func (l *leafCache) remove(e *list.Element) {
	delete(l.known, e.Value.(*leaf).name)
	l.order.Remove(e)
}

// sign makes a certificate. The cache is locked.
func (l *leafCache) sign(s *signer, name string, now time.Time) (*tls.Certificate, error) {
	if l.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		l.key = key
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"smolvm"}},
		NotBefore:    now.Add(-slack).UTC(),
		NotAfter:     now.Add(leafLife).UTC(),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		t.IPAddresses = append(t.IPAddresses, addr.AsSlice())
	} else {
		t.DNSNames = []string{name}
	}
	if len(name) <= maxCommon { // some old clients look nowhere else
		t.Subject.CommonName = name
	}
	raw, err := x509.CreateCertificate(rand.Reader, t, s.cert, &l.key.PublicKey, s.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: l.key, Leaf: parsed}, nil
}
