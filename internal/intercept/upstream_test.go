package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

// TestBadCertificates has servers that are not who they should be: the guest
// must be told, and they nothing.
func TestBadCertificates(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	for _, c := range []struct {
		name string
		cert tls.Certificate
		want string
	}{
		{"expired", a.server(t, testName, -time.Hour), "expired"},
		{"wrong name", a.server(t, "other.example", time.Hour), "another name"},
		{"unknown issuer", stranger.server(t, testName, time.Hour), "issuer is unknown"},
	} {
		for _, guest2 := range []bool{false, true} {
			asked := false
			h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true })
			w := newWorld(t, a.pool(), serveOrigin(t, h, &c.cert, true), Flow{TLS: true, Rewrite: func(_ context.Context, out *Outgoing) error {
				out.Header.Set("Authorization", "real")
				return nil
			}})
			res, err := w.client(guest2).Post("https://"+testName+"/", "", strings.NewReader("secret"))
			must(t, err)
			body := text(t, res)
			if res.StatusCode != 502 || !strings.Contains(body, c.want) || !strings.Contains(body, testName) {
				t.Errorf("%s: got %d %s", c.name, res.StatusCode, body)
			}
			if e := w.exchange(0); e.Passed || e.Err == "" || asked {
				t.Errorf("%s: something was sent: %+v", c.name, e)
			}
		}
	}
}

func TestUpstreamFailures(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	closed := rawOrigin(t, func(c net.Conn) {})
	wantsCert := rawOrigin(t, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})
		_ = s.Handshake()
		_, _ = copyAll(io.Discard, c) // a close would overtake the alert
	})
	noTLS := serveOrigin(t, echo, nil, false)
	noAnswer := rawOrigin(t, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		_, _ = s.Read(make([]byte, 1))
	})
	for _, c := range []struct {
		name   string
		dial   func(context.Context, string) (net.Conn, error)
		status int
		want   string
	}{
		{"refused", func(context.Context, string) (net.Conn, error) {
			return nil, api.Errorf(api.Unavailable, "dial origin.example: connection refused").WithRecovery("Start it.")
		}, 502, "connection refused"},
		{"slow", func(context.Context, string) (net.Conn, error) { return nil, context.DeadlineExceeded }, 504, "in time"},
		{"closes at once", closed.dial, 502, "without a response"},
		{"wants a certificate", wantsCert.dial, 502, "certificate of its client"},
		{"speaks no TLS", noTLS.dial, 502, "does not speak TLS"},
		{"closes without an answer", noAnswer.dial, 502, "without a response"},
		{"not allowed after all", func(context.Context, string) (net.Conn, error) {
			return nil, api.Errorf(api.Denied, "dial: the address is private")
		}, 502, "the address is private"},
	} {
		w := newWorld(t, a.pool(), &origin{}, Flow{TLS: true, Dial: c.dial})
		res, err := w.client(true).Post("https://"+testName+"/", "", strings.NewReader("x"))
		must(t, err)
		if body := text(t, res); res.StatusCode != c.status || !strings.Contains(body, c.want) || res.Header.Get(HeaderDenied) != "upstream" {
			t.Errorf("%s: got %d %s", c.name, res.StatusCode, body)
		}
	}
}

// TestBrokenResponse has a server that breaks off: the guest must not take what
// came for the whole.
func TestBrokenResponse(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("begin"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	for _, guest2 := range []bool{false, true} {
		for _, origin2 := range []bool{false, true} {
			w := newWorld(t, a.pool(), serveOrigin(t, h, &cert, origin2), Flow{TLS: true})
			res, err := w.client(guest2).Get("https://" + testName + "/")
			must(t, err)
			var b strings.Builder
			if _, err := copyAll(&b, res.Body); err == nil {
				t.Errorf("guest h2=%v: %q looked whole", guest2, b.String())
			}
			res.Body.Close()
		}
	}
}

func TestRewrite(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { echo(w, r) })
	for _, origin2 := range []bool{false, true} {
		w := newWorld(t, a.pool(), serveOrigin(t, h, &cert, origin2), Flow{TLS: true, Rewrite: func(_ context.Context, out *Outgoing) error {
			if out.Scheme != "https" || out.Name != testName || out.Host != testName || out.Method != "POST" {
				return errors.New("odd request")
			}
			if out.Path == "/refused" {
				return errors.New("the body is too large")
			}
			out.Header.Set("X-Test", strings.ReplaceAll(out.Header.Get("X-Test"), "HOLDER", "value"))
			out.Path = strings.ReplaceAll(out.Path, "HOLDER", "v%26x")
			out.Body = body{strings.NewReader("another body"), out.Body}
			out.Length = 12
			out.Secrets = append(out.Secrets, "TOKEN")
			return nil
		}})
		for _, guest2 := range []bool{false, true} {
			req, _ := http.NewRequest("POST", "https://"+testName+"/?key=HOLDER", strings.NewReader("x"))
			req.Header.Set("X-Test", "Bearer HOLDER")
			res, err := w.client(guest2).Do(req)
			must(t, err)
			if got, want := text(t, res), `POST origin.example /?key=v%26x Bearer value "another body"`; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if e := w.exchange(0); len(e.Secrets) != 1 || e.Secrets[0] != "TOKEN" || strings.Contains(e.Request.Header.Get("X-Test"), "value") {
			t.Errorf("exchange %+v", e)
		}
		res, err := w.client(true).Post("https://"+testName+"/refused", "", strings.NewReader("x"))
		must(t, err)
		if got := text(t, res); res.StatusCode != 502 || !strings.Contains(got, "the body is too large") {
			t.Errorf("refused: %d %s", res.StatusCode, got)
		}
		if e := w.exchange(2); e.Passed {
			t.Errorf("a refused request was sent: %+v", e)
		}
	}
}

type body struct {
	*strings.Reader
	old interface{ Close() error }
}

func (b body) Close() error { return b.old.Close() }
