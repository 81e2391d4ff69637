package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"plain é 世":          "plain é 世",
		"a\x1b[2Jb":          `a\x1b[2Jb`,
		"a\nb\tc":            `a\nb\tc`,
		"\u202egnp.exe":      `\u202egnp.exe`,
		"bad \xff byte":      `bad \xff byte`,
		"bell\a del\x7f":     `bell\a del\x7f`,
		"c1 \u009b2J":        `c1 \u009b2J`,
		"zero\u200bwidth":    `zero\u200bwidth`,
		"replacement \ufffd": `replacement \ufffd`,
	} {
		if got := clean(text); got != want {
			t.Errorf("clean(%q) = %s, want %s", text, got, want)
		}
	}
	if got := cleanText("a\n\tb\x1b"); got != "a\n\tb\\x1b" {
		t.Errorf("cleanText keeps lines: %q", got)
	}
}

func TestTableEscapesCells(t *testing.T) {
	var b strings.Builder
	table(&b, "NAME\tSTATE", [][]string{{"a\tb\n\x1b[31m", "x"}})
	if want := "NAME              STATE\n" + `a\tb\n\x1b[31m    x` + "\n"; b.String() != want {
		t.Logf("table:\n%s", b.String())
		if strings.ContainsAny(b.String(), "\x1b\t") {
			t.Error("a cell's control characters reached the table")
		}
	}
	if n := strings.Count(b.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want 2", n)
	}
}

// exitCases are errors and what they become.
var exitCases = []struct {
	name string
	err  error
	code string
	exit int
}{
	{"not found", api.Errorf(api.NotFound, "x"), "not_found", 1},
	{"conflict", api.Errorf(api.Conflict, "x"), "conflict", 1},
	{"invalid", api.Errorf(api.Invalid, "x"), "invalid_input", 1},
	{"unavailable", api.Errorf(api.Unavailable, "x"), "not_running", 1},
	{"finer code", api.Errorf(api.Unavailable, "x").WithCode("missing_dependency"), "missing_dependency", 1},
	{"timeout", api.Errorf(api.Timeout, "x"), "timeout", 1},
	{"denied", api.Errorf(api.Denied, "x"), "refused", 1},
	{"exhausted", api.Errorf(api.Exhausted, "x"), "exhausted", 1},
	{"internal", errors.New("x"), "runtime_error", 1},
	{"usage", usagef("x"), "usage_error", 2},
	{"guest", &guestExit{7}, "command_failed", 7},
	{"guest's 1", &guestExit{1}, "command_failed", 1},
	{"time limit", endError(smolvm.Command{Argv: []string{"x"}}, smolvm.Ended{TimedOut: true, ExitCode: 137}), "timeout", 124},
	{"smolvm in exec", notOurs(api.Errorf(api.NotFound, "x")), "not_found", 125},
	{"usage in exec", notOurs(usagef("x")), "usage_error", 2},
	{"no program", cannotRun(api.Errorf(api.NotFound, "x")), "not_found", 127},
	{"not executable", cannotRun(api.Errorf(api.Denied, "x")), "refused", 126},
	{"guest gone", cannotRun(api.Errorf(api.Unavailable, "x")), "not_running", 125},
}

func TestExitCodes(t *testing.T) {
	ctx := context.Background()
	for _, tt := range exitCases {
		if got := exitCode(ctx, tt.err); got != tt.exit {
			t.Errorf("%s: exit %d, want %d", tt.name, got, tt.exit)
		}
		if got := errorCode(ctx, tt.err); got != tt.code {
			t.Errorf("%s: code %s, want %s", tt.name, got, tt.code)
		}
	}
	if got := exitCode(ctx, nil); got != 0 {
		t.Errorf("no error: exit %d", got)
	}
}

func TestInterruptDecidesTheExitCode(t *testing.T) {
	for sig, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(Signal{sig})
		err := notOurs(api.Errorf(api.Internal, "run: %w", ctx.Err()))
		if got := exitCode(ctx, err); got != want {
			t.Errorf("%v: exit %d, want %d", sig, got, want)
		}
		if got := errorCode(ctx, err); got != "interrupted" {
			t.Errorf("%v: code %s", sig, got)
		}
	}
	// A caller's deadline is no signal.
	ctx, cancel := context.WithTimeout(context.Background(), 0)
	defer cancel()
	if got := exitCode(ctx, api.Errorf(api.Timeout, "x")); got != 1 {
		t.Errorf("deadline: exit %d, want 1", got)
	}
}

// finished runs finish for one command and returns what was printed.
func finished(asJSON bool, o *outcome, err error) (code int, out, stderr string) {
	var outB, errB bytes.Buffer
	a := &app{Streams: Streams{Out: &outB, Err: &errB}, json: asJSON}
	root := a.root()
	cmd, _, _ := root.Find([]string{"image", "ls"})
	code = a.finish(context.Background(), cmd, o, err)
	return code, outB.String(), errB.String()
}

