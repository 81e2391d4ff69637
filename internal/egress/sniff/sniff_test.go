package sniff

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// helloOf returns what the standard library's own client sends.
func helloOf(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	here, there := net.Pipe()
	sent := make(chan []byte)
	go func() {
		head := make([]byte, 5)
		io.ReadFull(there, head)
		body := make([]byte, int(head[3])<<8|int(head[4]))
		io.ReadFull(there, body)
		there.Close()
		sent <- append(head, body...)
	}()
	here.SetDeadline(time.Now().Add(10 * time.Second))
	if err := tls.Client(here, c).Handshake(); err == nil {
		t.Fatal("nobody answered, and the handshake succeeded")
	}
	return <-sent
}

func TestHelloOfRealClient(t *testing.T) {
	b := helloOf(t, &tls.Config{ServerName: "Example.COM", NextProtos: []string{"h2", "http/1.1"}})
	h, err := ReadHello(b)
	if err != nil || h.SNI != "example.com" || !slices.Equal(h.ALPN, []string{"h2", "http/1.1"}) || h.ECH {
		t.Fatalf("%+v, %v", h, err)
	}
	b = helloOf(t, &tls.Config{ServerName: "192.0.2.1", InsecureSkipVerify: true})
	if h, err := ReadHello(b); err != nil || h.SNI != "" {
		t.Fatalf("without a name: %+v, %v", h, err)
	}
}

func TestHelloIsShortUntilWhole(t *testing.T) {
	b := helloOf(t, &tls.Config{ServerName: "example.com"})
	for i := range b {
		if _, err := ReadHello(b[:i]); !errors.Is(err, ErrShort) {
			t.Fatalf("after %d of %d bytes: %v", i, len(b), err)
		}
		if k := Detect(b[:i]); k != TLS && k != Short || k == Short && i > 5 {
			t.Fatalf("after %d bytes: %s", i, k)
		}
	}
}

// records splits a handshake message into records of some size.
func records(msg []byte, size int) []byte {
	var out []byte
	for len(msg) > 0 {
		n := min(size, len(msg))
		out = append(out, 22, 3, 1, byte(n>>8), byte(n))
		out, msg = append(out, msg[:n]...), msg[n:]
	}
	return out
}

func TestHelloInManyRecords(t *testing.T) {
	b := helloOf(t, &tls.Config{ServerName: "example.com"})
	for _, size := range []int{1, 3, 100} {
		h, err := ReadHello(records(b[5:], size))
		if err != nil || h.SNI != "example.com" {
			t.Errorf("records of %d bytes: %+v, %v", size, h, err)
		}
	}
}

// hello builds a client hello with extensions as given.
func hello(extensions ...[]byte) []byte {
	ext := slices.Concat(extensions...)
	body := append(make([]byte, 34), 0, 0, 2, 0x13, 0x01, 1, 0)
	body = append(append(body, byte(len(ext)>>8), byte(len(ext))), ext...)
	msg := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return records(msg, maxRecord)
}

func ext(id int, body ...byte) []byte {
	return append([]byte{byte(id >> 8), byte(id), byte(len(body) >> 8), byte(len(body))}, body...)
}

func sni(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(append(list, 0, byte(len(n)>>8), byte(len(n))), n...)
	}
	return ext(extServerName, append([]byte{byte(len(list) >> 8), byte(len(list))}, list...)...)
}

