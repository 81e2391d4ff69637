package gateway_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/gateway"
)

func TestExec(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	run := func(e api.Exec) (res api.ExecResult) {
		t.Helper()
		d.call(200, "POST", "/v1/sandboxes/web/exec", e, &res)
		return res
	}
	for name, c := range map[string]struct {
		exec api.Exec
		want api.ExecResult
	}{
		"argv":      {api.Exec{Argv: []string{"echo", "a b"}}, api.ExecResult{Stdout: "a b\n"}},
		"command":   {api.Exec{Command: "echo x; echo y >&2; exit 3"}, api.ExecResult{Stdout: "x\n", Stderr: "y\n", Ended: api.Ended{ExitCode: 3}}},
		"login":     {api.Exec{Command: "echo in", Shell: "login"}, api.ExecResult{Stdout: "in\n"}},
		"stdin":     {api.Exec{Argv: []string{"cat"}, Stdin: "in\x00é"}, api.ExecResult{Stdout: "in\x00é"}},
		"env":       {api.Exec{Command: "echo $A", Env: map[string]string{"A": "é<&>"}}, api.ExecResult{Stdout: "é<&>\n"}},
		"dir":       {api.Exec{Argv: []string{"pwd"}, Dir: "/usr"}, api.ExecResult{Stdout: "/usr\n"}},
		"no text":   {api.Exec{Command: `printf '\377\376a\303'`}, api.ExecResult{Stdout: "��a�"}},
		"base64":    {api.Exec{Argv: []string{"cat"}, Stdin: "//4A", Encoding: "base64"}, api.ExecResult{Stdout: "//4A"}},
		"signal":    {api.Exec{Command: "kill -9 $$"}, api.ExecResult{Ended: api.Ended{ExitCode: 137, Signal: "SIGKILL"}}},
		"timeout":   {api.Exec{Command: "echo first; sleep 60", TimeoutSeconds: 0.3}, api.ExecResult{Stdout: "first\n", Ended: api.Ended{ExitCode: 137, Signal: "SIGKILL", TimedOut: true}}},
		"limit":     {api.Exec{Command: "echo 123456", OutputLimit: 3}, api.ExecResult{Stdout: "123", Ended: api.Ended{Truncated: true}}},
		"terminal":  {api.Exec{Command: "stty size", TTY: true, Rows: 33, Cols: 44}, api.ExecResult{Stdout: "33 44\r\n"}},
		"no output": {api.Exec{Argv: []string{"true"}}, api.ExecResult{}},
	} {
		got := run(c.exec)
		if got.Encoding != "utf-8" && got.Encoding != c.exec.Encoding || got.WallMS < 0 {
			t.Errorf("%s: %+v", name, got)
		}
		got.WallMS, got.UserMS, got.SystemMS, got.Encoding = 0, 0, 0, ""
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if res := run(api.Exec{Argv: []string{"true"}, Checkpoint: true}); res.Step == nil || res.Step.Label != "true" {
		t.Errorf("no step: %+v", res)
	}
}

func TestExecRefuses(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	for name, c := range map[string]struct {
		exec  api.Exec
		class api.Class
	}{
		"both":         {api.Exec{Argv: []string{"a"}, Command: "b"}, api.Invalid},
		"shell alone":  {api.Exec{Argv: []string{"a"}, Shell: "raw"}, api.Invalid},
		"shell":        {api.Exec{Command: "a", Shell: "fish"}, api.Invalid},
		"encoding":     {api.Exec{Command: "a", Encoding: "hex"}, api.Invalid},
		"no base64":    {api.Exec{Command: "a", Encoding: "base64", Stdin: "!"}, api.Invalid},
		"keep_stdin":   {api.Exec{Command: "a", KeepStdin: true}, api.Invalid},
		"timeout":      {api.Exec{Command: "a", TimeoutSeconds: -1}, api.Invalid},
		"long timeout": {api.Exec{Command: "a", TimeoutSeconds: 1e300}, api.Invalid},
		"limit":        {api.Exec{Command: "a", OutputLimit: -1}, api.Invalid},
		"variable":     {api.Exec{Command: "a", Env: map[string]string{"A=": ""}}, api.Invalid},
		"no program":   {api.Exec{Argv: []string{"no-such-program"}}, api.NotFound},
		"directory":    {api.Exec{Command: "a", Dir: "/no/such"}, api.Invalid},
		"user":         {api.Exec{Command: "a", User: "nobody-such"}, api.Invalid},
	} {
		// A stream that has not begun can answer as well.
		for _, accept := range []string{"*/*", "text/event-stream"} {
			res := d.send("POST", "/v1/sandboxes/web/exec", c.exec, "Accept: "+accept)
			var f gateway.Failure
			d.answered(res, c.class.Status(), &f)
			if f.Class != c.class {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
	d.refused(d.send("POST", "/v1/sandboxes/none/exec", api.Exec{Command: "a"}), 404, api.NotFound, "")
}

// events reads a stream of events in either form.
func (d *door) events(res *http.Response) (list []api.ExecEvent) {
	d.Helper()
	defer res.Body.Close()
	if res.StatusCode != 200 {
		d.answered(res, 200, nil)
	}
	sse := res.Header.Get("Content-Type") == "text/event-stream"
	lines := bufio.NewReader(res.Body)
	name := ""
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return list
		}
		line = strings.TrimSuffix(line, "\n")
		if sse {
			if n, ok := strings.CutPrefix(line, "event: "); ok {
				name = n
			}
			data, ok := strings.CutPrefix(line, "data: ")
			if !ok {
				continue
			}
			line = data
		}
		if line == "" {
			continue
		}
		var e api.ExecEvent
		d.ok(json.Unmarshal([]byte(line), &e))
		if sse && name != string(e.Type) {
			d.Errorf("event %q holds %q", name, e.Type)
		}
		list = append(list, e)
	}
}

// output joins the output of events, and returns the first and the last.
func (d *door) output(list []api.ExecEvent, encoding string) (stdout, stderr string, pid int, last api.ExecEvent) {
	d.Helper()
	if len(list) < 2 || list[0].Type != api.ExecStarted || list[0].PID == 0 {
		d.Fatalf("%+v", list)
	}
	for _, e := range list[1 : len(list)-1] {
		data := e.Data
		if encoding == api.EncodingBase64 {
			b, err := base64.StdEncoding.DecodeString(data)
			d.ok(err)
			data = string(b)
		}
		switch e.Type {
		case api.ExecStdout:
			stdout += data
		case api.ExecStderr:
			stderr += data
		default:
			d.Errorf("%+v in the middle", e)
		}
	}
	return stdout, stderr, list[0].PID, list[len(list)-1]
}

func TestExecStream(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	// Every byte, and characters whose bytes are written one at a time.
	bytes := `i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done`
	split := `for b in 303 251 342 202 254 360 237 231 202 342 202; do printf "\\$b"; sleep 0.02; done; printf end >&2`
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, accept := range []string{"text/event-stream", "application/x-ndjson"} {
		res := d.send("POST", "/v1/sandboxes/web/exec", api.Exec{Command: bytes, Encoding: "base64"}, "Accept: "+accept)
		out, _, _, last := d.output(d.events(res), "base64")
		if out != string(all) || last.Type != api.ExecExit || last.Ended == nil || last.Ended.ExitCode != 0 {
			t.Errorf("%s: %q, %+v", accept, out, last)
		}
		res = d.send("POST", "/v1/sandboxes/web/exec", api.Exec{Command: split}, "Accept: "+accept)
		out, errs, _, _ := d.output(d.events(res), "")
		if out != "é€🙂��" || errs != "end" {
			t.Errorf("%s: %q, %q", accept, out, errs)
		}
	}
	res := d.send("POST", "/v1/sandboxes/web/exec", api.Exec{Command: "exit 4", Checkpoint: true}, "Accept: application/x-ndjson")
	if _, _, _, last := d.output(d.events(res), ""); last.Step == nil || last.Ended.ExitCode != 4 {
		t.Errorf("%+v", last)
	}
	// The machine dies while a command runs.
	res = d.send("POST", "/v1/sandboxes/web/exec", api.Exec{Command: "echo x; sleep 60"}, "Accept: application/x-ndjson")
	sb, err := d.Get(d.ctx, "web")
	d.ok(err)
	go sb.Run(context.Background(), smolvm.Command{Argv: []string{"crash"}})
	if _, _, _, last := d.output(d.events(res), ""); last.Type != api.ExecFailed || last.Error == nil || last.Error.Class != api.Unavailable {
		t.Errorf("%+v", last)
	}
}
