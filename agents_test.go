package smolvm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/model"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

// agentTime bounds one agent's run, image and template included, on two busy cores.
const agentTime = 4 * time.Minute

// agentTask is what the scripted model has every agent do: its shell edits a file and
// writes down what the agent's environment holds.
const agentTask = `printf 'fixed\n' > src/main.txt && env | sort > env.txt`

// codingAgent is a coding agent, unmodified from npm, before the scripted model under
// the provider's real name.
type codingAgent struct {
	name, host, key string
	tool, arg       string // its shell, and that one's argument
	// base says, for smolvm and for the agent, at which port the provider is; the rest
	// of the two command lines comes from the test.
	base func(port int) (flags, argv []string)

	w    *world.World
	home string
}

func claudeCode(w *world.World, home string) codingAgent {
	return codingAgent{
		name: "claude", host: "api.anthropic.com", key: "ANTHROPIC_API_KEY", tool: "Bash", arg: "command", w: w, home: home,
		base: func(port int) ([]string, []string) {
			return []string{"-e", fmt.Sprintf("ANTHROPIC_BASE_URL=https://api.anthropic.com:%d", port)}, nil
		},
	}
}

func codex(w *world.World, home string) codingAgent {
	return codingAgent{
		name: "codex", host: "api.openai.com", key: "OPENAI_API_KEY", tool: "exec_command", arg: "cmd", w: w, home: home,
		base: func(port int) ([]string, []string) {
			return nil, []string{"-m", model.Name, "-c", fmt.Sprintf("openai_base_url=https://api.openai.com:%d/v1", port)}
		},
	}
}

// TestVMAgents runs coding agents as they come from npm, by smolvm agent.
func TestVMAgents(t *testing.T) {
	w, home := world.Start(t), testenv.Home(t)
	t.Run("claude", func(t *testing.T) { testAgentCopy(t, claudeCode(w, home)) })
	t.Run("claude that fails", func(t *testing.T) { testAgentFails(t, claudeCode(w, home)) })
	t.Run("codex", func(t *testing.T) { testAgentApplied(t, codex(w, home)) })
	t.Run("codex in the folder itself", func(t *testing.T) { testAgentMounted(t, codex(w, home)) })
	eventually(t, func() bool { return len(testenv.Processes(home)) == 0 })
	if left := testenv.Files(home); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// testAgentCopy has the agent change a copy, and looks at what it tells of that.
func testAgentCopy(t *testing.T, a codingAgent) {
	m, project := a.serve(), agentProject(t)
	stdout, status := a.run(t, project, []string{"--json"}, "-p", "fix it")
	a.asked(t, m)
	var out struct {
		Data struct {
			Stdout, Patch string
			Changes       []api.Change
		}
	}
	if err := json.Unmarshal([]byte(stdout), &out); err != nil || status != 0 {
		t.Fatalf("status %d, %v: %s", status, err, stdout)
	}
	var changes []string
	for _, c := range out.Data.Changes {
		changes = append(changes, c.What+" "+strings.TrimPrefix(c.Path, project))
	}
	if got := strings.Join(changes, ", "); got != "added /env.txt, changed /src/main.txt" || out.Data.Stdout != "all is fixed\n" {
		t.Errorf("%s; %s", got, out.Data.Stdout)
	}
	if main := agentFile(t, project, "src/main.txt"); main != "broken\n" {
		t.Errorf("the project itself has changed: %s", main)
	}
	t.Cleanup(func() { os.Remove(out.Data.Patch) })
	if b, err := exec.Command("git", "-C", project, "apply", out.Data.Patch).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	a.changed(t, project)
}

// testAgentFails wants the agent's own status and words, and the image made once.
func testAgentFails(t *testing.T, a codingAgent) {
	stdout, status := a.run(t, agentProject(t), nil, "--no-such-flag")
	if status != 1 || stdout != "" {
		t.Errorf("status %d: %s", status, stdout)
	}
}

// testAgentApplied gives the agent its task by a pipe and has the changes applied.
func testAgentApplied(t *testing.T, a codingAgent) {
	m, project := a.serve(), agentProject(t)
	stdout, status := a.run(t, project, []string{"--apply-patch"}, "exec", "--skip-git-repo-check", "-")
	if status != 0 || stdout != "all is fixed\n" {
		t.Errorf("status %d: %s", status, stdout)
	}
	a.asked(t, m)
	a.changed(t, project)
}

// testAgentMounted has the agent work on the folder of the host.
func testAgentMounted(t *testing.T, a codingAgent) {
	m, project := a.serve(), agentProject(t)
	stdout, status := a.run(t, project, []string{"--rw"}, "exec", "--skip-git-repo-check", "fix it")
	if status != 0 || stdout != "all is fixed\n" {
		t.Errorf("status %d: %s", status, stdout)
	}
	a.asked(t, m)
	a.changed(t, project)
}

// serve puts a model of its own behind the provider's name. It takes the real key.
func (a codingAgent) serve() *model.Model {
	m := model.New(model.Use(a.tool, map[string]any{a.arg: agentTask}), model.Say("all is fixed"))
	m.Key, m.Aside = realKey, "a title"
	a.w.Serve(a.host, withoutSocket(m))
	return m
}

// withoutSocket refuses the WebSocket that Codex tries first, as a server does that has
// none (RFC 9110, section 15.5.22).
func withoutSocket(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			http.Error(rw, "no WebSocket here", http.StatusUpgradeRequired)
			return
		}
		h.ServeHTTP(rw, r)
	})
}

