package intercept

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// FuzzTarget reads requests as the server does and asks that what goes on is what
// was decided, byte for byte, in one line.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/", "/a%2Fb?x=%zz;1&&", "//host/x", "/?", "*", "http://a/b?c", "http://a", "/\\..;/%2e", "/\"<>^`{|}", "/a?b?c#d", "/%", "/;x://y"} {
		f.Add("GET", s, "a.example")
	}
	f.Add("CONNECT", "a.example:22", "b.example")
	f.Add("OPTIONS", "*", "a.example")
	f.Fuzz(func(t *testing.T, method, target, host string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")))
		if err != nil {
			return
		}
		path, ok := wirePath(r, "http")
		if !ok || r.Method == http.MethodConnect {
			return
		}
		if !strings.HasSuffix(r.RequestURI, path) && path != "/" && !strings.HasPrefix(path, "/?") {
			t.Fatalf("path %q of target %q", path, r.RequestURI)
		}
		u := &url.URL{Scheme: "http", Host: "a.example:80"}
		if err := setPath(u, path); err != nil {
			if strings.HasPrefix(path, "//") {
				return // the one that cannot be written in every spelling
			}
			t.Fatalf("path %q: %v", path, err)
		}
		var b strings.Builder
		r2 := &http.Request{Method: r.Method, URL: u, Host: r.Host, Header: http.Header{}}
		if err := r2.Write(&b); err != nil {
			return
		}
		line, _, _ := strings.Cut(b.String(), "\r\n")
		if want := r.Method + " " + path + " HTTP/1.1"; line != want {
			t.Fatalf("sent %q, want %q", line, want)
		}
	})
}

// FuzzRequests sends bytes as a guest and asks that a server gets no request that
// was not allowed: where our reader and the server's part, one is smuggled.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\nTrailer: X\r\n\r\n3;a=b\r\nGET\r\n0\r\nX: y\r\n\r\n",
		"GET http://b/x HTTP/1.0\r\nConnection: keep-alive, X-A\r\nX-A: \r\n\tb\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nExpect: 100-continue\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	in, err := New(Config{})
	must(f, err)
	f.Fuzz(func(t *testing.T, b []byte) {
		var mu sync.Mutex
		allowed := map[string]int{}
		var servers sync.WaitGroup
		key := func(method, host, path string) string { return method + " " + host + " " + path }
		dial := func(context.Context, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			servers.Go(func() {
				defer theirs.Close()
				_ = theirs.SetDeadline(time.Now().Add(patience))
				for buf := bufio.NewReader(theirs); ; {
					r, err := http.ReadRequest(buf)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					mu.Lock()
					k := key(r.Method, r.Host, r.RequestURI)
					if allowed[k]--; allowed[k] < 0 {
						t.Errorf("the server got %q, which was not allowed so often", k)
					}
					mu.Unlock()
					if _, err := io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
						return
					}
				}
			})
			return ours, nil
		}
		guest, ours := net.Pipe()
		go func() {
			_, _ = guest.Write(append(b, "\r\n\r\n"...))
			_, _ = guest.Write([]byte("GET /end HTTP/1.1\r\nHost: end\r\nConnection: close\r\n\r\n"))
		}()
		go func() { _, _ = io.Copy(io.Discard, guest); guest.Close() }()
		_ = guest.SetDeadline(time.Now().Add(200 * time.Millisecond)) // bytes that ask for more
		_ = in.Serve(context.Background(), ours, Flow{Name: "a", Port: 80, Dial: dial, Decide: func(_ context.Context, r *Request) Answer {
			mu.Lock()
			defer mu.Unlock()
			host := r.Host
			if host == "" {
				host = "a:80" // what is dialled, of HTTP/1.0
			}
			allowed[key(r.Method, host, r.Path)]++
			return Answer{Allow: true}
		}})
		servers.Wait()
	})
}

// FuzzSameHost looks for a host that counts as the flow's and is another.
func FuzzSameHost(f *testing.F) {
	for _, s := range []string{"a.example", "A.example.:443", "[::1]:443", "::1", "[a.example]", "a.example:0443", "a.example:", ":443"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		for _, name := range []string{"a.example", "2001:db8::1"} {
			if !sameHost(host, name, 443) {
				continue
			}
			rest := strings.ToLower(host)
			rest = strings.TrimSuffix(rest, ":443")
			rest = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(rest, "["), "]"), ".")
			if rest != name {
				t.Fatalf("%q counts as %s", host, name)
			}
		}
	})
}

// FuzzCA reads files of authorities.
func FuzzCA(f *testing.F) {
	c, err := makeCA(time.Now())
	must(f, err)
	text, err := c.encode()
	must(f, err)
	f.Add(text)
	f.Add(text[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeCA(b, time.Now()); err == nil {
			c := CA{own: s}
			if _, err := c.leaf("a.example", time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzPage writes pages of anything.
func FuzzPage(f *testing.F) {
	f.Add("GET", "a.example", "/x\r\nSet-Cookie: a", "why\x1b[2J", "r\n1", "help\nme")
	f.Fuzz(func(t *testing.T, method, host, path, why, rule, help string) {
		b := Denied(&Request{Method: method, Scheme: "http", Host: host, Path: path}, Answer{Code: why, Why: why, Rule: rule, Help: help})
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(b))), &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 403 || len(res.Header) > 5 || len(res.Cookies()) > 0 {
			t.Fatalf("headers %v", res.Header)
		}
		if got := text(t, res); strings.ContainsAny(strings.ReplaceAll(got, "\n", ""), "\x00\x1b\r") {
			t.Fatalf("page %q", got)
		}
	})
}
