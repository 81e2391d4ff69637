package tools_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/fakehost"
	"github.com/smolvm/smolvm/tools"
)

var update = flag.Bool("update", false, "write the golden file anew")

func TestMain(m *testing.M) {
	if code, ok := fakehost.Main(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// client is one whose sandboxes run their commands on this host.
func client(t *testing.T) *smolvm.Client {
	t.Helper()
	c := &smolvm.Client{Home: fakehost.Home(t), Binary: os.Args[0]}
	t.Cleanup(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(time.Minute); len(testenv.Processes(c.Home)) > 0; <-tick.C {
			if time.Now().After(deadline) {
				t.Fatalf("left behind: %v", testenv.Processes(c.Home))
			}
		}
	})
	return c
}

func sandbox(t *testing.T) *smolvm.Sandbox {
	t.Helper()
	sb, err := client(t).Create(t.Context(), smolvm.Spec{Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return sb
}

// call calls a tool and returns its answer.
func call(t *testing.T, set tools.Set, name string, args map[string]any) map[string]any {
	t.Helper()
	b, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	text, err := set.Call(t.Context(), name, b)
	if err != nil {
		t.Fatalf("%s %s: %v", name, b, err)
	}
	var answer map[string]any
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%s: %q: %v", name, text, err)
	}
	return answer
}

// TestDefinitions shows what a model is told.
func TestDefinitions(t *testing.T) {
	type shown struct {
		Name, Description string
		Parameters        map[string]any
	}
	var list []shown
	for _, tool := range tools.In(nil, tools.Options{}) {
		list = append(list, shown{tool.Name, tool.Description, tool.Parameters})
		if _, ok := tool.Parameters["required"].([]string); !ok {
			t.Errorf("%s: required is a %T", tool.Name, tool.Parameters["required"])
		}
	}
	got, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	golden := filepath.Join("testdata", "definitions.json")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(got) != string(want) {
		t.Errorf("the definitions changed (-update writes them): %v\n%s", err, got)
	}
}

func TestCommands(t *testing.T) {
	set := tools.In(sandbox(t), tools.Options{Limit: 10, Timeout: 20 * time.Second})
	for _, test := range []struct {
		name, tool string
		args       map[string]any
		want       map[string]any
	}{
		{"output and status", "run_command", map[string]any{"command": "echo out; echo err >&2; exit 3"},
			map[string]any{"exit_code": 3.0, "stdout": "out\n", "stderr": "err\n"}},
		{"directory", "run_command", map[string]any{"command": "pwd", "cwd": "/"}, map[string]any{"stdout": "/\n"}},
		{"input", "run_command", map[string]any{"command": "cat", "stdin": "<&>"}, map[string]any{"stdout": "<&>"}},
		{"no input", "run_command", map[string]any{"command": "cat"}, map[string]any{"exit_code": 0.0, "stdout": ""}},
		{"no text", "run_command", map[string]any{"command": `printf 'a\377b'`}, map[string]any{"stdout": "a\uFFFDb"}},
		{"too much", "run_command", map[string]any{"command": "echo 0123456789abc"},
			map[string]any{"stdout": "0123456789", "truncated": true}},
		{"too long", "run_command", map[string]any{"command": "echo begun; sleep 60", "timeout_seconds": 1},
			map[string]any{"stdout": "begun\n", "timed_out": true}},
		{"python", "run_code", map[string]any{"language": "python", "code": "print(6*7)"}, map[string]any{"stdout": "42\n"}},
		{"shell", "run_code", map[string]any{"language": "sh", "code": "a=1\necho $a"}, map[string]any{"stdout": "1\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := call(t, set, test.tool, test.args)
			for key, want := range test.want {
				if answer[key] != want {
					t.Errorf("%s is %v, want %v (%v)", key, answer[key], want, answer)
				}
			}
		})
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir() // the fake's files are this host's
	set := tools.In(sandbox(t), tools.Options{Limit: 10})
	path := filepath.Join(dir, "new", "file")
	call(t, set, "write_file", map[string]any{"path": path, "content": "fünf ma"})
	if answer := call(t, set, "write_file", map[string]any{"path": path, "content": "l fünf äö", "append": true}); answer["bytes"] != 12.0 {
		t.Errorf("wrote %v", answer)
	}
	var text strings.Builder
	for offset := 0.0; ; {
		answer := call(t, set, "read_file", map[string]any{"path": path, "offset": offset})
		text.WriteString(answer["content"].(string))
		next, more := answer["next_offset"].(float64)
		if !more {
			break
		}
		offset = next
	}
	if text.String() != "fünf mal fünf äö" {
		t.Errorf("read %q", text.String())
	}
	if err := os.WriteFile(path, []byte("\xff\x00\xfe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if answer := call(t, set, "read_file", map[string]any{"path": path}); answer["content"] != "/wD+" || answer["encoding"] != "base64" {
		t.Errorf("read of what is no text: %v", answer)
	}
	set = tools.In(sandbox(t), tools.Options{Limit: 100})
	for _, name := range []string{"a", "b", "c"} {
		call(t, set, "write_file", map[string]any{"path": filepath.Join(dir, "list", name), "content": "x"})
	}
	answer := call(t, set, "list_files", map[string]any{"path": filepath.Join(dir, "list")})
	if files := answer["files"].([]any); len(files) != 2 || answer["missing"] != 1.0 {
		t.Errorf("listed %v", answer)
	}
}

// TestModelErrors has the model do wrong: it is told, and the program goes on.
func TestModelErrors(t *testing.T) {
	set := tools.In(sandbox(t), tools.Options{})
	for _, test := range []struct{ name, tool, args, class, text string }{
		{"no such tool", "rm", `{}`, "not_found", "run_command, run_code"},
		{"no JSON", "run_command", `{"command": `, "invalid", "run_command"},
		{"no arguments", "run_command", ``, "invalid", "command"},
		{"no object", "run_command", `["ls"]`, "invalid", ""},
		{"wrong type", "run_command", `{"command": 1}`, "invalid", "command"},
		{"unknown argument", "run_command", `{"command": "ls", "sudo": true}`, "invalid", "sudo"},
		{"negative timeout", "run_command", `{"command": "ls", "timeout_seconds": -1}`, "invalid", "-1"},
		{"no such language", "run_code", `{"language": "cobol", "code": ""}`, "invalid", "cobol"},
		{"no such directory", "run_command", `{"command": "ls", "cwd": "/nowhere"}`, "invalid", "/nowhere"},
		{"no such file", "read_file", `{"path": "/nowhere"}`, "not_found", "/nowhere"},
		{"negative offset", "read_file", `{"path": "/etc/passwd", "offset": -1}`, "invalid", "-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, err := set.Call(t.Context(), test.tool, []byte(test.args))
			var answer struct{ Error smolvm.Error }
			if err != nil || json.Unmarshal([]byte(text), &answer) != nil {
				t.Fatalf("%q, %v", text, err)
			}
			if string(answer.Error.Class) != test.class || !strings.Contains(text, test.text) {
				t.Errorf("answer %s, want class %s and %q", text, test.class, test.text)
			}
		})
	}
}

// TestProgramErrors wants what no model can put right to reach the program.
func TestProgramErrors(t *testing.T) {
	sb := sandbox(t)
	set := tools.In(sb, tools.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if text, err := set.Call(ctx, "run_command", []byte(`{"command": "sleep 60"}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the context ended: %q, %v", text, err)
	}
	if err := sb.Stop(t.Context(), smolvm.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if text, err := set.Call(t.Context(), "run_command", []byte(`{"command": "true"}`)); err == nil {
		t.Errorf("the sandbox is gone: %q", text)
	}
}

// TestFresh wants nothing of a call to be there afterwards.
func TestFresh(t *testing.T) {
	c := client(t)
	set := tools.Fresh(c, smolvm.Spec{Env: map[string]string{"WHO": "model"}}, tools.Options{})
	for range 2 {
		if answer := call(t, set, "run_command", map[string]any{"command": "echo $WHO"}); answer["stdout"] != "model\n" {
			t.Errorf("answer %v", answer)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if text, err := set.Call(ctx, "run_command", []byte(`{"command": "sleep 60"}`)); err == nil {
		t.Errorf("the context ended: %q", text)
	}
	list, err := c.List(t.Context(), smolvm.ListOptions{})
	if err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	// An impossible sandbox is the program's fault, not the model's.
	set = tools.Fresh(c, smolvm.Spec{CPUs: -1}, tools.Options{})
	if text, err := set.Call(t.Context(), "run_command", []byte(`{"command": "true"}`)); !errors.Is(err, smolvm.ErrInvalid) {
		t.Errorf("a bad spec: %q, %v", text, err)
	}
}
