package intercept

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestOpenCA(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	now := time.Now()
	first, err := OpenCA(path, now)
	must(t, err)
	st, err := os.Stat(path)
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	again, err := OpenCA(path, now.Add(time.Hour))
	must(t, err)
	if string(again.PEM()) != string(first.PEM()) {
		t.Error("opened again, it is another")
	}
	if strings.Contains(string(first.PEM()), "PRIVATE") || !strings.HasPrefix(caName(t, first), "smolvm sandbox ") {
		t.Errorf("%s: %s", caName(t, first), first.PEM())
	}
	whole, err := os.ReadFile(path)
	must(t, err)
	for name, damage := range map[string]func() error{
		"open to others": func() error { return os.Chmod(path, 0o640) },
		"cut":            func() error { return os.WriteFile(path, whole[:len(whole)/2], 0o600) },
		"empty":          func() error { return os.WriteFile(path, nil, 0o600) },
		"huge":           func() error { return os.WriteFile(path, append(whole, make([]byte, maxCAFile)...), 0o600) },
	} {
		must(t, os.WriteFile(path, whole, 0o600))
		must(t, os.Chmod(path, 0o600))
		must(t, damage())
		c, err := OpenCA(path, now)
		must(t, err)
		if caName(t, c) == caName(t, first) {
			t.Errorf("%s: taken for good", name)
		}
		c2, err := OpenCA(path, now)
		must(t, err)
		if caName(t, c2) != caName(t, c) {
			t.Errorf("%s: the new one was not kept", name)
		}
	}
	must(t, os.WriteFile(path, whole, 0o600))
	must(t, os.Chmod(path, 0o600))
	if late, err := OpenCA(path, now.Add(caLife)); err != nil || caName(t, late) == caName(t, first) {
		t.Errorf("an authority at its end is used: %v", err)
	}
	if _, err := OpenCA(filepath.Join(path, "below"), now); err == nil {
		t.Error("kept where nothing can be")
	}
}

func TestLeaves(t *testing.T) {
	c := NewCA(filepath.Join(t.TempDir(), "ca.pem"))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.PEM())
	long := strings.Repeat("a", 60) + ".example.com"
	for _, name := range []string{"pypi.org", "a_b.example", long, "192.0.2.1", "2001:db8::1", "xn--bcher-kva.example"} {
		cert, err := c.leaf(name, time.Now())
		must(t, err)
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if cert.Leaf.VerifyHostname("other.example") == nil {
			t.Errorf("%s: good for another name", name)
		}
		if kept, _ := c.leaf(name, time.Now()); kept != cert {
			t.Errorf("%s: made twice", name)
		}
		later := time.Now().Add(leafLife - leafRenew + time.Hour)
		if renewed, _ := c.leaf(name, later); renewed == cert || !renewed.Leaf.NotAfter.After(later.Add(leafRenew)) {
			t.Errorf("%s: not renewed in time", name)
		}
	}
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for n := range maxLeaves {
				_, _ = c.leaf(fmt.Sprintf("n%d.example", n+i), time.Now())
			}
		})
	}
	work.Wait()
	if n := c.leaves.order.Len(); n != maxLeaves || len(c.leaves.known) != n {
		t.Errorf("%d certificates are kept, %d by name", n, len(c.leaves.known))
	}
}

// caName returns an authority's own name.
func caName(t *testing.T, c *CA) string {
	t.Helper()
	s, err := c.open(time.Now())
	must(t, err)
	return s.cert.Subject.CommonName
}

// TestCAIsMadeWhenNeeded wants no file before, and none again after a failure.
func TestCAIsMadeWhenNeeded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	c := NewCA(filepath.Join(dir, "ca.pem"))
	if _, err := c.leaf("a.example", time.Now()); err == nil || c.PEM() != nil {
		t.Error("an authority that cannot be kept signs")
	}
	must(t, os.Mkdir(dir, 0o700))
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("there is %v already", left)
	}
	if _, err := c.leaf("a.example", time.Now()); err != nil || c.PEM() == nil {
		t.Error(err)
	}
}
