package intercept

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
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