// asked wants the model to have been asked, with the real key, until it was done.
func (a codingAgent) asked(t *testing.T, m *model.Model) {
	t.Helper()
	if err := m.Err(); err != nil {
		t.Error(err)
	}
	for _, q := range m.Requests() {
		if len(q.Results) > 0 {
			return
		}
	}
	t.Errorf("of %d requests none has the tool's result", len(m.Requests()))
}

// changed wants the task done, by an unprivileged user who has a placeholder for the
// key.
func (a codingAgent) changed(t *testing.T, project string) {
	t.Helper()
	env := agentFile(t, project, "env.txt")
	if agentFile(t, project, "src/main.txt") != "fixed\n" ||
		!strings.Contains(env, "\n"+a.key+"=smolvm_secret_") || !strings.Contains(env, "\nUSER=agent\n") || strings.Contains(env, realKey) {
		t.Errorf("in the agent's environment: %s", env)
	}
}

// agentProject makes a folder to work on.
func agentProject(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "project")
	if err := os.MkdirAll(filepath.Join(dir, "src"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "src", "main.txt"), []byte("broken\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func agentFile(t *testing.T, project, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(project, name))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// run runs smolvm agent on a project, with the task on standard input, and returns what
// it printed and its exit status.
func (a codingAgent) run(t *testing.T, project string, flags []string, argv ...string) (stdout string, status int) {
	t.Helper()
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	text := fmt.Sprintf("version: 1\ndefault: deny\nrules:\n- {action: allow, domains: [%s], cidrs: [127.0.0.1], ports: [%q]}\n",
		a.host, strconv.Itoa(a.w.HTTPS))
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	base, words := a.base(a.w.HTTPS)
	args := append([]string{"agent", a.name, "--dns", a.w.DNS, "--network-policy", policy}, flags...)
	args = append(append(args, base...), "--")
	args = append(append(args, words...), argv...)
	ctx, cancel := context.WithTimeout(t.Context(), agentTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.Binary(t), args...)
	cmd.Dir, cmd.Stdin = project, strings.NewReader("fix it")
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+a.home, "SSL_CERT_FILE="+a.w.CAFile, a.key+"="+realKey)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	begin := time.Now()
	err := cmd.Run()
	t.Logf("%.1f s, %v\n%s", time.Since(begin).Seconds(), err, errs.String())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
