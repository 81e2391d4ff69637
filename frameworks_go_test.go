package smolvm_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/testenv/model"
)

const goExamples = "examples/go"

// TestVMFrameworksGo runs each program of examples/go with the framework that it is
// for.
func TestVMFrameworksGo(t *testing.T) {
	g := goPrograms{t, t.TempDir()}
	g.build(goExamples, "./...")
	g.build(goExamples+"/genkit", ".")
	runExamples(t, newFrameworkWorld(t), "Go", g.rows())
}

// goPrograms are the programs in a directory that they are built into.
type goPrograms struct {
	*testing.T
	dir string
}

// build builds packages of a module of examples, all at once: their SDKs take minutes.
func (g goPrograms) build(module, packages string) {
	g.Helper()
	cmd := exec.Command("go", "build", "-o", g.dir+"/", packages)
	cmd.Dir = module
	if out, err := cmd.CombinedOutput(); err != nil {
		g.Fatalf("build %s (is go mod tidy due there?): %v\n%s", module, err, out)
	}
}

// row fills in what all programs in Go have in common.
func (g goPrograms) row(name, pkg string, e example) example {
	g.Helper()
	dir := filepath.Join(goExamples, name)
	module := goExamples
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		module = dir
	}
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Version}}", pkg)
	cmd.Dir = module
	e.version = strings.TrimSpace(string(must[[]byte](g)(cmd.Output())))
	e.program = dir
	more := e.command
	e.command = func(t *testing.T, w *frameworkWorld, e example) *exec.Cmd {
		cmd := exec.Command(filepath.Join(g.dir, name), "What", "is", "there?")
		if more != nil {
			cmd.Env = more(t, w, e).Env
		}
		return cmd
	}
	return e
}

func (g goPrograms) rows() []example {
	const openaiGo, anthropicGo = "github.com/openai/openai-go/v3", "github.com/anthropics/anthropic-sdk-go"
	return []example{
		g.row("openai", openaiGo, example{
			framework: "openai-go", way: "package", want: []string{"The 20th prime is", `"stdout":"71\n"`},
			script: []model.Step{
				model.Use("run_command", args{"command": where, "cwd": "/tmp", "timeout_seconds": 20}),
				model.Use("write_file", args{"path": "/root/new/p.py", "content": "print([n for n in range(2, 99) if all(n % d for d in range(2, n))][19])"}),
				model.Use("run_command", args{"command": "python3 /root/new/p.py"}),
				model.Say("The 20th prime is " + model.Result),
			},
		}),
		g.row("anthropic", anthropicGo, example{
			framework: "anthropic-sdk-go", way: "package", want: []string{"I look.", "It says", "äöü 42"},
			script: []model.Step{
				{Text: "I look.", Calls: []model.Call{
					{Tool: "run_command", Args: args{"command": where}},
					{Tool: "write_file", Args: args{"path": "/tmp/a", "content": "äöü 42\n"}},
				}},
				model.Use("read_file", args{"path": "/tmp/a"}),
				model.Say("It says " + model.Result),
			},
		}),
		g.row("anthropic", anthropicGo, example{
			framework: "anthropic-sdk-go", way: "HTTP", want: []string{"boot="}, script: ask("run_command", args{"command": where}),
			command: func(t *testing.T, w *frameworkWorld, e example) *exec.Cmd {
				return &exec.Cmd{Env: []string{"SMOLVM_URL=" + gatewayOf(t, w)[0]}}
			},
		}),
		g.row("langchaingo", "github.com/tmc/langchaingo", example{
			framework: "langchaingo", way: "package", want: []string{"Nothing is left: ", `"stdout":"gone\n"`},
			script: []model.Step{
				model.Use("run_command", args{"command": "echo 1 > /root/left; " + where}),
				model.Use("run_code", args{"language": "python", "code": "import os\nprint('there' if os.path.exists('/root/left') else 'gone')"}),
				model.Say("Nothing is left: " + model.Result),
			},
		}),
		g.row("genkit", "github.com/firebase/genkit/go", example{
			framework: "Genkit", way: "package", want: []string{"It was wrong, then right: ", "boot="},
			script: []model.Step{
				model.Use("read_file", args{"path": "/nowhere"}),
				model.Use("run_command", args{"command": where}),
				model.Say("It was wrong, then right: " + model.Result),
			},
		}),
		g.row("mcp", "github.com/modelcontextprotocol/go-sdk", example{
			framework: "MCP Go SDK", way: "MCP", want: []string{"It said: ", "boot="},
			script: []model.Step{
				model.Use("write_file", args{"path": "/root/w.sh", "content": where}),
				model.Use("run_command", args{"command": "sh /root/w.sh"}),
				model.Say("It said: " + model.Result),
			},
		}),
	}
}

// gatewayOf starts a gateway over a world's sandboxes, which ends with the test, and
// returns its URLs: that of its socket, then those of TCP.
func gatewayOf(t *testing.T, w *frameworkWorld, flags ...string) []string {
	t.Helper()
	cmd := exec.Command(w.client.Binary, append([]string{"serve", "--json"}, flags...)...)
	cmd.Env, cmd.Stderr = w.env, os.Stderr
	out := must[io.ReadCloser](t)(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	var ready struct{ URLs []string }
	line := must[string](t)(bufio.NewReader(out).ReadString('\n'))
	if err := json.Unmarshal([]byte(line), &ready); err != nil || len(ready.URLs) == 0 {
		t.Fatalf("serve says %q: %v", line, err)
	}
	return ready.URLs
}
