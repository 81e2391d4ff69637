package intercept

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

// echo tells what it was asked.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Proto", r.Proto)
	fmt.Fprintf(w, "%s %s %s %s %q", r.Method, r.Host, r.RequestURI, r.Header.Get("X-Test"), b)
})

func TestProtocols(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	for _, guest2 := range []bool{false, true} {
		for _, origin2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("guest h2=%v, server h2=%v", guest2, origin2), func(t *testing.T) {
				noLeaks(t)
				w := newWorld(t, a.pool(), serveOrigin(t, echo, &cert, origin2), Flow{TLS: true})
				c := w.client(guest2)
				for i := range 3 {
					req, _ := http.NewRequest("POST", "https://"+testName+"/a%2Fb//c;d?q=1;2&x=%zz", strings.NewReader("body"))
					req.Header.Set("X-Test", "value")
					req.Header.Set("X-Forwarded-For", "kept")
					res, err := c.Do(req)
					must(t, err)
					want := "POST " + testName + " /a%2Fb//c;d?q=1;2&x=%zz value \"body\""
					if got := text(t, res); got != want || res.StatusCode != 200 {
						t.Errorf("got %d %s, want %s", res.StatusCode, got, want)
					}
					if (res.ProtoMajor == 2) != guest2 || (res.Header.Get("X-Proto") == "HTTP/2.0") != origin2 {
						t.Errorf("guest got %s, server %s", res.Proto, res.Header.Get("X-Proto"))
					}
					e := w.exchange(i)
					if e.Status != 200 || e.Up != 4 || e.Down != int64(len(want)) || !e.Passed || e.Request.Path != "/a%2Fb//c;d?q=1;2&x=%zz" || e.FirstByte <= 0 || e.Took < e.FirstByte {
						t.Errorf("exchange %+v", e)
					}
				}
				if n := w.dialed(); n != 1 {
					t.Errorf("%d connections for 3 requests on one", n)
				}
			})
		}
	}
}

func TestPlain(t *testing.T) {
	noLeaks(t)
	o := serveOrigin(t, echo, nil, false)
	w := newWorld(t, nil, o, Flow{Port: 80, Decide: func(_ context.Context, r *Request) Answer {
		return Answer{Allow: r.Host != "b.example", Name: r.Host}
	}})
	got := w.say(false, "GET /1?x HTTP/1.1\r\nHost: a.example\r\nX-Test: 1\r\n\r\nGET /2 HTTP/1.1\r\nHost: b.example\r\n\r\nGET http://c.example/3 HTTP/1.0\r\n\r\n")
	for _, want := range []string{"GET a.example /1?x 1", "403 Forbidden", "http://b.example/2", "GET c.example /3 "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if n := w.dialed(); n != 2 {
		t.Errorf("%d dials for two names that are allowed", n)
	}
	if e := w.exchange(1); e.Status != 403 || e.Passed || e.Upstream != "" {
		t.Errorf("denied exchange: %+v", e)
	}
}

func TestDenied(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	deny := Answer{Rule: "r2", Code: "method", Why: "Rule r2 allows GET alone.", Help: "Allow it with:\n  smolvm network approve"}
	for _, http2 := range []bool{false, true} {
		w := newWorld(t, a.pool(), serveOrigin(t, echo, &cert, true), Flow{TLS: true, Decide: func(_ context.Context, r *Request) Answer {
			if r.Method == "GET" {
				return Answer{Allow: true}
			}
			return deny
		}})
		c := w.client(http2)
		res, err := c.Post("https://"+testName+"/x", "", strings.NewReader("secret"))
		must(t, err)
		body := text(t, res)
		if res.StatusCode != 403 || res.Header.Get(HeaderDenied) != "method" {
			t.Errorf("got %d, header %q", res.StatusCode, res.Header.Get(HeaderDenied))
		}
		for _, want := range []string{deny.Why, "Rule: r2", "POST https://origin.example/x", "\n  smolvm network approve"} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in\n%s", want, body)
			}
		}
		if n := w.dialed(); n != 0 {
			t.Errorf("%d dials for a denied request", n)
		}
		res, err = c.Get("https://" + testName + "/y")
		must(t, err)
		if got := text(t, res); res.StatusCode != 200 {
			t.Errorf("then %d %s", res.StatusCode, got)
		}
	}
}

// TestAsked holds a request for an answer, which must not be given up while the
// guest waits, and must be when it goes.
func TestAsked(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	answer, gone := make(chan Answer), make(chan struct{}, 1)
	w := newWorld(t, a.pool(), serveOrigin(t, echo, &cert, true), Flow{TLS: true, Decide: func(ctx context.Context, r *Request) Answer {
		select {
		case a := <-answer:
			return a
		case <-ctx.Done():
			gone <- struct{}{}
			return Answer{Allow: true}
		}
	}})
	for _, http2 := range []bool{false, true} {
		ctx, cancel := context.WithCancel(context.Background())
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://"+testName+"/", nil)
		failed := make(chan error)
		asked := len(w.asked)
		go func() {
			_, err := w.client(http2).Do(req)
			failed <- err
		}()
		w.await("the question", func() bool { return len(w.asked) > asked })
		cancel()
		if err := <-failed; err == nil {
			t.Error("a request was answered before its decision")
		}
		select {
		case <-gone:
		case <-time.After(patience):
			t.Fatal("the question outlived its guest")
		}
	}
	if n := w.dialed(); n != 0 {
		t.Errorf("%d dials for nobody", n)
	}
	go func() { answer <- Answer{Allow: true} }()
	res, err := w.client(true).Get("https://" + testName + "/")
	must(t, err)
	if text(t, res); res.StatusCode != 200 {
		t.Errorf("approved: %d", res.StatusCode)
	}
}

