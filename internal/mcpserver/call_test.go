package mcpserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// pidOf waits for the number that a command has written to a file.
func pidOf(t *testing.T, file string) (pid int) {
	t.Helper()
	await(t, func() bool {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0
	})
	return pid
}

func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	await(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

func TestCancelledCallEndsItsCommand(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan error, 1)
	go func() {
		_, err := u.CallTool(ctx, &mcp.CallToolParams{Name: "run_command", Arguments: args{"command": "echo $$ > " + file + "; exec sleep 1000", "timeout_seconds": 900}})
		called <- err
	}()
	pid := pidOf(t, file)
	cancel()
	if err := <-called; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	awaitEnd(t, pid)
	use[runOut](u, "run_command", args{"command": "true"}) // the session goes on
}

func TestLostClientEndsEverything(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	file := filepath.Join(t.TempDir(), "pid")
	go u.CallTool(t.Context(), &mcp.CallToolParams{Name: "run_command", Arguments: args{"command": "echo $$ > " + file + "; exec sleep 1000"}})
	pid := pidOf(t, file)
	u.cut()
	<-u.served
	awaitEnd(t, pid)
	if left := p.sandboxes(t); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestCloseEndsCallsUnderWay(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	file := filepath.Join(t.TempDir(), "pid")
	go u.CallTool(t.Context(), &mcp.CallToolParams{Name: "run_command", Arguments: args{"command": "echo $$ > " + file + "; exec sleep 1000"}})
	pid := pidOf(t, file)
	p.Close()
	p.Close()
	awaitEnd(t, pid)
	if left := p.sandboxes(t); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestProgress(t *testing.T) {
	p := newPlace(t, Options{})
	p.times.progress = 20 * time.Millisecond
	told := make(chan *mcp.ProgressNotificationParams, 100)
	u := p.open(t, &mcp.ClientOptions{ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
		select {
		case told <- r.Params:
		default:
		}
	}})
	file := filepath.Join(t.TempDir(), "go")
	params := &mcp.CallToolParams{Name: "run_command", Arguments: args{"command": "echo some; while ! test -e " + file + "; do sleep 0.02; done"}}
	params.SetProgressToken("mine")
	done := make(chan error, 1)
	go func() {
		_, err := u.CallTool(t.Context(), params)
		done <- err
	}()
	last := -1.0
	for n := 0; n < 3; {
		select {
		case m := <-told:
			if m.ProgressToken != "mine" || m.Progress <= last {
				t.Errorf("told %+v after %v", m, last)
			}
			last = m.Progress
			if strings.Contains(m.Message, "5 bytes of output") {
				n++
			}
		case <-time.After(patience):
			t.Fatal("no progress was told")
		}
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestResources(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	path := filepath.Join(t.TempDir(), "a b.json")
	o, _ := use[writeOut](u, "write_file", args{"path": path, "content": "{}"})
	list, err := u.ListResources(t.Context(), nil)
	if err != nil || len(list.Resources) != 2 {
		t.Fatalf("listed %+v, %v", list, err)
	}
	for _, r := range list.Resources {
		if _, err := u.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: r.URI}); err != nil {
			t.Errorf("%s: %v", r.URI, err)
		}
	}
	templates, err := u.ListResourceTemplates(t.Context(), nil)
	if err != nil || len(templates.ResourceTemplates) != 3 {
		t.Errorf("listed %+v, %v", templates, err)
	}
	base := "smolvm://sandbox/" + o.Sandbox
	got, err := u.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: base + "/file" + strings.ReplaceAll(path, " ", "%20")})
	if err != nil || got.Contents[0].Text != "{}" || got.Contents[0].MIMEType != "application/json" {
		t.Errorf("read %+v, %v", got, err)
	}
	for _, uri := range []string{base + "/file/none", base + "/other", "smolvm://sandbox/none/console", base + "/file" + path + "%zz", base + "/console/x"} {
		if got, err := u.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: uri}); err == nil {
			t.Errorf("%s was read: %+v", uri, got)
		}
	}
}

func TestOutputsAreBounded(t *testing.T) {
	var o outputs
	full := func() *capture {
		c := new(capture)
		c.Write(make([]byte, 2*keptStream))
		return c
	}
	var ids []string
	for range 12 {
		id := o.next()
		o.keep(id, full(), new(capture))
		ids = append(ids, id)
	}
	if _, err := o.get(ids[11]); err != nil {
		t.Error(err)
	}
	if _, err := o.get(ids[3]); err == nil || len(o.list) != keptSession/keptStream {
		t.Errorf("%d outputs are kept", len(o.list))
	}
	for range 2 * keptOutputs {
		o.keep(o.next(), new(capture), new(capture))
	}
	if len(o.list) != keptOutputs {
		t.Errorf("%d outputs are kept", len(o.list))
	}
}
