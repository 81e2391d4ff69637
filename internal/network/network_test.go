package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

func trust(roots []byte) *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	return &tls.Config{RootCAs: pool}
}

func get(t *testing.T, c *http.Client, url string) (int, string, error) {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

func TestAllowedNameOverTLS(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{}, w.Allow(world.WWW))
	status, body, err := get(t, s.client(t, w.CA), w.URL(world.WWW, "/"))
	if err != nil || status != 200 {
		t.Fatalf("%d %q, %v", status, body, err)
	}
	d := s.book.kind(t, api.EventDNS, api.PolicyAllow)
	if d.Host != world.WWW || d.Rule != "r1" || d.Code != "rule" || d.DNS.Result != "NOERROR" {
		t.Errorf("dns: %+v", d)
	}
	f := s.book.kind(t, api.EventFlow, api.PolicyAllow)
	if f.Host != world.WWW || f.Rule != "r1" || f.Code != "rule" || f.Port != w.HTTPS || f.Address != "127.0.0.1" {
		t.Errorf("flow: %+v", f)
	}
}

func TestDeniedNames(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{}, w.Allow(world.WWW))
	c := s.client(t, w.CA)
	if _, _, err := get(t, c, w.URL(world.Git, "/")); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("a name that is not allowed: %v", err)
	}
	e := s.book.kind(t, api.EventDNS, api.PolicyDeny)
	if e.Host != world.Git || e.Code != "default" || e.Reason == "" || w.Questions(world.Git) != 0 {
		t.Errorf("dns: %+v, asked %d times", e, w.Questions(world.Git))
	}
	// The server of an allowed name, another name in the hello.
	conn, err := s.dial(t, "tcp", hostPort(world.WWW, w.HTTPS))
	if err != nil {
		t.Fatal(err)
	}
	config := trust(w.CA)
	config.ServerName = world.Git
	if err := tls.Client(conn, config).Handshake(); err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("another server name: %v", err)
	}
	f := s.book.kind(t, api.EventFlow, api.PolicyDeny)
	if f.Code != "sni_mismatch" || !strings.Contains(f.Reason, world.Git) {
		t.Errorf("flow: %+v", f)
	}
	if n := len(w.Requests(world.Git)); n != 0 {
		t.Errorf("%d requests got out", n)
	}
}

func TestDeniedAddresses(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{}, w.Allow(world.WWW))
	if _, err := s.dial(t, "tcp", hostPort("169.254.169.254", 443)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("cloud metadata: %v", err)
	}
	f := s.book.kind(t, api.EventFlow, api.PolicyDeny)
	if f.Code != "bare_address" && f.Code != "denied_address" || f.Address != "169.254.169.254" || f.Reason == "" {
		t.Errorf("flow: %+v", f)
	}
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func TestBoundsAreRecorded(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{Spec: api.Network{Conns: 1}}, anyPort(api.PolicyAllow, world.WWW))
	port := greeter(t)
	c, err := s.dial(t, "tcp", hostPort(world.WWW, port))
	if err != nil {
		t.Fatal(err)
	}
	mustRead(t, c, "220 hello\r\n")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.guest.Dial(ctx, "tcp", hostPort(netstack.DefaultGateway4.String(), port)); err == nil {
		t.Error("a second connection was made")
	}
	e := s.book.wait(t, "the bound", func(e api.NetworkEntry) bool { return e.Kind == api.EventLimit })
	if e.Verdict != api.PolicyDeny || e.Reason == "" || e.Count == 0 {
		t.Errorf("limit: %+v", e)
	}
}
