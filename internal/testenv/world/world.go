// Package world is a small internet on the host's loopback, for tests that let
// real programs out of a sandbox.
//
//	w := world.Start(t)
//	t.Setenv("SSL_CERT_FILE", w.CAFile)    // the supervisor believes its CA
//	network := api.Network{DNS: []string{w.DNS}, Policy: &api.Policy{Rules: []api.Rule{
//		w.Allow(world.Git, world.PyPI),
//	}}}
//	...
//	w.Requests(world.Git)                  // what got out
//
// It has a name server for the zone example.test, one server for HTTPS (HTTP/1.1
// and HTTP/2) and one for HTTP, both with the same sites: pages and a WebSocket, a
// git repository, and indexes of packages for pip, npm and apt. What they serve is
// made when they start. Each request is noted.
package world

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/api"
)

// Zone is what the name server answers for. Of other names those exist that Serve was
// told of.
const Zone = "example.test"

// The sites.
const (
	WWW  = "www." + Zone  // pages; see [World.Start]
	WS   = "ws." + Zone   // a WebSocket that sends back what comes, at /echo
	Git  = "git." + Zone  // a repository to clone and push to, at /demo.git
	PyPI = "pypi." + Zone // an index for pip, at /simple
	NPM  = "npm." + Zone  // a registry for npm
	Deb  = "deb." + Zone  // a repository for apt
	Bad  = "bad." + Zone  // pages as at WWW, with a certificate of nobody
)

// World is the servers and what they have seen. It ends with its test.
type World struct {
	DNS    string // address of the name server, HOST:PORT; UDP and TCP
	CAFile string // certificate in PEM that all but Bad are signed by
	CA     []byte // the same

	HTTPS, HTTP int // ports

	dir string // for what is served from files

	mu        sync.Mutex
	addresses map[string][]netip.Addr
	questions map[string]int
	requests  []*Request
	sites     map[string]http.Handler
}

// Start starts the servers. Pages at WWW are / (a line of text), /headers (the
// request's headers as JSON), /echo (the request's body), /bytes/N (N bytes) and
// /status/N (an answer with this status).
func Start(t testing.TB) *World {
	t.Helper()
	w := &World{dir: t.TempDir(), addresses: map[string][]netip.Addr{}, questions: map[string]int{}}
	for _, name := range []string{WWW, WS, Git, PyPI, NPM, Deb, Bad} {
		w.SetAddresses(name, netip.MustParseAddr("127.0.0.1"))
	}
	ca := newAuthority(t)
	w.CA, w.CAFile = ca.pem, filepath.Join(w.dir, "ca.pem")
	if err := os.WriteFile(w.CAFile, ca.pem, 0o644); err != nil {
		t.Fatal(err)
	}
	w.startDNS(t)
	w.startWeb(t, ca)
	return w
}

// Allow returns a rule that lets these names through, to the ports of the servers.
func (w *World) Allow(names ...string) api.Rule {
	return api.Rule{
		Action: api.PolicyAllow, Domains: names, CIDRs: []string{"127.0.0.1"},
		Ports: []string{strconv.Itoa(w.HTTPS), strconv.Itoa(w.HTTP)},
	}
}

// URL returns the address of a path at a site, by HTTPS.
func (w *World) URL(site, path string) string {
	return "https://" + net.JoinHostPort(site, strconv.Itoa(w.HTTPS)) + path
}

// PlainURL is URL by HTTP.
func (w *World) PlainURL(site, path string) string {
	return "http://" + net.JoinHostPort(site, strconv.Itoa(w.HTTP)) + path
}

// SetAddresses says what a name leads to from now on. Without addresses it does
// not exist.
func (w *World) SetAddresses(name string, addrs ...netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addresses[name] = addrs
}

// Questions tells how often a name was asked for.
func (w *World) Questions(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.questions[name]
}

// Serve gives a name, which may be anybody's, an address here and lets a handler answer
// for it, by HTTPS and HTTP.
func (w *World) Serve(name string, h http.Handler) {
	w.SetAddresses(name, netip.MustParseAddr("127.0.0.1"))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sites[name] = h
}

// Reset forgets what was asked and requested.
func (w *World) Reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = nil
	clear(w.questions)
}
