package gateway_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/gateway"
	"github.com/smolvm/smolvm/internal/testenv"
)

// descriptors counts what this process and the supervisors have open.
func (d *door) descriptors() int {
	n := 0
	dirs := []string{"/proc/self/fd"}
	for _, p := range testenv.Processes(d.Home) {
		dirs = append(dirs, fmt.Sprintf("/proc/%d/fd", p.PID))
	}
	for _, dir := range dirs {
		list, _ := os.ReadDir(dir)
		n += len(list)
	}
	return n
}

// TestClientsGone loses clients in the middle, in every way there is: no process,
// goroutine or descriptor is left of any.
func TestClientsGone(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	round := func() {
		for _, accept := range []string{"application/x-ndjson", "text/event-stream"} {
			for _, line := range []string{"sleep 60", "cat /dev/zero"} {
				d.dies(d.leave(accept, api.Exec{Command: "echo $$; exec " + line, Stdin: strings.Repeat("x", 1<<20)}))
			}
		}
		s := d.webSocket(execWS, api.Exec{Command: "exec cat /dev/zero", KeepStdin: true})
		pid := s.started()
		s.c.CloseNow()
		d.dies(pid)
		s = d.webSocket(execWS, api.Exec{Command: "exec sleep 60", KeepStdin: true})
		pid = s.started()
		s.c.Close(1000, "")
		d.dies(pid)
	}
	round()
	d.tcp.CloseIdleConnections()
	goroutines, open := runtime.NumGoroutine(), d.descriptors()
	for range 3 {
		round()
	}
	d.tcp.CloseIdleConnections()
	d.eventually("goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	d.eventually("descriptors are closed", func() bool { return d.descriptors() <= open+2 })
}

// leave begins a command, goes away after its first output and returns its process.
func (d *door) leave(accept string, e api.Exec) (pid int) {
	d.Helper()
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", d.addr)
	d.ok(err)
	defer conn.Close()
	c := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	res := d.sendBy(c, "http://"+d.addr+"/v1/sandboxes/web/exec", "POST", e, []string{"Accept: " + accept, "Authorization: Bearer " + d.token})
	defer res.Body.Close()
	head := make([]byte, 64)
	_, err = io.ReadFull(res.Body, head)
	d.ok(err)
	_, rest, _ := strings.Cut(string(head), `"pid":`)
	_, err = fmt.Sscan(rest, &pid)
	d.ok(err)
	return pid
}

func TestFiles(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	dir := t.TempDir()
	const at = "/v1/sandboxes/web/files"
	content := at + "/content?path=" + dir + "/sub/f"
	d.refused(d.send("GET", content, nil), 404, api.NotFound, "")
	d.answered(d.send("PUT", content+"&mode=600&parents=true", strings.NewReader("0123456789")), 204, nil)
	d.answered(d.send("PUT", content+"&append=true", strings.NewReader("ab")), 204, nil)
	d.refused(d.send("PUT", content+"&mode=9", strings.NewReader("x")), 400, api.Invalid, "")
	for asked, want := range map[string]struct {
		status int
		body   string
	}{
		"": {200, "0123456789ab"}, "bytes=0-3": {206, "0123"}, "bytes=10-": {206, "ab"}, "bytes=-3": {206, "9ab"},
		"bytes=4-999": {206, "456789ab"}, "bytes=5-2": {200, "0123456789ab"}, "bytes=0-1,3-4": {200, "0123456789ab"}, "lines=1-2": {200, "0123456789ab"},
		"bytes=-99": {206, "0123456789ab"},
	} {
		res := d.send("GET", content, nil, "Range: "+asked)
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != want.status || string(b) != want.body || res.ContentLength != int64(len(b)) {
			t.Errorf("%s: %s %q, %v", asked, res.Status, b, err)
		}
	}
	for _, asked := range []string{"bytes=12-", "bytes=-0"} {
		d.refused(d.send("GET", content, nil, "Range: "+asked), 416, api.Invalid, "range")
	}
	res := d.send("HEAD", content, nil)
	res.Body.Close()
	if res.StatusCode != 200 || res.ContentLength != 12 || res.Header.Get("ETag") == "" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	res = d.send("GET", content, nil, "Range: bytes=0-1", `If-Range: "old"`)
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("a part of another file: %s", res.Status)
	}
	// A file of the kernel's own has a size of zero, and is not empty.
	res = d.send("GET", at+"/content?path=/proc/version", nil)
	if b, err := io.ReadAll(res.Body); err != nil || !bytes.HasPrefix(b, []byte("Linux")) {
		t.Errorf("%q, %v", b, err)
	}
	res.Body.Close()
	d.call(204, "POST", at+"/rename", gateway.RenameFile{From: dir + "/sub/f", To: dir + "/g"}, nil)
	d.call(204, "POST", at+"/mkdir", gateway.MakeDir{Path: dir + "/h", Mode: "700"}, nil)
	var list gateway.FileList
	d.call(200, "GET", at+"/list?path="+dir, nil, &list)
	var info api.FileInfo
	d.call(200, "GET", at+"/stat?path="+dir+"/g", nil, &info)
	if len(list.Files) != 3 || list.Files[0].Name != "g" || info.Size != 12 || info.Mode != 0o600 {
		t.Errorf("%+v, %+v", list, info)
	}
	d.call(204, "DELETE", at+"?path="+dir+"/sub&recursive=true", nil, nil)
	d.archived(t, at, dir)
}

