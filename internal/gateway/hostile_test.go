package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/gateway"
)

// by sends a request over TCP with a key.
func (d *door) by(token, method, path string, body any) *http.Response {
	d.Helper()
	return d.sendBy(d.tcp, "http://"+d.addr+path, method, body, []string{"Authorization: Bearer " + token})
}

func TestScopesHoldInside(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "box"})
	manager, runner := d.key(apikey.Options{Scope: apikey.Manage}), d.key(apikey.Options{Scope: apikey.Run})
	// A folder of the host is more than a sandbox.
	spec := api.Spec{Mounts: []api.Mount{{Host: t.TempDir(), Guest: "/work", Writable: true}}}
	d.refused(d.by(manager, "POST", "/v1/sandboxes", spec), 403, api.Denied, "scope")
	// A step of the history needs what the route for it needs.
	exec := api.Exec{Argv: []string{"true"}, Checkpoint: true}
	d.refused(d.by(runner, "POST", "/v1/sandboxes/box/exec", exec), 403, api.Denied, "scope")
	d.refused(d.by(runner, "POST", "/v1/sandboxes/box/checkpoints", nil), 403, api.Denied, "scope")
	// One answer does not hold whatever a command writes.
	exec = api.Exec{Argv: []string{"true"}, OutputLimit: 1 << 40}
	d.refused(d.by(runner, "POST", "/v1/sandboxes/box/exec", exec), 400, api.Invalid, "")
}

func TestPreviewEndsWithItsKey(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	token := d.key(apikey.Options{Name: "guest", Scope: apikey.Run})
	var p gateway.Preview
	d.answered(d.by(token, "POST", "/v1/sandboxes/web/previews", gateway.PreviewRequest{Port: guestServer(t)}), 201, &p)
	d.answered(d.follow(p.URL), 200, nil)
	_, err := d.keys.Revoke("guest")
	d.ok(err)
	d.refused(d.follow(p.URL), 401, api.Denied, "unauthenticated")
	d.refused(d.follow(p.PathURL), 401, api.Denied, "unauthenticated")
}

// early is a server in the guest that sends an informational answer before each.
func early(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nSet-Cookie: smolvm_preview=x; Path=/\r\nClear-Site-Data: \"*\"\r\n\r\n"+
				"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			conn.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func TestPreviewPassesNoInformationalAnswer(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	p := d.preview(early(t), 0)
	_, path, _ := strings.Cut(p.PathURL, d.addr)
	conn, err := net.Dial("tcp", d.addr)
	d.ok(err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, d.addr)
	b, err := io.ReadAll(conn)
	d.ok(err)
	if s := string(b); !strings.HasPrefix(s, "HTTP/1.1 200 ") || strings.Contains(s, "Clear-Site-Data") ||
		!strings.Contains(s, "X-Content-Type-Options: nosniff") || !strings.Contains(s, "Content-Security-Policy: sandbox ") {
		t.Errorf("%s", s)
	}
}
