package clients

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
)

var update = flag.Bool("update", false, "write testdata anew")

var entry = Entry{Command: "/opt/smol vm/smolvm", Args: []string{"mcp", "--allow", "*.pypi.org"}, Env: map[string]string{"SMOLVM_HOME": "/x\"y"}}

// TestMerge merges into the files of testdata: NAME.CLIENT.in becomes NAME.CLIENT.out.
func TestMerge(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.in")
	if len(files) < 10 {
		t.Fatalf("%d files", len(files))
	}
	for _, in := range files {
		t.Run(filepath.Base(in), func(t *testing.T) {
			old, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Find(strings.Split(filepath.Base(in), ".")[1])
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Merge(old, "smolvm", entry)
			if err != nil {
				t.Fatal(err)
			}
			again, err := c.Merge(got, "smolvm", entry)
			if err != nil || string(again) != string(got) {
				t.Errorf("merged again, %v:\n%s", err, again)
			}
			out := strings.TrimSuffix(in, ".in") + ".out"
			if *update {
				if err := os.WriteFile(out, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil || string(want) != string(got) {
				t.Errorf("got, %v:\n%s", err, got)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ client, old string }{
		{"cursor", "[]"},
		{"cursor", `{"mcpServers": []}`},
		{"cursor", `{"mcpServers": null}`},
		{"cursor", `{"a": 1 "b": 2}`},
		{"cursor", `{"a": }`},
		{"cursor", `{} {}`},
		{"cursor", `{"a": "unended`},
		{"cursor", `{"a": nul}`},
		{"cursor", strings.Repeat("[", 100000)},
		{"codex", "mcp_servers = {}\n"},
		{"codex", "mcp_servers.other.command = \"x\"\n"},
		{"codex", "[mcp_servers]\nsmolvm = { command = \"x\" }\n"},
		{"codex", "a = \"\"\"\n[mcp_servers.smolvm]\n"},
	} {
		client, err := Find(c.client)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := client.Merge([]byte(c.old), "smolvm", entry); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%.60q became %q, %v", c.old, out, err)
		}
	}
	if _, err := Find("emacs"); !errors.Is(err, api.ErrInvalid) {
		t.Error(err)
	}
}

func TestPaths(t *testing.T) {
	home := Places{Home: "/h"}
	project := Places{Home: "/h", Project: "/p"}
	for name, want := range map[string][2]string{
		"claude": {"/h/.claude.json", "/p/.mcp.json"},
		"cursor": {"/h/.cursor/mcp.json", "/p/.cursor/mcp.json"},
		"vscode": {"/h/.config/Code/User/mcp.json", "/p/.vscode/mcp.json"},
		"codex":  {"/h/.codex/config.toml", "/p/.codex/config.toml"},
	} {
		c, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]string{c.Path(home), c.Path(project)}; got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// FuzzMergeJSON: what is JSON stays it, with all that was in it.
func FuzzMergeJSON(f *testing.F) {
	for _, s := range []string{"", "{}", `{"a":[1,{"b":"c"}]}`, `{"mcpServers":{"x":{}}}`, `{"mcpServers":{"smolvm":1},"z":0}`, "{//c\n}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, old string) {
		out, err := mergeJSON([]byte(old), []string{"mcpServers", "smolvm"}, entry)
		if err != nil {
			return
		}
		var before, after map[string]any
		if json.Unmarshal([]byte(old), &before) != nil && strings.TrimSpace(old) != "" {
			return // it has comments, or a key of a form that only Go refuses
		}
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("%q became %q: %v", old, out, err)
		}
		servers, _ := after["mcpServers"].(map[string]any)
		if got, _ := servers["smolvm"].(map[string]any); got["command"] != entry.Command {
			t.Fatalf("%q became %q", old, out)
		}
		for k := range before {
			if _, ok := after[k]; !ok {
				t.Fatalf("%q became %q without %q", old, out, k)
			}
		}
	})
}
