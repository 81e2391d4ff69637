package gateway_test

import (
	"net/http"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/gateway"
)

// bearer sends a key with each request.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

func (d *door) mcp(token string) (*mcp.ClientSession, error) {
	c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	return c.Connect(d.ctx, &mcp.StreamableClientTransport{
		Endpoint: "http://" + d.addr + "/mcp", HTTPClient: &http.Client{Transport: bearer(token)}, MaxRetries: -1,
	}, nil)
}

func TestMCP(t *testing.T) {
	d := open(t, gateway.Options{})
	if _, err := d.mcp("wrong"); err == nil {
		t.Error("a wrong key was let in")
	}
	reader, err := d.mcp(d.key(apikey.Options{Scope: apikey.Read}))
	d.ok(err)
	res, err := reader.CallTool(d.ctx, &mcp.CallToolParams{Name: "run_command", Arguments: map[string]any{"command": "true"}})
	if d.ok(err); !res.IsError {
		t.Error("a reader ran a command")
	}
	manager, err := d.mcp(d.key(apikey.Options{Scope: apikey.Manage}))
	d.ok(err)
	res, err = manager.CallTool(d.ctx, &mcp.CallToolParams{Name: "run_command", Arguments: map[string]any{"command": "true"}})
	if d.ok(err); res.IsError {
		t.Errorf("got %+v", res.Content[0])
	}
	// The end of the gateway ends its sessions, and removes their sandboxes.
	d.stop()
	list, err := d.List(d.ctx, smolvm.ListOptions{})
	if d.ok(err); len(list) != 0 {
		t.Errorf("left %v", list)
	}
}
