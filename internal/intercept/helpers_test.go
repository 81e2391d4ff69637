package intercept

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	testName = "origin.example"
	patience = 20 * time.Second // on a busy machine
)

// authority signs the servers of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "test roots"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(raw)
	must(t, err)
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// server makes a certificate for a name, that ended some time ago or will.
func (a *authority) server(t testing.TB, name string, ends time.Duration) tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: serial(), DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(ends),
	}
	if ip := net.ParseIP(name); ip != nil {
		tmpl.DNSNames, tmpl.IPAddresses = nil, []net.IP{ip}
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &a.key.PublicKey, a.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: a.key}
}

// origin is a server that a test dials.
type origin struct {
	addr string
}

// serve serves h on loopback; with a certificate over TLS, then also HTTP/2 where asked to.
func serveOrigin(t testing.TB, h http.Handler, cert *tls.Certificate, http2 bool) *origin {
	t.Helper()
	l := listen(t)
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(http2)
	s := &http.Server{Handler: h, Protocols: &p, ErrorLog: silent}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if cert == nil {
			_ = s.Serve(l)
			return
		}
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*cert}}
		_ = s.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return &origin{l.Addr().String()}
}

// rawOrigin gives each connection to a function.
func rawOrigin(t testing.TB, serve func(net.Conn)) *origin {
	t.Helper()
	l := listen(t)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() })
	return &origin{l.Addr().String()}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return l
}

func (o *origin) dial(ctx context.Context, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", o.addr)
}

// world is a guest's way to an origin through an Interceptor.
type world struct {
	t    testing.TB
	in   *Interceptor
	ca   *CA
	addr string // where the guest's connections go in

	mu      sync.Mutex
	seen    []Exchange
	asked   []Request
	errs    []error
	dials   int
	changed chan struct{} // closed and made anew at each change
}

// newWorld starts one. Flow fields that are missing are for TLS to testName at o.
func newWorld(t testing.TB, roots *x509.CertPool, o *origin, f Flow) *world {
	t.Helper()
	return newWorldOn(t, listen(t), roots, o, f)
}

// newWorldOn starts one whose guests connect to l.
func newWorldOn(t testing.TB, l net.Listener, roots *x509.CertPool, o *origin, f Flow) *world {
	t.Helper()
	ca, err := OpenCA(filepath.Join(t.TempDir(), "ca.pem"), time.Now())
	must(t, err)
	in, err := New(Config{CA: ca, Roots: roots})
	must(t, err)
	w := &world{t: t, in: in, ca: ca, changed: make(chan struct{})}
	w.fill(&f, o)
	w.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				err := in.Serve(ctx, conn, f)
				w.note(func() { w.errs = append(w.errs, err) })
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); work.Wait() })
	return w
}

func (w *world) fill(f *Flow, o *origin) {
	if f.Name == "" {
		f.Name = testName
	}
	if f.Port == 0 {
		f.Port = 443
	}
	dial := f.Dial
	if dial == nil {
		dial = o.dial
	}
	f.Dial = func(ctx context.Context, name string) (net.Conn, error) {
		w.note(func() { w.dials++ })
		return dial(ctx, name)
	}
	decide := f.Decide
	if decide == nil {
		decide = func(context.Context, *Request) Answer { return Answer{Allow: true} }
	}
	f.Decide = func(ctx context.Context, r *Request) Answer {
		w.note(func() { w.asked = append(w.asked, *r) })
		return decide(ctx, r)
	}
	f.Observe = func(e *Exchange) { w.note(func() { w.seen = append(w.seen, *e) }) }
}

func (w *world) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// await waits until ok, which is called with the lock.
func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	limit := time.After(patience)
	for {
		w.mu.Lock()
		done, changed := ok(), w.changed
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-limit:
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// exchange waits for the n-th exchange, from 0.
func (w *world) exchange(n int) Exchange {
	w.t.Helper()
	w.await("an exchange", func() bool { return len(w.seen) > n })
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[n]
}

func (w *world) dialed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

// trust is the guest's TLS configuration.
func (w *world) trust(protos ...string) *tls.Config {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(w.ca.PEM())
	return &tls.Config{RootCAs: p, ServerName: testName, NextProtos: protos}
}

// client is an HTTP client of the guest.
func (w *world) client(http2 bool) *http.Client {
	var p http.Protocols
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	tr := &http.Transport{
		Protocols: &p, TLSClientConfig: w.trust(), DisableCompression: true, ExpectContinueTimeout: patience,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", w.addr)
		},
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * patience}
}

// conn is a connection of the guest, over TLS where asked to.
func (w *world) conn(secure bool) net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	must(w.t, err)
	w.t.Cleanup(func() { conn.Close() })
	must(w.t, conn.SetDeadline(time.Now().Add(patience)))
	if !secure {
		return conn
	}
	return w.over(conn, "http/1.1")
}

// connFor is a connection of the guest over TLS that speaks a protocol.
func (w *world) connFor(proto string) net.Conn { return w.over(w.conn(false), proto) }

func (w *world) over(conn net.Conn, proto string) net.Conn {
	w.t.Helper()
	c := tls.Client(conn, w.trust(proto))
	must(w.t, c.Handshake())
	return c
}

// say sends bytes on a connection and returns all that comes back until its end.
func (w *world) say(secure bool, text string) string {
	w.t.Helper()
	conn := w.conn(secure)
	defer conn.Close()
	_, err := io.WriteString(conn, text)
	must(w.t, err)
	b, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "reset") {
		must(w.t, err)
	}
	return string(b)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func text(t testing.TB, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return string(b)
}

// noLeaks fails where goroutines of ours are left after the test's own clean-ups.
func noLeaks(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		limit := time.Now().Add(patience)
		for {
			left := ours()
			if left == "" {
				return
			}
			if time.Now().After(limit) {
				t.Errorf("left running:\n%s", left)
				return
			}
			runtime.Gosched()
		}
	})
}

// ours are the stacks of goroutines that serve flows or talk to servers.
func ours() string {
	buf := make([]byte, 1<<20)
	var left []string
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "net/http.(*") || strings.Contains(g, "intercept.(*server)") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}
