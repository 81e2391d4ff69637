package network

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/netstack/netstacktest"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

// long bounds what a test waits for.
const long = 20 * time.Second

// book is a Log that can be waited on.
type book struct {
	mu      sync.Mutex
	entries []api.NetworkEntry
	changed chan struct{}
}

func newBook() *book { return &book{changed: make(chan struct{})} }

func (b *book) Record(e api.NetworkEntry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = append(b.entries, e)
	close(b.changed)
	b.changed = make(chan struct{})
}

// wait returns the first entry that is wanted.
func (b *book) wait(t *testing.T, what string, want func(api.NetworkEntry) bool) api.NetworkEntry {
	t.Helper()
	deadline := time.After(long)
	for {
		b.mu.Lock()
		changed, all := b.changed, b.entries
		b.mu.Unlock()
		for _, e := range all {
			if want(e) {
				return e
			}
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no entry of %s in %+v", what, all)
		}
	}
}

func (b *book) kind(t *testing.T, kind api.NetworkEvent, verdict api.PolicyAction) api.NetworkEntry {
	t.Helper()
	return b.wait(t, string(kind)+" "+string(verdict), func(e api.NetworkEntry) bool { return e.Kind == kind && e.Verdict == verdict })
}

func (b *book) count(kind api.NetworkEvent) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, e := range b.entries {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// sandbox is a network with a guest in it.
type sandbox struct {
	*Network
	guest *netstacktest.Guest
	book  *book
}

// start makes a sandbox whose policy has these rules, and denies all else.
func start(t *testing.T, w *world.World, cfg Config, rules ...api.Rule) *sandbox {
	t.Helper()
	host, wire := netstacktest.Wire(t)
	s := &sandbox{book: newBook()}
	cfg.Spec.DNS, cfg.Log = []string{w.DNS}, s.book
	if cfg.Spec.Policy == nil {
		cfg.Spec.Policy = &api.Policy{Rules: rules}
	}
	cfg.Roots = x509.NewCertPool()
	cfg.Roots.AppendCertsFromPEM(w.CA)
	var err error
	if s.Network, err = Start(host, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.guest = netstacktest.NewGuest(t, wire)
	return s
}

// client speaks HTTP from the guest, and believes in the CA of the world.
func (s *sandbox) client(t *testing.T, roots []byte) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: s.guest.Dial, ForceAttemptHTTP2: true, TLSClientConfig: trust(roots)}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: long}
}

func (s *sandbox) dial(t *testing.T, network, address string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	c, err := s.guest.Dial(ctx, network, address)
	if err == nil {
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(long))
	}
	return c, err
}

func itoa(n int) string { return strconv.Itoa(n) }

func guestPort(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netstack.DefaultGuest4.Addr(), port)
}
