package intercept

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkCost measures requests through us against the same requests without
// us, in turns, so that a busy machine slows both. It reports ratios: 1 costs
// nothing, 0.5 is half as fast.
func BenchmarkCost(b *testing.B) {
	a := newAuthority(b)
	cert := a.server(b, testName, time.Hour)
	block := make([]byte, 1<<20)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/large" {
			w.Header().Set("Content-Length", fmt.Sprint(benchBody))
			_, _ = io.Copy(w, repeat(block, benchBody))
			return
		}
		fmt.Fprintf(w, "got %d", n)
	})
	for _, http2 := range []bool{false, true} {
		o := serveOrigin(b, h, &cert, http2)
		ways := [2]*way{direct(a, o, http2), through(b, a, o, http2)}
		proto := map[bool]string{false: "h1", true: "h2"}[http2]
		for name, run := range map[string]func(*way) error{
			"small":    func(w *way) error { return w.fetch("GET", "/", nil) },
			"download": func(w *way) error { return w.fetch("GET", "/large", nil) },
			"upload":   func(w *way) error { return w.fetch("POST", "/", repeat(block, benchBody)) },
			"connect":  func(w *way) error { w.tr.CloseIdleConnections(); return w.fetch("GET", "/", nil) },
		} {
			b.Run(proto+"/"+name, func(b *testing.B) { compare(b, ways, run, name) })
		}
	}
}

const benchBody = 16 << 20

// way is one way to the server.
type way struct {
	tr *http.Transport
}

func (w *way) fetch(method, path string, body io.Reader) error {
	req, err := http.NewRequest(method, "https://"+testName+path, body)
	if err != nil {
		return err
	}
	res, err := w.tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

func newWay(cfg *tls.Config, addr string, http2 bool) *way {
	var p http.Protocols
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	return &way{&http.Transport{
		Protocols: &p, TLSClientConfig: cfg, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
	}}
}

func direct(a *authority, o *origin, http2 bool) *way {
	return newWay(&tls.Config{RootCAs: a.pool(), ServerName: testName}, o.addr, http2)
}

func through(b *testing.B, a *authority, o *origin, http2 bool) *way {
	ca, err := OpenCA(filepath.Join(b.TempDir(), "ca.pem"), time.Now())
	must(b, err)
	in, err := New(Config{CA: ca, Roots: a.pool()})
	must(b, err)
	l := listen(b)
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(func() { l.Close(); cancel() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = in.Serve(ctx, conn, Flow{TLS: true, Name: testName, Port: 443, Dial: o.dial,
					Decide:  func(context.Context, *Request) Answer { return Answer{Allow: true} },
					Observe: func(*Exchange) {}})
			}()
		}
	}()
	w := &world{ca: ca}
	cfg := w.trust()
	return newWay(cfg, l.Addr().String(), http2)
}

// compare takes turns of both ways.
func compare(b *testing.B, ways [2]*way, run func(*way) error, name string) {
	var took [2]time.Duration
	for _, w := range ways {
		must(b, run(w)) // connections, certificates, sessions
	}
	n := 0
	for b.Loop() {
		for i, w := range ways {
			began := time.Now()
			must(b, run(w))
			took[i] += time.Since(began)
		}
		n++
	}
	b.ReportMetric(float64(took[0])/float64(took[1]), "of-direct")
	each := took[1].Seconds() / float64(n)
	switch name {
	case "download", "upload":
		b.ReportMetric(benchBody/each/1e6, "MB/s")
	default:
		b.ReportMetric(each*1e6, "µs/request")
		b.ReportMetric(took[0].Seconds()/float64(n)*1e6, "µs/direct")
	}
}
