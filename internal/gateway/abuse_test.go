package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/gateway"
	"github.com/smolvm/smolvm/internal/sockpath"
)

// dial connects without saying anything.
func (d *door) dial(network string) net.Conn {
	d.Helper()
	var conn net.Conn
	var err error
	if network == "unix" {
		conn, err = sockpath.Dial(d.ctx, d.socket)
	} else {
		conn, err = new(net.Dialer).DialContext(d.ctx, "tcp", d.addr)
	}
	d.ok(err)
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// raw sends bytes as they are and returns the answer; nil: the connection was closed
// without one.
func (d *door) raw(text string) *http.Response {
	d.Helper()
	conn := d.dial("unix")
	d.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil && !errors.Is(err, syscall.EPIPE) {
		d.ok(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil
	}
	return res
}

func TestIdleConnections(t *testing.T) {
	d := open(t, gateway.Options{})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range 1000 {
		conns = append(conns, d.dial([]string{"unix", "tcp"}[i%2]))
	}
	d.call(200, "GET", "/v1/version", nil, nil)
	d.answered(d.sendTCP("GET", "/v1/version", nil), 200, nil)
	// One of those that said nothing may still come to speak.
	last := conns[998]
	if _, err := io.WriteString(last, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(last), nil)
	if err != nil || res.StatusCode != 200 {
		t.Errorf("%v, %v", res, err)
	}
}

func TestMoreConnectionsThanThereMayBe(t *testing.T) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil || lim.Cur < 10000 {
		t.Fatalf("this test needs 10000 open files, the limit is %d (%v)", lim.Cur, err)
	}
	d := open(t, gateway.Options{})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range gateway.MaxConns {
		conns = append(conns, d.dial("unix"))
	}
	one := d.dial("unix")
	defer one.Close()
	res, err := http.ReadResponse(bufio.NewReader(one), nil)
	d.ok(err)
	var f gateway.Failure
	d.answered(withRequest(res), 503, &f)
	if f.Class != api.Exhausted || f.Code != "too_many_connections" {
		t.Errorf("%+v", f)
	}
	for _, c := range conns {
		c.Close()
	}
	d.eventually("there is room again", func() bool {
		res, err := d.unix.Get("http://smolvm/healthz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == 200
	})
}

func withRequest(res *http.Response) *http.Response {
	res.Request, _ = http.NewRequest("GET", "http://smolvm/", nil)
	return res
}

func TestHugeRequests(t *testing.T) {
	d := open(t, gateway.Options{})
	huge := strings.Repeat("x", 9<<20)
	d.refused(d.send("POST", "/v1/sandboxes", strings.NewReader(`{"name":"`+huge+`"}`), "Content-Type: application/json"), 413, api.Exhausted, "too_large")
	f := d.refused(d.send("GET", "/v1/sandboxes/"+strings.Repeat("x", 10000), nil), 400, api.Invalid, "")
	if len(f.Message) > 1000 {
		t.Errorf("the answer has %d bytes", len(f.Message))
	}
	for name, text := range map[string]string{
		"head":    "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"headers": "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 20<<10) + "\r\n",
		"path":    "GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		if res := d.raw(text); res == nil || res.StatusCode != 431 {
			t.Errorf("%s: %+v", name, res)
		}
	}
	// A body that is longer than it says, or shorter, spoils nothing but itself.
	if res := d.raw("POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]{}"); res == nil || res.StatusCode != 400 {
		t.Errorf("%+v", res)
	}
	if res := d.raw("POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"); res == nil || res.StatusCode != 400 {
		t.Errorf("%+v", res)
	}
	d.call(200, "GET", "/healthz", nil, nil)
}

func TestBodiesThatAreNotWhatIsAskedFor(t *testing.T) {
	d := open(t, gateway.Options{})
	deep := strings.Repeat("[", 100000)
	for _, body := range []string{
		"", "{", "null", "[]", `"x"`, "\x00", "\xff\xfe", `{"name":1}`, `{"nam":"x"}`, `{"cpus":1e400}`, `{"cpus":-1}`, `{"cpus":1.5}`,
		`{"env":{"A":null}}`, `{"env":[]}`, `{"memory_mib":99999999999999999999}`, `{"name":"\ud800"}`, `{"name":"a","name":2}`,
		`{"labels":` + deep, `{"secrets":[null]}`, `{"ports":[{}]}`, `{"network":{"policy":{"rules":[{}]}}}`, `{"name":"x"}{"name":"y"}`,
		`{"ttl_seconds":"NaN"}`, `{"image":"` + strings.Repeat("i", 100000) + `"}`,
	} {
		res := d.send("POST", "/v1/sandboxes", strings.NewReader(body), "Content-Type: application/json")
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode >= 500 || res.StatusCode < 400 {
			t.Errorf("%.60q: %s %.300s %v", body, res.Status, b, err)
		}
		if len(b) > 8<<10 {
			t.Errorf("%.60q: the answer has %d bytes", body, len(b))
		}
	}
	d.refused(d.send("POST", "/v1/sandboxes", strings.NewReader("a: b"), "Content-Type: application/yaml"), 415, api.Invalid, "media_type")
	if got := d.ids(); len(got) > 0 {
		t.Errorf("%v were made", got)
	}
}

func TestSlowBodies(t *testing.T) {
	d := open(t, gateway.Options{BodyTime: 200 * time.Millisecond})
	sb := d.create(smolvm.Spec{})
	slow, w := io.Pipe()
	defer w.Close()
	d.refused(d.send("POST", "/v1/sandboxes/"+sb.ID()+"/rename", slow, "Content-Type: application/json"), 408, api.Timeout, "body_timeout")
	// The bound is of the body: work that takes longer goes on.
	answered := make(chan *http.Response, 1)
	go func() { answered <- d.send("POST", "/v1/sandboxes/"+sb.ID()+"/wait", nil) }()
	go func() {
		answered <- d.send("POST", "/v1/sandboxes/"+sb.ID()+"/stop", api.Stop{GraceSeconds: 1})
	}()
	for range 2 {
		d.answered(<-answered, 200, nil)
	}
}

func TestHeadsThatNeverEnd(t *testing.T) {
	d := open(t, gateway.Options{HeaderTime: 200 * time.Millisecond})
	var wg sync.WaitGroup
	for range 50 {
		conn := d.dial("tcp")
		wg.Go(func() {
			defer conn.Close()
			fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: ")
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("a connection whose request never comes is kept")
			}
		})
	}
	wg.Wait()
	d.call(200, "GET", "/healthz", nil, nil)
}

func TestIdleExit(t *testing.T) {
	home := t.TempDir()
	l, err := sockpath.Listen(home + "/api.sock")
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Client: smolvm.Client{Home: home}, IdleExit: 100 * time.Millisecond})
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(context.Background(), l) }()
	conn, err := sockpath.Dial(t.Context(), home+"/api.sock")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("it ended although there was a connection")
	case <-time.After(300 * time.Millisecond): // what must not happen has no event
	}
	conn.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}
