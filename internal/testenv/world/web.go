package world

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Request is a request that came to a site.
type Request struct {
	Proto  string // as in "HTTP/2.0"
	TLS    bool
	Host   string // without port
	Method string
	Path   string // with the query
	Status int    // zero: not answered yet
	Header http.Header
}

// Requests returns what came to a site, oldest first; of "" to all.
func (w *World) Requests(site string) []Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Request
	for _, r := range w.requests {
		if site == "" || r.Host == site {
			list = append(list, *r)
		}
	}
	return list
}

// startWeb starts the servers of the sites.
func (w *World) startWeb(t testing.TB, ca *authority) {
	t.Helper()
	w.sites = map[string]http.Handler{
		WWW: pages(), Bad: pages(), WS: socket(),
		Git: w.repository(t), PyPI: w.wheels(t), NPM: w.tarballs(t), Deb: w.debs(t),
	}
	h := http.HandlerFunc(w.note)
	secure, plain := listen(t), listen(t)
	w.HTTPS, w.HTTP = port(secure), port(plain)
	serve(t, &http.Server{Handler: h, TLSConfig: &tls.Config{GetCertificate: ca.leaf}}, secure)
	serve(t, &http.Server{Handler: h}, plain)
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// serve serves until the end of the test.
func serve(t testing.TB, s *http.Server, l net.Listener) {
	done := make(chan error, 1)
	s.ErrorLog = quiet()
	go func() {
		if s.TLSConfig != nil {
			done <- s.ServeTLS(l, "", "")
		} else {
			done <- s.Serve(l)
		}
	}()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("web server: %v", err)
		}
	})
}

// note notes each request and gives it to its site.
func (w *World) note(rw http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	noted := &Request{
		Proto: r.Proto, TLS: r.TLS != nil, Host: strings.ToLower(host),
		Method: r.Method, Path: r.URL.RequestURI(), Header: r.Header.Clone(),
	}
	w.mu.Lock()
	w.requests = append(w.requests, noted)
	site := w.sites[noted.Host]
	w.mu.Unlock()
	watched := &watchedWriter{ResponseWriter: rw, status: func(n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if noted.Status == 0 {
			noted.Status = n
		}
	}}
	if site != nil {
		site.ServeHTTP(watched, r)
	} else {
		http.Error(watched, "no such site", http.StatusMisdirectedRequest)
	}
	watched.status(http.StatusOK) // what net/http says for who said nothing
}

// watchedWriter tells the status of an answer before the client can know it.
type watchedWriter struct {
	http.ResponseWriter
	status func(int)
}

func (w *watchedWriter) WriteHeader(n int) {
	if n >= 200 {
		w.status(n)
	}
	w.ResponseWriter.WriteHeader(n)
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	w.status(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

func (w *watchedWriter) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		w.status(http.StatusOK)
		f.Flush()
	}
}

// Hijack is for WebSockets.
func (w *watchedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, http.ErrNotSupported
	}
	w.status(http.StatusSwitchingProtocols)
	return h.Hijack()
}
