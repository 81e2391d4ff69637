package network

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/intercept"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

func openCA(t *testing.T) *intercept.CA {
	t.Helper()
	ca, err := intercept.OpenCA(filepath.Join(t.TempDir(), "ca.pem"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// readOnly allows reading some paths of a site.
func readOnly(w *world.World, site string, paths ...string) api.Rule {
	r := w.Allow(site)
	r.ID, r.Methods, r.Paths = "read", []string{"GET"}, paths
	return r
}

func TestRequestsAreDecidedOneByOne(t *testing.T) {
	w := world.Start(t)
	ca := openCA(t)
	s := start(t, w, Config{CA: ca, Sandbox: "web"}, readOnly(w, world.WWW, "/headers", "/bytes/*"))
	c := s.client(t, ca.PEM())
	for _, base := range []string{w.URL(world.WWW, ""), w.PlainURL(world.WWW, "")} {
		if status, body, err := get(t, c, base+"/bytes/5"); status != 200 || len(body) != 5 || err != nil {
			t.Errorf("GET %s: %d %q, %v", base, status, body, err)
		}
		status, body, err := get(t, c, base+"/echo")
		if status != 403 || !strings.Contains(body, "read") || !strings.Contains(body, "web") || err != nil {
			t.Errorf("another path of %s: %d %q, %v", base, status, body, err)
		}
		r, err := c.Post(base+"/headers", "text/plain", strings.NewReader("out"))
		if err != nil || r.StatusCode != 403 {
			t.Errorf("another method of %s: %v, %v", base, r, err)
			continue
		}
		r.Body.Close()
	}
	for _, r := range w.Requests(world.WWW) {
		if r.Method != "GET" || r.Path != "/bytes/5" {
			t.Errorf("%s %s got out", r.Method, r.Path)
		}
	}
	e := s.book.kind(t, api.EventHTTP, api.PolicyAllow)
	if e.Rule != "read" || e.Code != "rule" || e.HTTP.Path != "/bytes/5" || e.HTTP.Status != 200 || e.Received != 5 || e.Host != world.WWW {
		t.Errorf("http: %+v %+v", e, e.HTTP)
	}
	e = s.book.wait(t, "a denied path", func(e api.NetworkEntry) bool { return e.Kind == api.EventHTTP && e.Code == "path" })
	if e.Verdict != api.PolicyDeny || e.HTTP.Path != "/echo" || e.HTTP.Status != 403 {
		t.Errorf("http: %+v %+v", e, e.HTTP)
	}
	s.book.wait(t, "a denied method", func(e api.NetworkEntry) bool {
		return e.Kind == api.EventHTTP && e.Code == "method" && e.HTTP.Method == "POST"
	})
}

func TestEveryRequestIsRecordedIfAsked(t *testing.T) {
	w := world.Start(t)
	ca := openCA(t)
	cfg := Config{CA: ca, Spec: api.Network{Log: api.NetworkLogHTTP}}
	s := start(t, w, cfg, w.Allow(world.WWW))
	if !s.Intercepts() {
		t.Error("the guest is not told to trust")
	}
	if status, body, err := get(t, s.client(t, ca.PEM()), w.URL(world.WWW, "/status/204")); status != 204 || err != nil {
		t.Fatalf("%d %q, %v", status, body, err)
	}
	e := s.book.kind(t, api.EventHTTP, api.PolicyAllow)
	if e.HTTP.Path != "/status/204" || e.HTTP.Status != 204 || e.HTTP.Scheme != "https" || e.Rule != "r1" {
		t.Errorf("http: %+v %+v", e, e.HTTP)
	}
}

func TestDeniedHTTPIsTold(t *testing.T) {
	w := world.Start(t)
	deny := api.Rule{ID: "bad", Action: api.PolicyDeny, Domains: []string{world.WWW}, Ports: []string{itoa(w.HTTP)}}
	s := start(t, w, Config{Sandbox: "web"}, deny, w.Allow("*."+world.Zone))
	// The name is known by the first packet, but for port 80 alone HTTP is awaited.
	if _, _, err := get(t, s.client(t, nil), w.PlainURL(world.WWW, "/")); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Logf("%v", err)
	}
	c, err := s.dial(t, "tcp", "169.254.169.254:80")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
	b, err := io.ReadAll(c)
	if !strings.HasPrefix(string(b), "HTTP/1.1 403 ") || !strings.Contains(string(b), "cloud metadata") || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	e := s.book.wait(t, "metadata", func(e api.NetworkEntry) bool { return e.Kind == api.EventFlow && e.Address == "169.254.169.254" })
	if e.Verdict != api.PolicyDeny || e.Reason == "" {
		t.Errorf("flow: %+v", e)
	}
}
