package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/gateway"
	"github.com/smolvm/smolvm/internal/sockpath"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/fakehost"
)

// patience bounds a wait: far above what any takes on a busy machine.
const patience = 30 * time.Second

// door is a gateway over the fake host: real supervisors, processes, files and
// sockets. Both of its addresses lead to the same server.
type door struct {
	*testing.T
	smolvm.Client // the same sandboxes, without the gateway
	ctx           context.Context
	keys          *apikey.Store
	socket        string // path of the Unix socket
	addr          string // of TCP, HOST:PORT
	unix, tcp     *http.Client
	token         string // of a key with scope admin, for TCP
	stop          func() // ends the gateway; it is ended anyway when the test does
	log           *logged
}

// open starts a gateway. Fields of o that are zero are filled in.
func open(t *testing.T, o gateway.Options) *door {
	t.Helper()
	home := fakehost.Home(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	d := &door{
		T: t, ctx: ctx, Client: smolvm.Client{Home: home, Binary: os.Args[0]},
		keys: apikey.Open(filepath.Join(home, "api-keys.json")), socket: filepath.Join(home, "api.sock"), log: new(logged),
	}
	t.Cleanup(func() {
		defer cancel()
		d.empty()
	})
	o.Client, o.Keys = d.Client, d.keys
	o.Version = "test"
	o.Log = slog.New(slog.NewTextHandler(d.log, nil))
	d.token = d.key(apikey.Options{Scope: apikey.Admin})
	d.serve(o)
	return d
}

func (d *door) serve(o gateway.Options) {
	d.Helper()
	unix, err := sockpath.Listen(d.socket)
	d.ok(err)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	d.ok(err)
	d.addr = tcp.Addr().String()
	d.unix = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return sockpath.Dial(ctx, d.socket)
	}}}
	d.tcp = &http.Client{Transport: &http.Transport{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gateway.New(o).Serve(ctx, unix, tcp) }()
	d.stop = sync.OnceFunc(func() {
		d.unix.CloseIdleConnections()
		d.tcp.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			d.Error(err)
		}
	})
	d.Cleanup(d.stop)
}

// key makes a key and returns its token.
func (d *door) key(o apikey.Options) string {
	d.Helper()
	_, token, err := d.keys.Create(o)
	d.ok(err)
	return token
}

// empty removes every sandbox and snapshot and then finds no process and no file.
func (d *door) empty() {
	d.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := d.DrainPools(ctx, "")
	d.fine(err)
	list, err := d.List(ctx, smolvm.ListOptions{})
	d.fine(err)
	for _, info := range list {
		sb, err := d.Get(ctx, info.ID)
		if err == nil {
			err = sb.Remove(ctx)
		}
		if !errors.Is(err, smolvm.ErrNotFound) {
			d.fine(err)
		}
	}
	snapshots, err := d.Snapshots(ctx)
	d.fine(err)
	for _, s := range snapshots {
		d.fine(d.RemoveSnapshot(ctx, s.Name))
	}
	d.eventually("its processes end", func() bool { return len(testenv.Processes(d.Home)) == 0 })
}

func (d *door) ok(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *door) fine(err error) {
	d.Helper()
	if err != nil {
		d.Error(err)
	}
}

func (d *door) eventually(what string, ok func() bool) {
	d.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			d.Fatalf("%s: it did not happen", what)
		}
	}
}

// send sends a request over the Unix socket. A body that is no reader is sent as JSON.
// The headers are "NAME: VALUE". The answer's body is the caller's to close.
func (d *door) send(method, path string, body any, headers ...string) *http.Response {
	d.Helper()
	return d.sendBy(d.unix, "http://smolvm"+path, method, body, headers)
}

// sendTCP is send over TCP, with the token of d.
func (d *door) sendTCP(method, path string, body any, headers ...string) *http.Response {
	d.Helper()
	if d.token != "" {
		headers = append([]string{"Authorization: Bearer " + d.token}, headers...)
	}
	return d.sendBy(d.tcp, "http://"+d.addr+path, method, body, headers)
}

func (d *door) sendBy(c *http.Client, url, method string, body any, headers []string) *http.Response {
	d.Helper()
	in, isReader := body.(io.Reader)
	if !isReader && body != nil {
		b, err := json.Marshal(body)
		d.ok(err)
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(d.ctx, method, url, in)
	d.ok(err)
	if body != nil && !isReader {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	res, err := c.Do(req)
	d.ok(err)
	return res
}

// call sends a request over the Unix socket, wants a status, and reads the JSON answer
// into out (nil: drops it).
func (d *door) call(want int, method, path string, body, out any, headers ...string) {
	d.Helper()
	d.answered(d.send(method, path, body, headers...), want, out)
}

func (d *door) answered(res *http.Response, want int, out any) {
	d.Helper()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	d.ok(err)
	if res.StatusCode != want {
		d.Fatalf("%s %s: %s, want %d\n%s", res.Request.Method, res.Request.URL.Path, res.Status, want, b)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			d.Fatalf("%v in %s", err, b)
		}
	}
}

// refused wants an answer that is an error, and returns it.
func (d *door) refused(res *http.Response, status int, class api.Class, code string) gateway.Failure {
	d.Helper()
	var f gateway.Failure
	d.answered(res, status, &f)
	if f.Class != class || f.Code != code || f.Message == "" || f.RequestID == "" || f.RequestID != res.Header.Get("X-Request-Id") {
		d.Errorf("%+v, want class %s and code %q (header %s)", f, class, code, res.Header.Get("X-Request-Id"))
	}
	return f
}

// create makes a sandbox without the gateway.
func (d *door) create(spec smolvm.Spec) *smolvm.Sandbox {
	d.Helper()
	sb, err := d.Create(d.ctx, spec)
	d.ok(err)
	return sb
}

// logged is a log that is written and read at once.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// ids lists the sandboxes, without the gateway.
func (d *door) ids() []string {
	d.Helper()
	list, err := d.List(d.ctx, smolvm.ListOptions{})
	d.ok(err)
	var ids []string
	for _, info := range list {
		ids = append(ids, info.ID)
	}
	return ids
}

// fault tells the fake host what goes wrong; see fakehost.FaultsFile.
func (d *door) fault(lines ...string) {
	d.Helper()
	path := filepath.Join(d.Home, fakehost.FaultsFile)
	d.ok(os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600))
	d.Cleanup(func() { os.Remove(path) })
}

func (d *door) exists(name string) bool {
	_, err := os.Stat(filepath.Join(d.Home, name))
	return err == nil
}

func (d *door) cancellable() (context.Context, context.CancelFunc) { return context.WithCancel(d.ctx) }

// metrics returns what /metrics shows.
func (d *door) metrics() string {
	d.Helper()
	res := d.send("GET", "/metrics", nil)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	d.ok(err)
	return string(b)
}
