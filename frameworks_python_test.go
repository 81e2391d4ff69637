package smolvm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/model"
)

const pythonExamples = "examples/python"

// TestVMFrameworksPython runs each program of examples/python with the framework
// that it is for.
func TestVMFrameworksPython(t *testing.T) {
	w := newFrameworkWorld(t)
	runExamples(t, w, "Python", pythonRows(t))
}

// pythonRow fills in what all programs in Python have in common. The package that
// names the version is one of the requirements file.
func pythonRow(t *testing.T, requirements, pkg string, e example) example {
	file := filepath.Join(pythonExamples, requirements)
	e.version = pinned(t, file, pkg)
	e.program = filepath.Join(pythonExamples, e.program)
	e.command = func(t *testing.T, w *frameworkWorld, e example) *exec.Cmd {
		source, err := filepath.Abs("python/src")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(testenv.Python(t, file), e.program)
		cmd.Env = []string{"PYTHONPATH=" + source, "PYTHONDONTWRITEBYTECODE=1", "OPENAI_AGENTS_DISABLE_TRACING=1"}
		if e.env != nil {
			cmd.Env = append(cmd.Env, e.env(t, w)...)
		}
		return cmd
	}
	return e
}

// gatewayWithKey starts a gateway on TCP and makes a key for it.
func gatewayWithKey(t *testing.T, w *frameworkWorld) []string {
	key := exec.Command(w.client.Binary, "key", "create", "--scope", "manage")
	key.Env, key.Stderr = w.env, os.Stderr
	secret := strings.TrimSpace(string(must[[]byte](t)(key.Output())))
	urls := gatewayOf(t, w, "--listen", "127.0.0.1:0", "--socket", filepath.Join(t.TempDir(), "api.sock"))
	return []string{"SMOLVM_URL=" + urls[len(urls)-1], "SMOLVM_API_KEY=" + secret}
}

// pinned returns the version of a package in a requirements file.
func pinned(t *testing.T, file, pkg string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(pkg) + `==(\S+)$`).FindSubmatch(b)
	if found == nil {
		t.Fatalf("%s pins no %s", file, pkg)
	}
	return string(found[1])
}

// where is a command that tells which kernel runs it. An example whose commands run
// on this machine's is found out; see runExample.
const where = "echo boot=$(cat /proc/sys/kernel/random/boot_id)"

// ask is a script of one call, whose result the model then quotes.
func ask(tool string, args any) []model.Step {
	return []model.Step{model.Use(tool, args), model.Say("It said: " + model.Result)}
}

type args map[string]any

func pythonRows(t *testing.T) []example {
	return slices.Concat(agentorRows(t), pydanticRows(t), openaiAgentsRows(t), langchainRows(t), plainRows(t))
}

func agentorRows(t *testing.T) []example {
	row := func(e example) example {
		e.framework = "Agentor"
		return pythonRow(t, "requirements-agentor.txt", "agentor", e)
	}
	return []example{
		row(example{
			way: "package", program: "agentor_shell.py", want: []string{"It said:", "boot="},
			script: ask("run", args{"request": args{"command": where, "working_directory": "/tmp", "env": args{"A": "b"}, "timeout_ms": 20000}}),
		}),
		row(example{
			way: "MCP", program: "agentor_mcp.py", want: []string{"1267650600228229401496703205376"}, env: gatewayWithKey,
			script: ask("run_code", args{"language": "python", "code": "print(2**100)"}),
		}),
	}
}

func pydanticRows(t *testing.T) []example {
	row := func(e example) example {
		e.framework = "PydanticAI"
		return pythonRow(t, "requirements-pydantic-ai.txt", "pydantic-ai-slim", e)
	}
	return []example{
		row(example{
			way: "package", program: "pydantic_ai_tool.py", want: []string{"boot=", `"exit_code":0`},
			script: ask("run_command", args{"command": where, "timeout": 20}),
		}),
		row(example{
			way: "package", program: "pydantic_ai_reusable.py", want: []string{"Noted.", "It was 42"},
			script: []model.Step{
				model.Use("run_command", args{"command": "echo 42 > /root/favourite"}), model.Say("Noted."),
				model.Use("run_command", args{"command": "cat /root/favourite"}), model.Say("It was " + model.Result),
			},
		}),
		row(example{
			way: "MCP", program: "pydantic_ai_mcp.py", want: []string{"boot=", `"exit_code":0`},
			script: ask("run_command", args{"command": where}),
		}),
	}
}

