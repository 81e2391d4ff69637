package mcpserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/testenv"
)

// planned is a call of testdata/plan.json, and what has to come of it.
type planned struct {
	Tool  string `json:"tool"`
	Want  string `json:"want"` // in its text
	Error bool   `json:"error"`
}

// told is what a client in another language tells of its calls.
type told struct {
	Tools []string `json:"tools"`
	Calls []struct {
		Tool       string `json:"tool"`
		Text       string `json:"text"`
		Error      bool   `json:"error"`
		Structured bool   `json:"structured"`
	} `json:"calls"`
	Progress  int    `json:"progress"`
	Resource  string `json:"resource"`
	Templates int    `json:"templates"`
}

// TestVMMCP lets the protocol's official clients in other languages list and call
// every tool, over both transports, in real sandboxes.
func TestVMMCP(t *testing.T) {
	binary, home := testenv.Binary(t), testenv.Home(t)
	t.Setenv("SMOLVM_HOME", home)
	python := testenv.Python(t, "testdata/python/requirements.txt")
	node := testenv.Node(t, "testdata/node")
	inspector := []string{filepath.Join(node, "node_modules", ".bin", "mcp-inspector"), "--cli"}
	// Over HTTP the inspector does not end its session, which is missed after a while:
	// it has a gateway of its own, and the others do not wait for it.
	missed := testenv.Home(t)
	url, key := serve(t, binary, missed)
	t.Run("inspector/http", func(t *testing.T) {
		inspect(t, append(inspector, url, "--transport", "http", "--header", "Authorization: Bearer "+key))
	})
	url, key = serve(t, binary, home)
	plan, err := filepath.Abs("testdata/plan.json")
	if err != nil {
		t.Fatal(err)
	}
	clients := map[string][]string{
		"python":     {python, "testdata/python/client.py", plan},
		"typescript": {"node", filepath.Join(node, "client.mjs"), plan},
	}
	ways := map[string][]string{"stdio": {"stdio", binary, "mcp"}, "http": {"http", url, key}}
	for name, client := range clients {
		for way, rest := range ways {
			t.Run(name+"/"+way, func(t *testing.T) {
				out := printed(t, slices.Concat(client, rest)...)
				checkPlan(t, plan, out)
				nothingLeft(t, home)
			})
		}
	}
	t.Run("inspector/stdio", func(t *testing.T) {
		inspect(t, append(inspector, binary, "mcp"))
		nothingLeft(t, home)
	})
	t.Run("inspector/http is missed", func(t *testing.T) { nothingLeft(t, missed) })
}

// checkPlan holds what a client tells against the plan.
func checkPlan(t *testing.T, plan string, out []byte) {
	t.Helper()
	b, err := os.ReadFile(plan)
	if err != nil {
		t.Fatal(err)
	}
	var calls []planned
	if err := json.Unmarshal(b, &calls); err != nil {
		t.Fatal(err)
	}
	var got told
	if err := json.Unmarshal(out, &got); err != nil || len(got.Calls) != len(calls) {
		t.Fatalf("%v: %s", err, out)
	}
	called := map[string]bool{}
	for i, c := range calls {
		g := got.Calls[i]
		called[c.Tool] = true
		if g.Tool != c.Tool || !strings.Contains(g.Text, c.Want) || g.Error != c.Error || g.Structured == c.Error {
			t.Errorf("call %d, %s, wants %q: %+v", i, c.Tool, c.Want, g)
		}
	}
	for _, name := range got.Tools {
		if !called[name] {
			t.Errorf("%s was not called", name)
		}
	}
	if got.Progress == 0 || got.Resource != "grüße" || got.Templates != 3 {
		t.Errorf("%d notifications of progress, resource %q, %d templates", got.Progress, got.Resource, got.Templates)
	}
}

// inspect lists and calls with the inspector's command line: a session for each.
func inspect(t *testing.T, argv []string) {
	t.Helper()
	for _, c := range []struct{ args, want []string }{
		{[]string{"--method", "tools/list"}, []string{"run_command", "outputSchema"}},
		{[]string{"--method", "resources/templates/list"}, []string{"smolvm://sandbox/"}},
		{[]string{"--method", "tools/call", "--tool-name", "run_command", "--tool-arg", "command=echo $((6*7))"}, []string{"42"}},
	} {
		out := string(printed(t, append(slices.Clone(argv), c.args...)...))
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("%q: no %q in %s", c.args, w, out)
			}
		}
	}
}

// printed runs a program that must end well.
func printed(t *testing.T, argv ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s\n%s", argv, err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

// nothingLeft removes the plan's snapshot, and wants the sandboxes of the session that
// ended to be gone.
func nothingLeft(t *testing.T, home string) {
	t.Helper()
	c := &smolvm.Client{Home: home}
	// A client over HTTP does not wait for what its end ends; the inspector says no end
	// at all, and is missed after a while.
	awaitFor(t, goneTime+patience, func() bool {
		list, err := c.List(t.Context(), smolvm.ListOptions{})
		return err == nil && len(list) == 0
	})
	c.RemoveSnapshot(t.Context(), "saved") // the inspector takes none
}

// serve starts the gateway, and returns the address of its MCP and a key.
func serve(t *testing.T, binary, home string) (url, key string) {
	t.Helper()
	s, err := store.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err = apikey.Open(s.APIKeys()).Create(apikey.Options{Name: "test", Scope: apikey.Manage})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "serve", "--listen", "127.0.0.1:0", "--json")
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+home)
	cmd.Stderr = os.Stderr
	ready, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	line, err := bufio.NewReader(ready).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var where struct {
		URLs []string `json:"urls"`
	}
	if err := json.Unmarshal(line, &where); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	i := slices.IndexFunc(where.URLs, func(u string) bool { return strings.HasPrefix(u, "http://") })
	if i < 0 {
		t.Fatalf("no address in %s", line)
	}
	return where.URLs[i] + "/mcp", key
}
