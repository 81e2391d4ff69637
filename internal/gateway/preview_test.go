package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/gateway"
)

// guestServer is a server in the fake guest, which is this host, that tells what it got.
func guestServer(t *testing.T) int {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			c, err := websocket.Accept(w, r, nil) // wants Origin and Host to agree
			if err != nil {
				return
			}
			defer c.CloseNow()
			typ, b, err := c.Read(r.Context())
			if err == nil {
				c.Write(r.Context(), typ, append([]byte("got "), b...))
			}
			c.Close(websocket.StatusNormalClosure, "")
		case "/go":
			http.Redirect(w, r, "http://"+r.Host+"/there?x=1", http.StatusFound)
		case "/slow":
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			h := w.Header()
			for _, c := range []string{"smolvm_preview=theirs; Path=/", "a=1; Path=/; Domain=localhost", "b=2; Path=/sub"} {
				h.Add("Set-Cookie", c)
			}
			h.Set("Service-Worker-Allowed", "/")
			h.Set("X-Request-Id", "the guest's")
			h.Set("Keep-Alive", "timeout=5") // of one connection only
			json.NewEncoder(w).Encode(map[string]any{"uri": r.RequestURI, "host": r.Host, "header": r.Header})
		}
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

type seen struct {
	URI, Host string
	Header    http.Header
}

// follow sends a request to where a URL leads, without following redirects.
func (d *door) follow(address string, headers ...string) *http.Response {
	d.Helper()
	u, err := url.Parse(address)
	d.ok(err)
	req, err := http.NewRequestWithContext(d.ctx, "GET", "http://"+d.addr+u.RequestURI(), nil)
	d.ok(err)
	req.Host = u.Host
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	res, err := d.tcp.Transport.RoundTrip(req)
	d.ok(err)
	d.Cleanup(func() { res.Body.Close() })
	return res
}

func (d *door) preview(port int, ttl float64) (p gateway.Preview) {
	d.Helper()
	d.answered(d.sendTCP("POST", "/v1/sandboxes/web/previews", gateway.PreviewRequest{Port: port, TTLSeconds: ttl}), 201, &p)
	return p
}

func TestPreview(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	p := d.preview(guestServer(t), 0)
	if left := time.Until(p.Expires); left < 50*time.Minute || left > time.Hour {
		t.Errorf("it expires in %v", left)
	}
	for name, address := range map[string]string{"host": p.URL, "path": p.PathURL} {
		t.Run(name, func(t *testing.T) { d.previewed(t, p, address) })
	}
	// The gateway's own routes are none of the preview's host.
	u, err := url.Parse(p.URL)
	d.ok(err)
	var got seen
	d.answered(d.follow("http://"+u.Host+"/v1/version?smolvm_token="+p.Token), 200, &got)
	if got.URI != "/v1/version" {
		t.Errorf("%+v", got)
	}
}

func (d *door) previewed(t *testing.T, p gateway.Preview, address string) {
	base, _, _ := strings.Cut(address, "?")
	u, err := url.Parse(base)
	d.ok(err)
	prefix := strings.TrimSuffix(u.Path, "/")

	d.refused(d.follow(base), 401, api.Denied, "unauthenticated")
	d.refused(d.follow(base+"?smolvm_token="+p.Token+"x"), 401, api.Denied, "unauthenticated")
	d.refused(d.follow(base, "Smolvm-Preview-Token: "+p.Token[1:]), 401, api.Denied, "unauthenticated")

	// A browser loses the token from its address and keeps it as a cookie.
	res := d.follow(address+"&q=%2F", "Accept: text/html")
	cookie := res.Header.Get("Set-Cookie")
	if res.StatusCode != 303 || res.Header.Get("Location") != prefix+"/?q=%2F" ||
		!strings.Contains(cookie, "; Path="+prefix+"/;") || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Lax") {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	var got seen
	res = d.follow(base+"a%2Fb?smolvm_token="+p.Token+"&x=1;2&&y", "Cookie: c=3; smolvm_preview="+p.Token+"; d=4",
		"Authorization: Bearer "+d.token, "Referer: "+address, "Origin: http://"+u.Host, "Smolvm-Lease: x", "Connection: X-Mine", "X-Mine: 1")
	d.answered(res, 200, &got)
	local := got.Host
	if !strings.HasPrefix(local, "localhost:") || got.URI != "/a%2Fb?x=1;2&&y" || got.Header.Get("Cookie") != "c=3; d=4" ||
		got.Header.Get("Origin") != "http://"+local || got.Header.Get("Referer") != "http://"+local+"/" || got.Header.Get("X-Mine") != "" {
		t.Errorf("%+v", got)
	}
	all := fmt.Sprint(got)
	if strings.Contains(all, p.Token) || strings.Contains(all, d.token) || strings.Contains(all, "Smolvm") {
		t.Errorf("the guest learns it: %s", all)
	}
	d.theirHeaders(t, res.Header, prefix)

	// Its redirects stay with it.
	res = d.follow(base+"go", "Smolvm-Preview-Token: "+p.Token)
	if want := prefix + "/there?x=1"; res.StatusCode != 302 || res.Header.Get("Location") != want {
		t.Errorf("%s to %s, want %s", res.Status, res.Header.Get("Location"), want)
	}
	d.previewSocket(t, u, p.Token)
}