func openaiAgentsRows(t *testing.T) []example {
	row := func(e example) example {
		e.framework = "OpenAI Agents SDK"
		return pythonRow(t, "requirements-openai-agents.txt", "openai-agents", e)
	}
	return []example{
		row(example{
			way: "package", program: "openai_agents_tool.py", want: []string{"boot=", "(exit code 0)"},
			script: ask("run_command", args{"command": where}),
		}),
		row(example{
			way: "package", program: "openai_agents_sandbox.py", want: []string{"boot=", "the page says: hello", "the file is back: hello"},
			script: []model.Step{
				model.Use("exec_command", args{"cmd": "cat task.md && echo hello > index.html && (setsid python3 -m http.server 8000 >/dev/null 2>&1 &)"}),
				model.Use("exec_command", args{"cmd": "until curl -sf localhost:8000 >/dev/null; do sleep 0.2; done; " + where}),
				model.Say("It runs. " + model.Result),
			},
		}),
		row(example{
			way: "MCP", program: "openai_agents_mcp.py", want: []string{"hello from boot="},
			script: []model.Step{
				model.Use("write_file", args{"path": "/root/hello.py", "content": "print('hello from boot=' + open('/proc/sys/kernel/random/boot_id').read())"}),
				model.Use("run_command", args{"command": "python3 /root/hello.py"}), model.Say("It printed " + model.Result),
			},
		}),
	}
}

func langchainRows(t *testing.T) []example {
	row := func(e example) example {
		e.framework = "LangChain"
		return pythonRow(t, "requirements-langchain.txt", "langchain", e)
	}
	return []example{
		row(example{
			way: "package", program: "langchain_tool.py", want: []string{"MemTotal", "boot="},
			script: ask("run_command", args{"command": "grep MemTotal /proc/meminfo; " + where}),
		}),
		row(example{
			way: "package", program: "langchain_agent.py", want: []string{"The 20th prime is 71"},
			script: []model.Step{
				model.Use("write_file", args{"path": "/root/p.py", "content": "print([n for n in range(2, 99) if all(n % d for d in range(2, n))][19])"}),
				model.Use("run_command", args{"command": "python3 /root/p.py"}), model.Say("The 20th prime is " + model.Result),
			},
		}),
		row(example{
			way: "MCP", program: "langchain_mcp.py", want: []string{"It says", "äöü 42"},
			script: []model.Step{
				model.Use("write_file", args{"path": "/tmp/hello.txt", "content": "äöü 42\n"}),
				model.Use("read_file", args{"path": "/tmp/hello.txt"}), model.Say("It says " + model.Result),
			},
		}),
	}
}

// plainRows use no framework but the clients of the model and of MCP.
func plainRows(t *testing.T) []example {
	row := func(framework, requirements, pkg string, e example) example {
		e.framework = framework
		return pythonRow(t, requirements, pkg, e)
	}
	return []example{
		row("none (openai)", "requirements-openai-agents.txt", "openai", example{
			way: "package", program: "generic_tool.py", want: []string{"took longer", "began"},
			script: []model.Step{
				model.Use("run_command", args{"command": "uname -s; " + where}),
				model.Use("run_command", args{"command": "echo began; sleep 300", "timeout": 10}), model.Say("It took longer: " + model.Result),
			},
		}),
		row("none", "requirements-openai-agents.txt", "openai", example{
			way: "package", program: "long_running.py", want: []string{"visits: 1"}, check: keptUntilRemoved,
		}),
		row("none", "requirements-openai-agents.txt", "openai", example{
			way: "package", program: "best_practices.py", want: []string{
				"removed after an exception", "still sleeping: 0", "out of time, having said: started", "stage: test",
				"the token is inside: False", "kept of the output: 1000 cut: True", "not_found: ",
			},
		}),
		row("none (mcp)", "requirements-openai-agents.txt", "mcp", example{
			way: "MCP", program: "generic_mcp.py", want: []string{"one, and no more"},
			script: []model.Step{
				model.Use("write_file", args{"path": "/root/a", "content": "one"}),
				model.Use("checkpoint", args{"label": "one"}),
				model.Use("run_command", args{"command": "echo two > /root/a"}),
				model.UseFrom("rewind", func(results []string) any { return args{"step": number(results[1])} }),
				model.Use("run_command", args{"command": "echo $(cat /root/a), and no more"}), model.Say("The file says: " + model.Result),
			},
		}),
	}
}

// number is the first number of a text.
func number(text string) int {
	n, _ := strconv.Atoi(regexp.MustCompile(`[0-9]+`).FindString(text))
	return n
}

// keptUntilRemoved checks that the one sandbox of an example outlived its program
// and has a limit, and removes it.
func keptUntilRemoved(t *testing.T, w *frameworkWorld, _ *model.Model) {
	list := must[[]smolvm.Info](t)(w.client.List(t.Context(), smolvm.ListOptions{}))
	if len(list) != 1 || list[0].IdleTimeoutSeconds == 0 {
		t.Fatalf("not one sandbox with a limit: %+v", list)
	}
	sb := must[*smolvm.Sandbox](t)(w.client.Get(t.Context(), list[0].ID))
	if err := sb.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
