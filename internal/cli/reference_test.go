package cli

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write goldens instead of comparing")

func testApp() *app { return &app{build: Build{Version: "test"}} }

// commands lists a tree of commands, without hidden ones.
func commands(cmd *cobra.Command) []*cobra.Command {
	list := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		if !c.Hidden && c.Name() != "help" {
			list = append(list, commands(c)...)
		}
	}
	return list
}

// TestReference compares docs/cli with the commands. Run it with -update, or
// make docs, after a change.
func TestReference(t *testing.T) {
	const dir = "../../docs/cli"
	root := testApp().root()
	root.InitDefaultHelpCmd()
	want := map[string][]byte{}
	for _, cmd := range commands(root) {
		cmd.DisableAutoGenTag = true // it holds a date
		cmd.InitDefaultHelpFlag()
		var b bytes.Buffer
		if err := doc.GenMarkdown(cmd, &b); err != nil {
			t.Fatal(err)
		}
		want[strings.ReplaceAll(cmd.CommandPath(), " ", "_")+".md"] = b.Bytes()
	}
	if *update {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range want {
		golden(t, filepath.Join(dir, name), text)
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range have {
		if _, ok := want[e.Name()]; ok {
			continue
		}
		if !*update {
			t.Errorf("%s is of no command: make docs", e.Name())
		} else if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

func golden(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, want, 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile(path); err != nil {
		t.Errorf("%v: make docs", err)
	} else if !bytes.Equal(have, want) {
		t.Errorf("%s is old: make docs", path)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	for _, cmd := range commands(testApp().root()) {
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help %q: one line without a full stop", path, cmd.Short)
		}
		if cmd.Long == "" || !strings.HasSuffix(strings.TrimSpace(cmd.Long), ".") {
			t.Errorf("%s: long help: sentences", path)
		}
		if !strings.Contains(cmd.Example, "  smolvm ") && !strings.Contains(cmd.Example, "| smolvm ") {
			t.Errorf("%s: no example", path)
		}
		if !cmd.HasSubCommands() && cmd.RunE == nil {
			t.Errorf("%s does nothing", path)
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 84 {
				t.Errorf("%s: long help is wider than a terminal: %q", path, line)
			}
		}
	}
}