func (d *door) archived(t *testing.T, at, dir string) {
	t.Helper()
	res := d.send("GET", at+"/archive?dir="+dir+"&path=g", nil)
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	d.ok(err)
	if h, err := tar.NewReader(bytes.NewReader(b)).Next(); err != nil || h.Name != "g" {
		t.Errorf("%+v, %v", h, err)
	}
	var n smolvm.Copied
	d.answered(d.send("PUT", at+"/archive?dir="+dir+"/h", bytes.NewReader(b)), 200, &n)
	if got, err := os.ReadFile(filepath.Join(dir, "h/g")); err != nil || string(got) != "0123456789ab" || n.Files != 1 {
		t.Errorf("%q, %v, %+v", got, err, n)
	}
	d.refused(d.send("GET", at+"/archive?dir=/no/such", nil), 404, api.NotFound, "")
}

// TestUploadBreaksOff goes away in the middle of a body: the file stays as it was.
func TestUploadBreaksOff(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	path := filepath.Join(t.TempDir(), "f")
	d.ok(os.WriteFile(path, []byte("whole"), 0o600))
	for _, head := range []string{"Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"} {
		conn, err := net.Dial("tcp", d.addr)
		d.ok(err)
		fmt.Fprintf(conn, "PUT /v1/sandboxes/web/files/content?path=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s", path, d.addr, d.token, head)
		conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		conn.Close()
		// Whether the body's end is seen first or the client's, nothing else may be said.
		if text := string(answer); !strings.HasPrefix(text, "HTTP/1.1 400") && !strings.HasPrefix(text, "HTTP/1.1 503") {
			t.Errorf("%q", answer)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "whole" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

func TestProcesses(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	const at = "/v1/sandboxes/web/processes"
	var p api.Process
	d.call(201, "POST", at, api.Exec{Command: "cat; echo end >&2; exit 3", KeepStdin: true, Tag: "mine"}, &p)
	one := at + "/" + p.ID
	d.answered(d.send("POST", one+"/input", strings.NewReader("first ")), 204, nil)
	d.answered(d.send("POST", one+"/input?close=true", strings.NewReader("last")), 204, nil)
	out, errs, pid, last := d.output(d.events(d.send("GET", one+"/output?follow=true", nil)), "")
	if out != "first last" || errs != "end\n" || pid != p.PID || last.Type != api.ExecExit || last.Ended.ExitCode != 3 {
		t.Errorf("%q, %q, %+v", out, errs, last)
	}
	var list gateway.ProcessList
	d.call(200, "GET", at, nil, &list)
	if len(list.Processes) != 1 || list.Processes[0].Running || list.Processes[0].Tag != "mine" {
		t.Errorf("%+v", list)
	}
	d.refused(d.send("POST", one+"/input", strings.NewReader("more")), 409, api.Conflict, "")
	d.call(204, "DELETE", one, nil, nil)
	d.refused(d.send("GET", one+"/output", nil), 404, api.NotFound, "")
	d.call(201, "POST", at, api.Exec{Command: "echo x; sleep 60"}, &p)
	one = at + "/" + p.ID
	d.eventually("it writes", func() bool { return len(d.events(d.send("GET", one+"/output", nil))) == 2 })
	d.refused(d.send("POST", one+"/signal", gateway.ProcessSignal{Signal: "SIGWHAT"}), 400, api.Invalid, "")
	d.call(204, "POST", one+"/signal", gateway.ProcessSignal{Signal: "SIGKILL"}, nil)
	d.dies(p.PID)
}
