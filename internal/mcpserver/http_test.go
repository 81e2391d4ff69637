package mcpserver

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/apikey"
)

// headerWho is how the test's clients say who they are, and headerScope how far their
// key reaches.
const (
	headerWho   = "Test-Who"
	headerScope = "Test-Scope"
)

// site is a server over HTTP. Its connections can be cut.
func (p place) site(t *testing.T) *httptest.Server {
	site := httptest.NewServer(p.Handler(func(r *http.Request) Caller {
		return Caller{ID: r.Header.Get(headerWho), Scope: apikey.Scope(r.Header.Get(headerScope))}
	}))
	t.Cleanup(site.Close)
	t.Cleanup(site.CloseClientConnections)
	return site
}

// as is a transport that says who sends.
type as struct{ who, scope string }

func (a as) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(headerWho, a.who)
	r.Header.Set(headerScope, a.scope)
	return http.DefaultTransport.RoundTrip(r)
}

func dial(t *testing.T, url string, a as, stream bool) user {
	t.Helper()
	c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	cs, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: url, HTTPClient: &http.Client{Transport: a}, DisableStandaloneSSE: !stream, MaxRetries: -1,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cs.Close() })
	return user{ClientSession: cs, t: t}
}

func TestHTTPSessionsAreApart(t *testing.T) {
	p := newPlace(t, Options{})
	site := p.site(t)
	one, two := dial(t, site.URL, as{who: "one"}, true), dial(t, site.URL, as{who: "two"}, true)
	a, _ := use[runOut](one, "run_command", args{"command": "seq 1 20000"})
	b, _ := use[runOut](two, "run_command", args{"command": "true"})
	if a.Sandbox == b.Sandbox {
		t.Errorf("both ran in %s", a.Sandbox)
	}
	two.refused("read_output", args{"output_id": a.OutputID}, "not_found")
	two.refused("run_command", args{"command": "true", "sandbox": a.Sandbox}, "not_found")

	// Whoever knows another's session has it not.
	r, _ := http.NewRequest(http.MethodPost, site.URL, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set(sessionHeader, one.ID())
	r.Header.Set(headerWho, "two")
	res, err := http.DefaultClient.Do(r)
	if err != nil || res.StatusCode != http.StatusNotFound {
		t.Fatalf("got %v, %v", res, err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()

	one.Close()
	await(t, func() bool { return len(p.sandboxes(t)) == 1 })
	use[runOut](two, "run_command", args{"command": "true"})
}

func TestScopes(t *testing.T) {
	p := newPlace(t, Options{All: true})
	site := p.site(t)
	sb, err := p.client.Create(t.Context(), smolvm.Spec{Name: "there"})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Remove(context.Background())
	shown := func(u user) []string {
		list, err := u.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range list.Tools {
			names = append(names, tool.Name)
		}
		return names
	}
	reader := dial(t, site.URL, as{"r", "read"}, false)
	if names := shown(reader); slices.Contains(names, "run_command") || slices.Contains(names, "read_file") || !slices.Contains(names, "history") {
		t.Errorf("a reader is shown %q", names)
	}
	reader.refused("run_command", args{"command": "true", "sandbox": "there"}, "denied", "scope")
	// What is inside a sandbox is no more shown here than by the routes of the gateway.
	for tool, a := range map[string]args{
		"read_file": {"sandbox": "there", "path": "/etc/hostname"}, "list_files": {"sandbox": "there", "path": "/"},
		"diff": {"sandbox": "there"}, "read_output": {"output_id": "there/p1"},
	} {
		reader.refused(tool, a, "denied", "scope")
	}
	if _, err := reader.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "smolvm://sandbox/there/file/etc/hostname"}); err == nil {
		t.Error("a reader read a file as a resource")
	}
	runner := dial(t, site.URL, as{"x", "run"}, false)
	runner.refused("checkpoint", args{"sandbox": "there"}, "denied", "manage")
	if names := shown(runner); !slices.Contains(names, "run_command") || slices.Contains(names, "create_sandbox") {
		t.Errorf("a runner is shown %q", names)
	}
	use[runOut](runner, "run_command", args{"command": "true", "sandbox": "there"})
	runner.refused("run_command", args{"command": "true"}, "denied", "manage")
	runner.refused("remove_sandbox", args{"sandbox": "there"}, "denied", "manage")
	manager := dial(t, site.URL, as{"m", "manage"}, false)
	if names := shown(manager); slices.Contains(names, "network_approve") || !slices.Contains(names, "network_deny") {
		t.Errorf("a manager is shown %q", names)
	}
	use[removeOut](manager, "remove_sandbox", args{"sandbox": "there"})
}

func TestLostHTTPClientsEnd(t *testing.T) {
	p := newPlace(t, Options{})
	p.times.gone, p.times.idle = 50*time.Millisecond, time.Hour
	site := p.site(t)
	u := dial(t, site.URL, as{who: "one"}, true)
	file := filepath.Join(t.TempDir(), "pid")
	go u.CallTool(t.Context(), &mcp.CallToolParams{Name: "run_command", Arguments: args{"command": "echo $$ > " + file + "; exec sleep 1000", "timeout_seconds": 900}})
	pid := pidOf(t, file)
	site.CloseClientConnections()
	awaitEnd(t, pid)
	await(t, func() bool { return len(p.sandboxes(t)) == 0 })
}

func TestSilentHTTPClientsEnd(t *testing.T) {
	p := newPlace(t, Options{})
	p.times.idle = 200 * time.Millisecond
	site := p.site(t)
	u := dial(t, site.URL, as{who: "one"}, false)
	// A call that takes longer is no silence.
	use[runOut](u, "run_command", args{"command": "sleep 0.5"})
	await(t, func() bool { return len(p.sandboxes(t)) == 0 })
	await(t, func() bool { return p.find(u.ID()) == nil })
}

func TestTooManySessions(t *testing.T) {
	p := newPlace(t, Options{})
	site := p.site(t)
	var last *mcp.ClientSession
	open := func() bool {
		c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
		cs, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: site.URL, DisableStandaloneSSE: true, MaxRetries: -1}, nil)
		if err == nil {
			last = cs
			t.Cleanup(func() { cs.Close() })
		}
		return err == nil
	}
	// A client first asks for the revisions spoken here, in a session that takes a
	// moment to end.
	for range maxSessions {
		await(t, open)
	}
	if open() {
		t.Fatal("one session too many was opened")
	}
	last.Close()
	await(t, open)
}
