package mcpserver

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func TestSessionHasOneSandbox(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)

	first, text := use[runOut](u, "run_command", args{"command": "echo hello; echo oh >&2; exit 3"})
	if first.Stdout != "hello\n" || first.Stderr != "oh\n" || first.ExitCode != 3 || first.Note == "" {
		t.Errorf("got %+v", first)
	}
	if !strings.HasSuffix(text, "hello\n--- stderr ---\noh\n[exit code 3]") {
		t.Errorf("as text %q", text)
	}
	second, _ := use[runOut](u, "run_code", args{"language": "sh", "code": "cat; echo $WHO", "stdin": "in ", "env": args{"WHO": "me"}})
	if second.Stdout != "in me\n" || second.Sandbox != first.Sandbox || second.Note != "" {
		t.Errorf("got %+v", second)
	}
	list, _ := use[listOut](u, "list_sandboxes", nil)
	if len(list.Sandboxes) != 1 || !list.Sandboxes[0].Default || !list.Sandboxes[0].Own || list.Sandboxes[0].Kept {
		t.Errorf("listed %+v", list)
	}

	u.Close()
	if err := <-u.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if left := p.sandboxes(t); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestFirstUsesAtOnceShareASandbox(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	done := make(chan string)
	for range 4 {
		go func() {
			o, _ := use[runOut](u, "run_command", args{"command": "true"})
			done <- o.Sandbox
		}()
	}
	names := []string{<-done, <-done, <-done, <-done}
	if slices.Sort(names); names[0] != names[3] || names[0] == "" {
		t.Errorf("ran in %q", names)
	}
}

func TestKeptSandboxIsFoundByTheNextSession(t *testing.T) {
	p := newPlace(t, Options{})
	one, two := p.open(t, nil), p.open(t, nil)
	use[createOut](one, "create_sandbox", args{"name": "stays", "keep": true})
	mine, _ := use[createOut](one, "create_sandbox", args{"name": "goes"})
	if mine.Default {
		t.Error("the second sandbox became the default one")
	}
	two.refused("run_command", args{"sandbox": "goes", "command": "true"}, "not_found", "list_sandboxes")
	one.Close()
	<-one.served
	o, _ := use[runOut](two, "run_command", args{"sandbox": "stays", "command": "true"})
	if o.Sandbox != "stays" {
		t.Errorf("got %+v", o)
	}
	list, text := use[listOut](two, "list_sandboxes", nil)
	if len(list.Sandboxes) != 1 || !list.Sandboxes[0].Kept || list.Sandboxes[0].Own {
		t.Errorf("listed %+v", list)
	}
	if !strings.Contains(text, "of another session") {
		t.Errorf("as text %q", text)
	}
}

func TestLongOutputIsReadInPages(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	o, text := use[runOut](u, "run_command", args{"command": "seq 1 20000"})
	if len(text) > outputLimit+1000 || len(o.Stdout) > outputLimit+300 {
		t.Errorf("%d bytes of text", len(text))
	}
	if !strings.HasPrefix(o.Stdout, "1\n2\n") || !strings.HasSuffix(o.Stdout, "19999\n20000\n") || o.OutputID == "" {
		t.Errorf("cut to %q", o.Stdout)
	}
	all, offset := "", int64(0)
	for {
		page, _ := use[outputOut](u, "read_output", args{"output_id": o.OutputID, "offset": offset, "limit": 50000})
		all += page.Output
		if offset = page.NextOffset; offset == 0 {
			break
		}
	}
	if want := o.StdoutBytes; int64(len(all)) != want || !strings.HasSuffix(all, "\n20000\n") {
		t.Errorf("read %d bytes of %d", len(all), want)
	}
	u.refused("read_output", args{"output_id": "o99"}, "not_found", "Next:")

	// More than is kept of one stream.
	big, _ := use[runOut](u, "run_command", args{"command": "yes x | head -c 3000000; echo end"})
	if !strings.HasSuffix(big.Stdout, "end\n") || big.StdoutBytes != 3000004 {
		t.Errorf("the end is %q of %d", big.Stdout[len(big.Stdout)-10:], big.StdoutBytes)
	}
	last, _ := use[outputOut](u, "read_output", args{"output_id": big.OutputID, "offset": keptStream - 10})
	if last.Dropped != 3000004-keptStream || last.NextOffset != 0 {
		t.Errorf("got %+v", last)
	}
}

func TestFiles(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b.txt")
	use[writeOut](u, "write_file", args{"path": path, "content": "grüße\n", "mode": "600"})
	use[writeOut](u, "write_file", args{"path": path, "content": "more", "append": true})
	got, _ := use[readOut](u, "read_file", args{"path": path})
	if got.Content != "grüße\nmore" || got.Encoding != "utf-8" || got.NextOffset != 0 {
		t.Errorf("read %+v", got)
	}
	// A page does not cut a character: the third byte is half of the ü.
	part, text := use[readOut](u, "read_file", args{"path": path, "limit": 3})
	if part.Content != "gr" || part.NextOffset != 2 || !strings.Contains(text, "offset 2") {
		t.Errorf("read %+v, %q", part, text)
	}
	rest, _ := use[readOut](u, "read_file", args{"path": path, "offset": 2})
	if rest.Content != "üße\nmore" {
		t.Errorf("read %+v", rest)
	}
	use[writeOut](u, "write_file", args{"path": path, "content": "AAEC", "encoding": "base64"})
	if got, _ = use[readOut](u, "read_file", args{"path": path}); got.Content != "AAEC" || got.Encoding != "base64" {
		t.Errorf("read %+v", got)
	}
	png := append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 30000)...)
	use[writeOut](u, "write_file", args{"path": path, "content": base64.StdEncoding.EncodeToString(png), "encoding": "base64"})
	res, _ := u.try("read_file", args{"path": path})
	if img, ok := res.Content[len(res.Content)-1].(*mcp.ImageContent); !ok || img.MIMEType != "image/png" || len(img.Data) != len(png) {
		t.Errorf("a picture came as %+v", res.Content)
	}
	for i := range 5 {
		use[writeOut](u, "write_file", args{"path": fmt.Sprintf("%s/f%d", dir, i), "content": ""})
	}
	list, _ := use[listFilesOut](u, "list_files", args{"path": dir, "limit": 2})
	if list.Total != 6 || list.NextOffset != 2 || list.Files[0].Name != "a" || list.Files[0].Type != "dir" {
		t.Errorf("listed %+v", list)
	}
	u.refused("read_file", args{"path": dir + "/none"}, "not_found", "list_files")
	u.refused("read_file", args{"path": "relative"}, "path")
	u.refused("write_file", args{"path": path, "content": "=", "encoding": "base64"}, "invalid", "base64")
}