func TestHelloOddities(t *testing.T) {
	if h, err := ReadHello(hello(sni("a.example."), ext(extECH, 1))); err != nil || h.SNI != "a.example" || !h.ECH {
		t.Errorf("ECH: %+v, %v", h, err)
	}
	for name, b := range map[string][]byte{
		"two names":        hello(sni("a.example", "b.example")),
		"two extensions":   hello(sni("a.example"), sni("b.example")),
		"zero byte":        hello(sni("a.example\x00.b.example")),
		"space":            hello(sni("a.example ")),
		"no name at all":   hello(sni("")),
		"only a dot":       hello(sni(".")),
		"not ASCII":        hello(sni("ä.example")),
		"name type 1":      hello(ext(extServerName, 0, 4, 1, 0, 1, 'a')),
		"empty ALPN":       hello(ext(extALPN, 0, 0)),
		"cut extension":    hello([]byte{0, 0, 0, 9, 1}),
		"record of zero":   {22, 3, 1, 0, 0},
		"record too large": {22, 3, 1, 0xff, 0xff},
		"alert":            {21, 3, 1, 0, 2, 1, 0},
		"server hello":     records([]byte{2, 0, 0, 0}, 10),
		"huge hello":       records([]byte{1, 0xff, 0, 0}, 10),
		"more behind":      records(append(hello(sni("a.example"))[5:], 1, 0, 0, 0), maxRecord),
		"SSL 2":            {0x80, 0x2e, 1, 3, 1, 0, 0},
	} {
		if h, err := ReadHello(b); err == nil || errors.Is(err, ErrShort) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestHelloIsBounded(t *testing.T) {
	// A hello that never ends, byte by byte in records.
	b := records(append([]byte{1, 0, 0xff, 0xf0}, make([]byte, 20000)...), 1)
	if _, err := ReadHello(b); err == nil || errors.Is(err, ErrShort) {
		t.Errorf("%d bytes of hello: %v", len(b), err)
	}
}

func TestDetect(t *testing.T) {
	for in, want := range map[string]Kind{
		"":                         Short,
		"GET":                      Short,
		"GET / HTTP/1.1\r\n":       HTTP1,
		"\r\nGET / HTTP/1.1\r\n":   HTTP1,
		"PRI ":                     Short,
		"PRI / HTTP/1.1":           HTTP1,
		preface[:20]:               Short,
		preface + "more":           Preface,
		"SSH-2.0-OpenSSH_9\r\n":    Other, // "/" comes too late to matter, the line end does
		"EHLO there":               HTTP1,
		"\x16":                     Short,
		"\x16\x03\x01\x02\x00":     Short,
		"\x16\x03\x01\x02\x00\x01": TLS,
		"\x16\x03\x01\x02\x00\x02": Other,
		"\x16\x04":                 Other,
		"\x80\x2e\x01\x03\x01\x00": TLS,
		"\x00\x00":                 Other,
		strings.Repeat("A", 40):    Other,
		strings.Repeat("\n", 100):  Other,
	} {
		if got := Detect([]byte(in)); got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
}

func TestHead(t *testing.T) {
	for in, want := range map[string]Head{
		"GET /a?b HTTP/1.1\r\nHost: Example.com\r\n":                  {Method: "GET", Path: "/a?b", Host: "Example.com", Minor: 1},
		"POST / HTTP/1.0\r\n":                                         {Method: "POST", Path: "/"},
		"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n":      {Method: "GET", Path: "/x", Host: "a.example", Scheme: "http", Minor: 1},
		"GET HTTP://a.example:80 HTTP/1.1\r\nhost: A.example\r\n":     {Method: "GET", Path: "/", Host: "a.example:80", Scheme: "http", Minor: 1},
		"GET http://a.example?q HTTP/1.1\r\nhost: a.example\r\n":      {Method: "GET", Path: "/?q", Host: "a.example", Scheme: "http", Minor: 1},
		"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n":   {Method: "CONNECT", Host: "a.example:443", Minor: 1},
		"OPTIONS * HTTP/1.1\r\nHost: a.example\r\nX-Long:\t a b \r\n": {Method: "OPTIONS", Path: "*", Host: "a.example", Minor: 1},
		"GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n":              {Method: "GET", Path: "/", Host: "[2001:db8::1]:8080", Minor: 1},
		"GET / HTTP/1.1\r\nHost:\r\nContent-Length: 3\r\n":            {Method: "GET", Path: "/", Minor: 1},
	} {
		in += "\r\n"
		want.Size = len(in)
		got, err := ReadHead([]byte(in + "body"))
		if err != nil || got != want {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", in, got, err, want)
		}
		for i := range in {
			if _, err := ReadHead([]byte(in[:i])); !errors.Is(err, ErrShort) {
				t.Errorf("%q cut at %d: %v", in, i, err)
			}
		}
	}
}

func TestHeadOddities(t *testing.T) {
	for _, in := range []string{
		"GET / HTTP/1.1\nHost: a.example\n\n",
		"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.example\r\n b.example\r\n\r\n",
		"GET / HTTP/1.1\r\nX: a\rb\r\nHost: a.example\r\n\r\n",
		"GET / HTTP/1.1\r\nX: a\x00b\r\n",
		"GET / HTTP/1.1\r\n\r\n",
		"GET / HTTP/2.0\r\nHost: a.example\r\n\r\n",
		"GET /  HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET\t/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n",
		"GET /#f HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET * HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET http:///x HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n",
		"GET http://u@a.example/ HTTP/1.1\r\nHost: u@a.example\r\n\r\n",
		"CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.example:99999\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\n",
		"\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.example\r\n" + strings.Repeat("X: y\r\n", 300) + "\r\n",
		"GET /" + strings.Repeat("x", MaxHead+1),
	} {
		if h, err := ReadHead([]byte(in)); err == nil || errors.Is(err, ErrShort) {
			t.Errorf("%.80q: %+v, %v", in, h, err)
		}
	}
}

func FuzzHello(f *testing.F) {
	f.Add(helloOf(f, &tls.Config{ServerName: "example.com", NextProtos: []string{"h2"}}))
	f.Add(hello(sni("a.example"), ext(extECH, 1, 2, 3)))
	f.Add(records(hello(sni("a.example"))[5:], 7))
	f.Add([]byte("\x80\x2e\x01\x03\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ReadHello(b)
		if err != nil && (h.SNI != "" || h.ECH || h.ALPN != nil) {
			t.Fatalf("an error and %+v", h)
		}
		if errors.Is(err, ErrShort) && len(b) >= MaxHello {
			t.Fatal("asks for more than its bound")
		}
		if err == nil && Detect(b) != TLS {
			t.Fatalf("read as a hello, detected as %s", Detect(b))
		}
		if strings.ContainsAny(h.SNI, " \x00\n") || strings.HasSuffix(h.SNI, "..") && h.SNI == "" {
			t.Fatalf("name %q", h.SNI)
		}
		// What was understood must not change with what follows.
		if more, err2 := ReadHello(append(slices.Clone(b), 22, 3, 3, 0, 1, 0)); err == nil && (err2 != nil || more.SNI != h.SNI || more.ECH != h.ECH) {
			t.Fatalf("with more: %+v, %v", more, err2)
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add([]byte("GET /a?b HTTP/1.1\r\nHost: example.com\r\n\r\nbody"))
	f.Add([]byte("GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n"))
	f.Add([]byte("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"))
	f.Add([]byte(preface))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ReadHead(b)
		switch {
		case err != nil:
			if h != (Head{}) {
				t.Fatalf("an error and %+v", h)
			}
			if errors.Is(err, ErrShort) && len(b) > MaxHead+2 {
				t.Fatal("asks for more than its bound")
			}
			return
		case Detect(b) != HTTP1:
			t.Fatalf("read as HTTP/1, detected as %s", Detect(b))
		case h.Size > len(b) || !bytes.HasSuffix(b[:h.Size], []byte("\r\n\r\n")):
			t.Fatalf("size %d of %d", h.Size, len(b))
		case strings.ContainsAny(h.Host+h.Path+h.Method, " \r\n\x00"):
			t.Fatalf("%+v", h)
		}
		if again, err := ReadHead(b[:h.Size]); err != nil || again != h {
			t.Fatalf("without the body: %+v, %v", again, err)
		}
	})
}
