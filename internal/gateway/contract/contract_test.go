// Package contract holds the HTTP API against its own document with Schemathesis.
package contract

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/gateway"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/fakehost"
)

func TestMain(m *testing.M) {
	if code, ok := fakehost.Main(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// checks are that there is no server error, no status and no content type that is not
// in the document, and no body that is not as it says.
const checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

// inside are the routes that act inside a sandbox. The fake host's guest is this host:
// commands and files that a fuzzer thinks of are not for it.
const inside = `/exec|/processes|/ps$|/files|/diff|/env|/previews|/secrets`

// endless are the routes whose answers do not end, or that fetch from elsewhere or make
// as many as they are told.
const endless = `/leases|/wait|/events|/pull|/pools|/mcp|/metrics|/network/log|/pcap|/exec/ws|/stream|/watch`

// TestSchemathesis sends what Schemathesis makes of the document to a gateway over the
// fake host.
func TestSchemathesis(t *testing.T) {
	home := fakehost.Home(t)
	c := smolvm.Client{Home: home, Binary: os.Args[0]}
	base, token := serve(t, c)
	sb, err := c.Create(t.Context(), smolvm.Spec{Name: "box"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { empty(t, &c) })
	run(t, base, token, sb.ID(), "--exclude-path-regex", inside+"|"+endless)
	if _, err := sb.Info(t.Context()); err != nil {
		t.Errorf("the sandbox that was asked about: %v", err)
	}
}

// TestVMSchemathesis does the same with what is inside a sandbox, which is a real one.
func TestVMSchemathesis(t *testing.T) {
	c := smolvm.Client{Home: testenv.Home(t), Binary: testenv.Binary(t)}
	base, token := serve(t, c)
	t.Cleanup(func() { empty(t, &c) })
	sb, err := c.Create(t.Context(), smolvm.Spec{Name: "box"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, base, token, sb.ID(), "--include-path-regex", inside, "--exclude-path-regex", endless)
	if info, err := sb.Info(t.Context()); err != nil || info.State != smolvm.State("running") {
		t.Errorf("the sandbox: %s, %v", info.State, err)
	}
}

// serve starts a gateway on TCP and returns its address and a key.
func serve(t *testing.T, c smolvm.Client) (base, token string) {
	t.Helper()
	keys := apikey.Open(filepath.Join(c.Home, "api-keys.json"))
	_, token, err := keys.Create(apikey.Options{Scope: apikey.Admin})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gateway.New(gateway.Options{Client: c, Keys: keys, Version: "test"}).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String(), token
}

func run(t *testing.T, base, token, box string, args ...string) {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	python := testenv.Python(t, filepath.Join(dir, "requirements.txt"))
	config := filepath.Join(t.TempDir(), "schemathesis.toml")
	// 503 and 504 say that a sandbox does not run or does not answer: no fault.
	text := "[checks.not_a_server_error]\nexpected-statuses = [\"2xx\", \"3xx\", \"4xx\", 503, 504]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	all := append([]string{"--config-file", config, "run", base + "/openapi.json", "--header", "Authorization: Bearer " + token,
		"--checks", checks, "--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "1", "--workers", "1",
		"--request-timeout", "30", "--no-color", "--continue-on-failure", "--suppress-health-check", "all"}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(python), "schemathesis"), all...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "SCHEMATHESIS_HOOKS=hooks", "BOX="+box, "PYTHONPATH="+dir, "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	report := string(out)
	if i := strings.Index(report, "FAILURES"); i > 0 {
		report = report[i:]
	}
	t.Logf("%s", report)
	if err != nil {
		t.Errorf("schemathesis: %v", err)
	}
}

func empty(t *testing.T, c *smolvm.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := c.List(ctx, smolvm.ListOptions{})
	if err != nil {
		t.Error(err)
	}
	for _, info := range list {
		if sb, err := c.Get(ctx, info.ID); err == nil {
			if err := sb.Remove(ctx); err != nil {
				t.Error(err)
			}
		}
	}
}
