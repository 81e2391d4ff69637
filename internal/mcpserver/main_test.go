package mcpserver

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/testenv/fakehost"
)

func TestMain(m *testing.M) {
	if code, ok := fakehost.Main(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// patience bounds a wait in a test.
const patience = 30 * time.Second

// place is a state directory and a server over it.
type place struct {
	*Server
	client *smolvm.Client
}

func newPlace(t *testing.T, o Options) place {
	t.Helper()
	home := fakehost.Home(t)
	o.Client = &smolvm.Client{Home: home, Binary: os.Args[0]}
	s := New(o)
	t.Cleanup(func() {
		s.Close()
		list, err := o.Client.List(context.Background(), smolvm.ListOptions{})
		if err != nil {
			t.Error(err)
		}
		for _, info := range list {
			if info.Ephemeral {
				t.Errorf("sandbox %s was left", info.Name)
			}
			if sb, err := o.Client.Get(context.Background(), info.ID); err == nil {
				sb.Remove(context.Background())
			}
		}
	})
	return place{s, o.Client}
}

func (p place) sandboxes(t *testing.T) []smolvm.Info {
	t.Helper()
	list, err := p.client.List(context.Background(), smolvm.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// user is a client over two pipes, as over standard input and output.
type user struct {
	*mcp.ClientSession
	t      *testing.T
	served chan error // gets what Serve returned
	cut    func()     // ends the connection as the client's death does
}

func (p place) open(t *testing.T, o *mcp.ClientOptions) user {
	t.Helper()
	fromClient, toServer := io.Pipe()
	fromServer, toClient := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- p.Serve(context.Background(), fromClient, toClient)
		toClient.Close()
	}()
	c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, o)
	cs, err := c.Connect(t.Context(), &mcp.IOTransport{Reader: fromServer, Writer: toServer}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cs.Close() })
	return user{cs, t, served, func() {
		toServer.Close()
		fromServer.Close()
	}}
}

// args are arguments of a tool.
type args map[string]any

// try calls a tool and returns its result, its text, and whether it is an error.
func (u user) try(name string, a args) (*mcp.CallToolResult, string) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), patience)
	defer cancel()
	if a == nil {
		a = args{}
	}
	res, err := u.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: a})
	if err != nil {
		u.t.Fatalf("%s: %v", name, err)
	}
	text := ""
	if len(res.Content) > 0 {
		if c, ok := res.Content[0].(*mcp.TextContent); ok {
			text = c.Text
		}
	}
	return res, text
}

// use calls a tool that must work, and decodes its structured result.
func use[Out any](u user, name string, a args) (out Out, text string) {
	u.t.Helper()
	res, text := u.try(name, a)
	if res.IsError {
		u.t.Fatalf("%s: %s", name, text)
	}
	b, err := json.Marshal(res.StructuredContent)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		u.t.Fatalf("%s: %v", name, err)
	}
	return out, text
}

// refused calls a tool that must fail, with all of the words in its text.
func (u user) refused(name string, a args, words ...string) {
	u.t.Helper()
	res, text := u.try(name, a)
	if !res.IsError {
		u.t.Fatalf("%s %v worked: %s", name, a, text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			u.t.Errorf("%s %v: %q is not in %q", name, a, w, text)
		}
	}
}

// await polls for what another process does.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	awaitFor(t, patience, ok)
}

func awaitFor(t *testing.T, bound time.Duration, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(bound); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
	}
}