func TestEnvelope(t *testing.T) {
	code, out, stderr := finished(true, &outcome{data: map[string]int{"n": 1}}, nil)
	if want := `{"ok":true,"command":"image.ls","exit_code":0,"data":{"n":1},"error":null}`; compact(t, out) != want || code != 0 || stderr != "" {
		t.Errorf("exit %d, %s, stderr %q, want %s", code, out, stderr, want)
	}
	err := api.Errorf(api.NotFound, "find <x>").WithRecovery("Look.")
	err.Details = map[string]any{"k": "v"}
	code, out, stderr = finished(true, nil, err)
	want := `{"ok":false,"command":"image.ls","exit_code":1,"data":null,"error":{"code":"not_found","message":"find <x>","recovery":"Look.","details":{"k":"v"}}}`
	if compact(t, out) != want || code != 1 || stderr != "" {
		t.Errorf("exit %d, %s, stderr %q, want %s", code, out, stderr, want)
	}
	code, out, _ = finished(true, &outcome{data: 5}, &guestExit{3})
	want = `{"ok":false,"command":"image.ls","exit_code":3,"data":5,"error":{"code":"command_failed","message":"command exited with status 3"}}`
	if compact(t, out) != want || code != 3 {
		t.Errorf("exit %d, %s, want %s", code, out, want)
	}
}

func compact(t *testing.T, s string) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(s))
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil || d.More() {
		t.Fatalf("not one JSON object: %v in %q", err, s)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestErrorsForPeople(t *testing.T) {
	_, out, stderr := finished(false, nil, api.Errorf(api.NotFound, "find %q: no\x1b[2J", "x").WithRecovery("Look."))
	if want := "smolvm: find \"x\": no\\x1b[2J\nnext: Look.\n"; stderr != want || out != "" {
		t.Errorf("stdout %q, stderr %q, want %q", out, stderr, want)
	}
	_, out, stderr = finished(false, nil, &guestExit{4})
	if out+stderr != "" {
		t.Errorf("a failing command is commented on: %q", out+stderr)
	}
	_, _, stderr = finished(false, nil, usagef("bad"))
	if want := "smolvm: bad\nnext: See smolvm image ls --help\n"; stderr != want {
		t.Errorf("stderr %q, want %q", stderr, want)
	}
}

func TestSuggestions(t *testing.T) {
	for arg, want := range map[string]string{"--memroy": "memory", "--namee": "name", "--zzzzzz": ""} {
		cmd := &cobra.Command{Use: "test"}
		var f specFlags
		f.register(testApp(), cmd)
		err := flagError(cmd, cmd.ParseFlags([]string{arg}))
		hint := recovery(cmd, err)
		if want == "" && strings.Contains(hint, "mean") || want != "" && hint != "Did you mean --"+want+"?" {
			t.Errorf("%s: hint %q, want %q", arg, hint, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"kitten", "sitting", 3}, {"memroy", "memory", 2}, {"same", "same", 0}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestProgress(t *testing.T) {
	var b strings.Builder
	m := meter{w: &b}
	m.tell("pull", 1, 10)
	m.tell("pull", 10, 10)
	m.tell("boot\x1b", 0, 0)
	m.clear()
	if want := "pull\nboot\\x1b\n"; b.String() != want {
		t.Errorf("without a terminal: %q, want %q", b.String(), want)
	}
	b.Reset()
	m = meter{w: &b, term: true}
	m.tell("pull", 5<<20, 10<<20)
	m.clear()
	if want := "\r\x1b[Kpull   50%  5.0M of 10.0M\r\x1b[K"; b.String() != want {
		t.Errorf("on a terminal: %q, want %q", b.String(), want)
	}
	m.tell("boot", 0, 0)
	io.WriteString(clearing{&m, &b}, "out\n")
	io.WriteString(clearing{&m, &b}, "more\n")
	if want := "\r\x1b[Kboot\r\x1b[Kout\nmore\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("output over progress: %q, want %q", b.String(), want)
	}
	new(meter).tell("x", 0, 0) // must not fail: nobody listens
}

func TestLineWriter(t *testing.T) {
	var got []string
	w := &lineWriter{line: func(s string) { got = append(got, s) }}
	for _, s := range []string{"a\r\nb", "c\n\n", strings.Repeat("x", maxLine+1), "y"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	w.flush()
	want := []string{"a", "bc", "", strings.Repeat("x", maxLine), "xy"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
}

func TestEnvIsMasked(t *testing.T) {
	o := envOutcome("web", map[string]string{"TOKEN": "secret"}, false)
	b, err := json.Marshal(o.data)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	o.text(&text)
	if strings.Contains(string(b)+text.String(), "secret") || text.String() != "TOKEN=****\n" {
		t.Errorf("a masked value is shown: %s %s", b, text.String())
	}
	text.Reset()
	envOutcome("web", map[string]string{"TOKEN": "secret"}, true).text(&text)
	if text.String() != "TOKEN=secret\n" {
		t.Errorf("asked for: %q", text.String())
	}
}

func TestAges(t *testing.T) {
	now := time.Now()
	for d, want := range map[time.Duration]string{
		5 * time.Second: "5s", 3 * time.Minute: "3m", 5 * time.Hour: "5h", 72 * time.Hour: "3d", -time.Hour: "0s",
	} {
		if got := age(now, now.Add(-d)); got != want {
			t.Errorf("age(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestWantsJSON(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want bool
	}{
		{[]string{"ls", "--json"}, true},
		{[]string{"exec", "x", "--", "cmd", "--json"}, false},
		{[]string{"ls"}, false},
	} {
		if got := wantsJSON(tt.args); got != tt.want {
			t.Errorf("wantsJSON(%q) = %v", tt.args, got)
		}
	}
}

func TestBinaryOutputIsKept(t *testing.T) {
	d := newCommandData(&smolvm.Result{Stdout: []byte{0xff, 0}, Stderr: []byte("text")})
	if string(d.StdoutBase64) != "\xff\x00" || d.StderrBase64 != nil || d.Stderr != "text" {
		t.Errorf("%+v", d)
	}
}