func TestSaved(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	u.refused("history", nil, "not_found", "create_sandbox")
	// The fake host's own commands keep something in memory.
	use[runOut](u, "run_code", args{"language": "sh", "code": "true"})
	o, text := use[runOut](u, "run_command", args{"command": "true", "checkpoint": true})
	if o.Step == nil || *o.Step != 0 || !strings.Contains(text, "step 0") {
		t.Fatalf("got %+v, %q", o, text)
	}
	s, _ := use[stepOut](u, "checkpoint", args{"label": "here"})
	h, text := use[historyOut](u, "history", nil)
	if len(h.Steps) != 2 || h.Head != s.Step || !strings.Contains(text, "here <- here") {
		t.Errorf("history %+v, %q", h, text)
	}
	if back, _ := use[stepOut](u, "rewind", args{"step": 0}); back.Step != 0 {
		t.Errorf("rewound to %+v", back)
	}
	u.refused("rewind", args{"step": 99}, "not_found")
	snap, _ := use[snapshotOut](u, "snapshot", args{"name": "ready"})
	if list, _ := use[snapshotsOut](u, "list_snapshots", nil); len(list.Snapshots) != 1 || list.Snapshots[0].Name != snap.Snapshot {
		t.Errorf("snapshots %+v", list)
	}
	from, _ := use[createOut](u, "create_sandbox", args{"from_snapshot": "ready", "name": "again"})
	if from.Name != "again" {
		t.Errorf("made %+v", from)
	}
	u.refused("create_sandbox", args{"from_snapshot": "ready", "memory_mib": 512}, "invalid", "Leave them out")
	forks, _ := use[forkOut](u, "fork", args{"count": 2, "name": "try"})
	if len(forks.Children) != 2 || forks.Children[0].Name != "try-1" || !forks.Children[1].Own {
		t.Errorf("forked %+v", forks)
	}
	use[removeOut](u, "remove_sandbox", args{"sandbox": "try-1"})
	if n := len(p.sandboxes(t)); n != 3 {
		t.Errorf("%d sandboxes", n)
	}
}

func TestDefaultSandboxIsMadeAnew(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	first, _ := use[runOut](u, "run_command", args{"command": "true"})
	sb, err := p.client.Get(t.Context(), first.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := sb.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
	second, _ := use[runOut](u, "run_command", args{"command": "true"})
	if second.Sandbox == first.Sandbox || !strings.Contains(second.Note, "gone") {
		t.Errorf("got %+v", second)
	}
}

func TestBackground(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	o, text := use[runOut](u, "run_command", args{"command": "echo ready; exec sleep 1000", "background": true})
	if !o.Running || o.OutputID == "" || !strings.Contains(text, "read_output") {
		t.Fatalf("got %+v, %q", o, text)
	}
	await(t, func() bool {
		out, _ := use[outputOut](u, "read_output", args{"output_id": o.OutputID})
		return out.Output == "ready\n" && out.Running
	})
	use[stopOut](u, "stop_process", args{"output_id": o.OutputID})
	await(t, func() bool {
		out, _ := use[outputOut](u, "read_output", args{"output_id": o.OutputID})
		return !out.Running && out.ExitCode != nil && *out.ExitCode == 143
	})
	u.refused("stop_process", args{"output_id": o.Sandbox + "/p99"}, "not_found", "output_id")
}

func TestBounds(t *testing.T) {
	p := newPlace(t, Options{})
	u := p.open(t, nil)
	for _, c := range []struct {
		name string
		a    args
		word string
	}{
		{"run_command", args{}, "command"},
		{"run_command", args{"command": "true", "timeout_seconds": 0.5}, "timeout_seconds"},
		{"run_command", args{"command": "true", "cwd": "relative"}, "cwd"},
		{"run_command", args{"command": "true", "shell": "zsh"}, "shell"},
		{"run_code", args{"language": "cobol", "code": "x"}, "language"},
		{"create_sandbox", args{"cpus": 1000}, "cpus"},
		{"create_sandbox", args{"name": "Not A Name"}, "name"},
		{"expose_port", args{"port": 70000}, "port"},
		{"fork", args{"count": 17}, "count"},
	} {
		u.refused(c.name, c.a, c.word)
	}
	if n := len(p.sandboxes(t)); n != 0 {
		t.Errorf("%d sandboxes were made", n)
	}
	o, text := use[runOut](u, "run_command", args{"command": "echo begun; sleep 100", "timeout_seconds": 1})
	if !o.TimedOut || o.Stdout != "begun\n" || !strings.Contains(text, "timeout_seconds") {
		t.Errorf("got %+v, %q", o, text)
	}
	u.refused("run_code", args{"language": "ruby", "code": strings.Repeat("x", maxCode+1)}, "code")
}
