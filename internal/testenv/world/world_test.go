package world

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

// client resolves and believes what the world says.
func client(t *testing.T, w *World) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(w.CA) {
		t.Fatal("the CA's certificate is none")
	}
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
		DialContext: (&net.Dialer{Resolver: w.resolver("udp")}).DialContext,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// resolver asks the world's name server by one protocol.
func (w *World) resolver(network string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, w.DNS)
	}}
}

func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, res.Status, err)
	}
	return string(b)
}

func TestNames(t *testing.T) {
	w := Start(t)
	for _, network := range []string{"udp", "tcp"} {
		addrs, err := w.resolver(network).LookupHost(t.Context(), Git)
		if err != nil || fmt.Sprint(addrs) != "[127.0.0.1]" {
			t.Errorf("%s by %s: %v, %v", Git, network, addrs, err)
		}
		_, err = w.resolver(network).LookupHost(t.Context(), "none."+Zone)
		if e, ok := err.(*net.DNSError); !ok || !e.IsNotFound {
			t.Errorf("a name that is not there, by %s: %v", network, err)
		}
	}
	w.SetAddresses(Git, netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::1"))
	addrs, err := w.resolver("udp").LookupHost(t.Context(), Git)
	if err != nil || len(addrs) != 2 {
		t.Errorf("changed: %v, %v", addrs, err)
	}
	if w.Questions(Git) == 0 || w.Questions(NPM) != 0 {
		t.Errorf("%d and %d questions", w.Questions(Git), w.Questions(NPM))
	}
}

func TestPages(t *testing.T) {
	w := Start(t)
	c := client(t, w)
	if got := get(t, c, w.URL(WWW, "/")); !strings.HasPrefix(got, "hello from "+WWW) {
		t.Error(got)
	}
	if got := get(t, c, w.PlainURL(WWW, "/bytes/100000")); len(got) != 100000 {
		t.Errorf("%d bytes", len(got))
	}
	res, err := c.Post(w.URL(WWW, "/echo?x=1"), "text/plain", strings.NewReader("again"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); string(b) != "again" {
		t.Errorf("echo: %q", b)
	}
	if _, err := c.Get(w.URL(Bad, "/")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%s was believed: %v", Bad, err)
	}
	if res, err := c.Get(w.URL(WWW, "/status/418")); err != nil || res.StatusCode != 418 {
		t.Errorf("%v, %v", res, err)
	}
	var got []string
	for _, r := range w.Requests("") {
		got = append(got, fmt.Sprint(r.Proto, " ", r.TLS, " ", r.Host, " ", r.Method, " ", r.Path, " ", r.Status))
	}
	want := []string{
		"HTTP/2.0 true www.example.test GET / 200",
		"HTTP/1.1 false www.example.test GET /bytes/100000 200",
		"HTTP/2.0 true www.example.test POST /echo?x=1 200",
		"HTTP/2.0 true www.example.test GET /status/418 418",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("noted:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if w.Reset(); len(w.Requests("")) != 0 {
		t.Error("requests are still there after a reset")
	}
}

func TestSocket(t *testing.T) {
	w := Start(t)
	conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", w.HTTP))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := websocket.NewConfig("ws"+strings.TrimPrefix(w.PlainURL(WS, "/echo"), "http"), w.PlainURL(WS, "/"))
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(cfg, conn)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	var got string
	if err := websocket.Message.Send(ws, "ping"); err != nil {
		t.Fatal(err)
	}
	if err := websocket.Message.Receive(ws, &got); err != nil || got != "ping" {
		t.Errorf("%q, %v", got, err)
	}
	if r := w.Requests(WS); len(r) != 1 || r[0].Status != http.StatusSwitchingProtocols {
		t.Errorf("noted: %+v", r)
	}
}

// TestRepository clones and pushes with git itself.
func TestRepository(t *testing.T) {
	w := Start(t)
	dir := filepath.Join(t.TempDir(), "demo")
	env := append(gitEnv(), "GIT_SSL_CAINFO="+w.CAFile)
	resolve := fmt.Sprintf("http.curloptResolve=%s:%d:127.0.0.1", Git, w.HTTPS)
	run(t, exec.Command("git", "-c", resolve, "clone", "-q", w.URL(Git, "/demo.git"), dir), env)
	if b, err := os.ReadFile(filepath.Join(dir, GitFile)); err != nil || string(b) != GitText {
		t.Errorf("%q, %v", b, err)
	}
	run(t, exec.Command("git", "-C", dir, "commit", "-q", "--allow-empty", "-m", "second"), env)
	run(t, exec.Command("git", "-C", dir, "-c", resolve, "push", "-q", "origin", "HEAD:refs/heads/topic"), env)
	if a, b := w.GitHead(t, "main"), w.GitHead(t, "topic"); a == b {
		t.Error("nothing was pushed")
	}
	last := w.Requests(Git)[len(w.Requests(Git))-1]
	if last.Method != "POST" || last.Path != "/demo.git/git-receive-pack" || last.Status != 200 {
		t.Errorf("noted: %+v", last)
	}
}

// TestIndexes follows what pip and npm would, from names to files.
func TestIndexes(t *testing.T) {
	w := Start(t)
	c := client(t, w)
	link := regexp.MustCompile(`href="(/files/[^#"]+)#sha256=[0-9a-f]{64}"`)
	for _, name := range []string{Package, PackageNeeded} {
		m := link.FindStringSubmatch(get(t, c, w.URL(PyPI, "/simple/"+name+"/")))
		if m == nil || !strings.HasPrefix(get(t, c, w.URL(PyPI, m[1])), "PK") {
			t.Errorf("%s: no wheel: %q", name, m)
		}
		var doc struct {
			Versions map[string]struct{ Dist struct{ Tarball string } }
		}
		if err := json.Unmarshal([]byte(get(t, c, w.URL(NPM, "/"+name))), &doc); err != nil {
			t.Fatal(err)
		}
		if ball := get(t, c, doc.Versions[Version].Dist.Tarball); !strings.HasPrefix(ball, "\x1f\x8b") {
			t.Errorf("%s: no tarball", name)
		}
	}
	release := strings.Fields(get(t, c, w.URL(Deb, "/dists/stable/Release")))
	packages := get(t, c, w.URL(Deb, "/dists/stable/"+release[len(release)-1]))
	_, file, ok := strings.Cut(packages, "Filename: ")
	file, _, _ = strings.Cut(file, "\n")
	if !ok || !strings.HasPrefix(get(t, c, w.URL(Deb, "/"+file)), "!<arch>") {
		t.Errorf("no package:\n%s", packages)
	}
}