// theirHeaders looks at what a guest gets through to a browser.
func (d *door) theirHeaders(t *testing.T, h http.Header, prefix string) {
	t.Helper()
	var theirs []string
	for _, c := range h.Values("Set-Cookie") {
		if !strings.HasPrefix(c, "smolvm_preview=eyJ") {
			theirs = append(theirs, c)
		}
	}
	want := "a=1; Path=" + prefix + "/,b=2; Path=" + prefix + "/sub"
	if got := strings.Join(theirs, ","); got != want {
		t.Errorf("cookies %s, want %s", got, want)
	}
	sandboxed := strings.HasPrefix(h.Get("Content-Security-Policy"), "sandbox ") && h.Get("Service-Worker-Allowed") == ""
	if sandboxed != (prefix != "") || h.Get("Keep-Alive") != "" || len(h.Values("X-Request-Id")) != 1 || h.Get("X-Request-Id") == "the guest's" {
		t.Errorf("%v", h)
	}
}

func (d *door) previewSocket(t *testing.T, u *url.URL, token string) {
	t.Helper()
	dial := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", d.addr)
	}}}
	c, _, err := websocket.Dial(d.ctx, "ws://"+u.Host+u.Path+"ws", &websocket.DialOptions{
		HTTPClient: dial, HTTPHeader: http.Header{"Cookie": {"smolvm_preview=" + token}, "Origin": {"http://" + u.Host}},
	})
	d.ok(err)
	defer c.CloseNow()
	d.ok(c.Write(d.ctx, websocket.MessageText, []byte("hello")))
	if _, b, err := c.Read(d.ctx); err != nil || string(b) != "got hello" {
		t.Errorf("%q, %v", b, err)
	}
	if _, _, err := c.Read(d.ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("%v", err)
	}
}

func TestPreviewEnds(t *testing.T) {
	d := open(t, gateway.Options{})
	sb := d.create(smolvm.Spec{Name: "web"})
	port := guestServer(t)
	p := d.preview(port, 1)
	base, _, _ := strings.Cut(p.URL, "?")
	// Another port, and another sandbox, of a good token.
	d.refused(d.follow(strings.Replace(p.URL, strconv.Itoa(port)+"-", "81-", 1)), 401, api.Denied, "unauthenticated")
	d.refused(d.follow(strings.Replace(p.URL, sb.ID(), "other", 1)), 401, api.Denied, "unauthenticated")
	d.eventually("it expires", func() bool {
		res := d.follow(base, "Smolvm-Preview-Token: "+p.Token)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode == 401
	})
	dead := d.preview(1, 0)
	d.refused(d.follow(dead.URL), 503, api.Unavailable, "")
	// The end of the gateway does not wait for a page that goes on.
	p = d.preview(port, 0)
	res := d.follow(p.PathURL, "Smolvm-Preview-Token: "+p.Token)
	res.Body.Close()
	slow := d.follow(strings.Replace(p.URL, "/?", "/slow?", 1))
	if slow.StatusCode != 200 {
		t.Errorf("%s", slow.Status)
	}
	begin := time.Now()
	d.stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	io.Copy(io.Discard, slow.Body)
}