func TestContinueAndHints(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed) // and never reads
			return
		}
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		echo(w, r)
	})
	for _, http2 := range []bool{false, true} {
		w := newWorld(t, a.pool(), serveOrigin(t, h, &cert, http2), Flow{TLS: true})
		for _, path := range []string{"/yes", "/no"} {
			var hinted, continued bool
			read := false
			ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
				Got100Continue: func() { continued = true },
				Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
					hinted = hinted || code == 103 && h.Get("Link") != ""
					return nil
				},
			})
			req, _ := http.NewRequestWithContext(ctx, "POST", "https://"+testName+path, readFunc(func(p []byte) (int, error) {
				if read {
					return 0, io.EOF
				}
				read = true
				return copy(p, "body"), nil
			}))
			req.Header.Set("Expect", "100-continue")
			res, err := w.client(false).Do(req)
			must(t, err)
			got := text(t, res)
			if path == "/no" {
				if res.StatusCode != 417 || read || continued {
					t.Errorf("h2=%v: a server that does not want the body: %d, read %v, continued %v", http2, res.StatusCode, read, continued)
				}
			} else if res.StatusCode != 200 || !strings.Contains(got, `"body"`) || !continued || !hinted {
				t.Errorf("h2=%v: got %d %s, continued %v, hinted %v", http2, res.StatusCode, got, continued, hinted)
			}
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestTrailers(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-After")
		fmt.Fprintf(w, "%s %s", r.Trailer.Get("X-Sum"), r.Header.Get("Te"))
		w.Header().Set("X-After", "later")
		w.Header().Set(http.TrailerPrefix+"X-Unsaid", "surprise")
	})
	for _, guest2 := range []bool{false, true} {
		for _, origin2 := range []bool{false, true} {
			w := newWorld(t, a.pool(), serveOrigin(t, h, &cert, origin2), Flow{TLS: true})
			req, _ := http.NewRequest("POST", "https://"+testName+"/", io.MultiReader(strings.NewReader("x")))
			req.Header.Set("Te", "trailers")
			req.Trailer = http.Header{"X-Sum": {"42"}}
			res, err := w.client(guest2).Do(req)
			must(t, err)
			if got := text(t, res); got != "42 trailers" || res.Trailer.Get("X-After") != "later" || res.Trailer.Get("X-Unsaid") != "surprise" {
				t.Errorf("guest h2=%v, server h2=%v: got %q, trailers %v", guest2, origin2, got, res.Trailer)
			}
		}
	}
}

// TestGuestWithoutTrust has a program with authorities of its own.
func TestGuestWithoutTrust(t *testing.T) {
	a := newAuthority(t)
	w := newWorld(t, a.pool(), &origin{}, Flow{TLS: true})
	conn := w.conn(false)
	c := tls.Client(conn, &tls.Config{RootCAs: a.pool(), ServerName: testName})
	if err := c.Handshake(); err == nil {
		t.Fatal("the guest's program trusts us without reason")
	}
	w.await("the end", func() bool { return len(w.errs) == 1 })
	if err := w.errs[0]; api.ClassOf(err) != api.Denied || api.AsError(err).Recovery == "" {
		t.Errorf("got %v (%s)", err, api.ClassOf(err))
	}
}

func TestOtherNameInHello(t *testing.T) {
	w := newWorld(t, nil, &origin{}, Flow{TLS: true})
	cfg := w.trust()
	cfg.ServerName, cfg.InsecureSkipVerify = "other.example", true
	c := tls.Client(w.conn(false), cfg)
	_ = c.Handshake()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")
	if b, _ := io.ReadAll(c); len(b) > 0 {
		t.Errorf("answered: %s", b)
	}
	w.await("the end", func() bool { return len(w.errs) == 1 })
	if err := w.errs[0]; api.ClassOf(err) != api.Invalid {
		t.Errorf("got %v", err)
	}
	if len(w.asked) > 0 || w.dialed() > 0 {
		t.Error("a request to another name was looked at")
	}
}

func TestBareAddress(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, "192.0.2.7", time.Hour)
	w := newWorld(t, a.pool(), serveOrigin(t, echo, &cert, true), Flow{TLS: true, Name: "192.0.2.7"})
	c := w.client(true)
	c.Transport.(*http.Transport).TLSClientConfig.ServerName = ""
	res, err := c.Get("https://192.0.2.7/x")
	must(t, err)
	if got := text(t, res); !strings.HasPrefix(got, "GET 192.0.2.7 /x") {
		t.Errorf("got %d %s", res.StatusCode, got)
	}
}
