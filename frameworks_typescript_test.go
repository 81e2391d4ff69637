package smolvm_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/model"
)

const typescriptExamples = "examples/typescript"

// TestVMFrameworksTypeScript generates the client from the API's description, checks
// the types of all programs of examples/typescript, and runs each with the framework
// that it is for.
func TestVMFrameworksTypeScript(t *testing.T) {
	ts := typescript{t, filepath.Join(testenv.NodeBin(t), "node"), testenv.Node(t, typescriptExamples)}
	description, err := filepath.Abs("docs/api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	ts.tool("openapi-typescript/bin/cli.js", description, "--output", "generated/smolvm.ts")
	ts.tool("typescript/bin/tsc")
	w := newFrameworkWorld(t)
	gatewayOf(t, w) // on the socket that the client looks for
	runExamples(t, w, "TypeScript", ts.rows())
}

// typescript is a copy of the programs beside what they import.
type typescript struct {
	*testing.T
	node, dir string
}

// tool runs a program of an installed package.
func (ts typescript) tool(program string, arguments ...string) {
	ts.Helper()
	cmd := exec.Command(ts.node, append([]string{filepath.Join("node_modules", program)}, arguments...)...)
	cmd.Dir = ts.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// row fills in what all programs in TypeScript have in common.
func (ts typescript) row(pkg string, e example) example {
	ts.Helper()
	var lock struct {
		Packages map[string]struct{ Version string }
	}
	b := must[[]byte](ts)(os.ReadFile(filepath.Join(typescriptExamples, "package-lock.json")))
	if err := json.Unmarshal(b, &lock); err != nil {
		ts.Fatal(err)
	}
	e.version = lock.Packages["node_modules/"+pkg].Version
	file := e.program
	e.program = filepath.Join(typescriptExamples, file)
	e.command = func(t *testing.T, w *frameworkWorld, e example) *exec.Cmd {
		cmd := exec.Command(ts.node, file, "What is there?")
		cmd.Dir, cmd.Env = ts.dir, []string{"OPENAI_AGENTS_DISABLE_TRACING=1"}
		return cmd
	}
	return e
}

func (ts typescript) rows() []example {
	agents := func(e example) example { e.framework = "OpenAI Agents SDK"; return ts.row("@openai/agents", e) }
	langchain := func(e example) example { e.framework = "LangChain.js"; return ts.row("langchain", e) }
	ai := func(e example) example { e.framework = "Vercel AI SDK"; return ts.row("ai", e) }
	// steps asks for work of which one part needs the other, and quotes the last.
	steps := []model.Step{
		model.Use("write_file", args{"path": "/root/new/hello.sh", "content": "echo äöü\n" + where}),
		model.Use("run_command", args{"command": "sh /root/new/hello.sh"}),
		model.Say("It printed " + model.Result),
	}
	printed := []string{"It printed ", "äöü", "boot="}
	return []example{
		agents(example{way: "MCP", program: "openai_agents_mcp.ts", script: steps, want: printed}),
		agents(example{
			way: "HTTP", program: "openai_agents_http.ts", want: []string{"It is still there: ", `"stdout":"42\n"`},
			script: []model.Step{
				model.Use("run_command", args{"command": "echo 42 > /root/a; " + where}),
				model.Use("run_command", args{"command": "cat /root/a"}),
				model.Say("It is still there: " + model.Result),
			},
		}),
		langchain(example{way: "MCP", program: "langchain_mcp.ts", script: steps, want: printed}),
		langchain(example{
			way: "HTTP", program: "langchain_http.ts", want: []string{"It says äöü", "boot="},
			script: []model.Step{
				model.Use("write_file", args{"path": "/root/new/hello.sh", "content": "echo äöü\n" + where}),
				model.Use("run_command", args{"command": "sh /root/new/hello.sh > /root/out"}),
				model.Use("read_file", args{"path": "/root/out"}),
				model.Say("It says " + model.Result),
			},
		}),
		ai(example{way: "MCP", program: "ai_sdk_mcp.ts", script: steps, want: printed}),
		ai(example{
			way: "HTTP", program: "ai_sdk_http.ts", want: []string{"It said: ", "three", "[exit code 3]"},
			script: ask("run_command", args{"command": "echo three; " + where + " >&2; exit 3"}),
		}),
	}
}
