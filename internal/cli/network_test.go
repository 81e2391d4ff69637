package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ran is what a command line came to.
type ran struct {
	code     int
	out, err string
}

// runCLI runs a command line in a state directory of its own.
func runCLI(t *testing.T, home, stdin string, args ...string) ran {
	t.Helper()
	t.Setenv("SMOLVM_HOME", home)
	var out, errs bytes.Buffer
	code := Main(context.Background(), args, Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs}, Build{Version: "test"})
	return ran{code, out.String(), errs.String()}
}

const checkedPolicy = `default: deny
rules:
  - {id: index, action: allow, domains: [pypi.org]}
  - {id: read, action: allow, domains: [api.example.com], methods: [GET], paths: [/v1]}
  - {id: write, action: ask, domains: [api.example.com], methods: [POST]}
  - {id: git, action: allow, domains: [git.corp.example.com], cidrs: [10.1.0.0/16], ports: [22]}
  - {id: soon, action: allow, domains: [soon.example.com], expires: 2026-11-24T12:00:00Z}
`

func TestNetworkCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(checkedPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	const early = "--at=2026-11-24T11:00:00Z"
	for _, c := range []struct {
		name string
		args []string
		code int
	}{
		{"words", []string{file, early}, 0},
		{"allowed", []string{file, "https://pypi.org/simple/", "pypi.org:22", "GET", "https://api.example.com/v1/x"}, 0},
		{"denied", []string{file, "https://pypi.org", "http://169.254.169.254/", "git.corp.example.com:22", "dns:\x1b[2J"}, exitDenied},
		{"asked", []string{file, "https://pypi.org", "POST", "https://api.example.com/v2"}, exitAsk},
		{"address", []string{file, "git.corp.example.com:22", "--address", "10.1.2.3"}, 0},
		{"mode", []string{"mode:policy", "https://example.com"}, 0},
		{"early", []string{file, "https://soon.example.com", early}, 0},
		{"late", []string{file, "https://soon.example.com", "--at=2026-11-24T13:00:00Z"}, exitDenied},
		{"json", []string{file, "https://pypi.org", "--json"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := runCLI(t, t.TempDir(), "", append([]string{"network", "check"}, c.args...)...)
			if r.code != c.code || r.err != "" {
				t.Errorf("exit %d, want %d; %s", r.code, c.code, r.err)
			}
			if strings.ContainsAny(r.out, "\x1b\a") {
				t.Errorf("escapes: %q", r.out)
			}
			golden(t, filepath.Join("testdata", "network-check-"+c.name+".txt"), []byte(r.out))
		})
	}
}

func TestNetworkCheckReadsStdin(t *testing.T) {
	r := runCLI(t, t.TempDir(), checkedPolicy, "network", "check", "-", "POST", "https://pypi.org", "https://example.com", "--json")
	var e struct {
		OK       bool `json:"ok"`
		ExitCode int  `json:"exit_code"`
		Data     policyData
	}
	if err := json.Unmarshal([]byte(r.out), &e); err != nil || !e.OK || e.ExitCode != exitDenied || len(e.Data.Requests) != 2 || e.Data.Requests[0].Request != "POST https://pypi.org" {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestNetworkCheckRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"no file":         {"missing.yaml"},
		"a wrong mode":    {"mode:wild"},
		"a wrong request": {"mode:open", "ftp://example.com"},
		"a wrong address": {"mode:open", "https://example.com", "--address", "10.1"},
		"a wrong time":    {"mode:open", "https://example.com", "--at", "noon"},
		"a wrong policy":  {"-"},
	} {
		if r := runCLI(t, t.TempDir(), "default: maybe", append([]string{"network", "check"}, args...)...); r.code != exitError || r.err == "" || r.out != "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := runCLI(t, t.TempDir(), "", "network", "check"); r.code != exitUsage {
		t.Errorf("without a policy: %+v", r)
	}
}

func TestNetworkGroups(t *testing.T) {
	all := runCLI(t, t.TempDir(), "", "network", "groups")
	one := runCLI(t, t.TempDir(), "", "network", "groups", "github")
	none := runCLI(t, t.TempDir(), "", "network", "groups", "nope")
	if all.code != 0 || !strings.Contains(all.out, "github ") || one.code != 0 || !strings.Contains(one.out, "codeload.github.com") || none.code != exitError {
		t.Errorf("%+v\n%+v\n%+v", all, one, none)
	}
}
