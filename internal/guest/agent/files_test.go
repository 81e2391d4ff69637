package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

// serveDir serves a directory as the root of all files.
func serveDir(t *testing.T) (guest.Client, string) {
	t.Helper()
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "etc"), 0o755)
	os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1001::/home/agent:/bin/sh\n"), 0o644)
	os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nagents:x:1001:\nextra:x:1002:agent\n"), 0o644)
	return serve(t, agent.Options{Root: dir}), dir
}

func write(t *testing.T, c guest.Client, w guest.Write, text string) guest.FileInfo {
	t.Helper()
	info, err := c.WriteFile(testContext(t), w, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func read(t *testing.T, c guest.Client, r guest.Read) string {
	t.Helper()
	_, f, err := c.ReadFile(testContext(t), r)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteAndRead(t *testing.T) {
	c, dir := serveDir(t)
	info := write(t, c, guest.Write{Path: "/a/b/f", Parents: true, Owner: "agent", Mode: 0o600}, "one")
	if info.Size != 3 || info.Mode != 0o600 || info.User != "agent" || info.Group != "agents" || info.Type != "file" {
		t.Errorf("%+v", info)
	}
	if st, err := os.Stat(filepath.Join(dir, "a/b")); err != nil || st.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("parent: %v", err)
	}
	// Mode and owner of a file that is replaced stay.
	info = write(t, c, guest.Write{Path: "/a/b/f"}, strings.Repeat("0123456789", 10000))
	if info.Size != 100_000 || info.Mode != 0o600 || info.UID != 1000 || info.GID != 1001 {
		t.Errorf("%+v", info)
	}
	if info = write(t, c, guest.Write{Path: "/new"}, ""); info.Mode != 0o644 || info.UID != 0 || info.Size != 0 {
		t.Errorf("%+v", info)
	}
	if got := read(t, c, guest.Read{Path: "/a/b/f", Offset: 99_995}); got != "56789" {
		t.Errorf("%q", got)
	}
	if got := read(t, c, guest.Read{Path: "/a/b/f", Offset: 10, Limit: 4}); got != "0123" {
		t.Errorf("%q", got)
	}
	write(t, c, guest.Write{Path: "/new", Append: true}, "x")
	write(t, c, guest.Write{Path: "/new", Append: true}, "y")
	if got := read(t, c, guest.Read{Path: "/new"}); got != "xy" {
		t.Errorf("%q", got)
	}
	os.Symlink("new", filepath.Join(dir, "link"))
	write(t, c, guest.Write{Path: "/link"}, "through")
	if to, _ := os.Readlink(filepath.Join(dir, "link")); to != "new" || read(t, c, guest.Read{Path: "/new"}) != "through" {
		t.Error("the link was replaced")
	}
}

// TestWriteBreaksOff loses the writer: the old file stays, and nothing else.
func TestWriteBreaksOff(t *testing.T) {
	c, dir := serveDir(t)
	write(t, c, guest.Write{Path: "/f"}, "old")
	broken := errors.New("broken")
	_, err := c.WriteFile(testContext(t), guest.Write{Path: "/f"}, io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), errReader{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	// The agent has seen the end when it answers the next request's stream after it.
	for {
		names, _ := filepath.Glob(filepath.Join(dir, ".smolvm-*"))
		if len(names) == 0 {
			break
		}
		if _, err := c.Stat(testContext(t), guest.Path{Path: "/"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, c, guest.Read{Path: "/f"}); got != "old" {
		t.Errorf("%q", got)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestFilesRefused(t *testing.T) {
	c, dir := serveDir(t)
	ctx := testContext(t)
	os.Mkdir(filepath.Join(dir, "d"), 0o755)
	os.WriteFile(filepath.Join(dir, "d/f"), nil, 0o644)
	syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)
	os.Symlink("nowhere", filepath.Join(dir, "dangling"))
	stat := func(p string) error { _, err := c.Stat(ctx, guest.Path{Path: p}); return err }
	list := func(p string) error { _, err := c.List(ctx, p); return err }
	readIt := func(r guest.Read) error { _, _, err := c.ReadFile(ctx, r); return err }
	writeIt := func(w guest.Write) error { _, err := c.WriteFile(ctx, w, strings.NewReader("x")); return err }
	drain := func(r io.ReadCloser, err error) error {
		if err == nil {
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
		}
		return err
	}
	for name, test := range map[string]struct {
		err   error
		class api.Class
		text  string
	}{
		"stat missing":           {stat("/no"), api.NotFound, `"/no"`},
		"stat empty":             {stat(""), api.Invalid, "empty"},
		"stat zero byte":         {stat("a\x00b"), api.Invalid, "zero byte"},
		"stat long":              {stat(strings.Repeat("a/", 4000)), api.Invalid, "bytes"},
		"stat long name":         {stat("/" + strings.Repeat("a", 300)), api.Invalid, "too long"},
		"stat below a file":      {stat("/d/f/x"), api.Invalid, "not a directory"},
		"list missing":           {list("/no"), api.NotFound, `"/no"`},
		"list a file":            {list("/d/f"), api.Invalid, "not a directory"},
		"read missing":           {readIt(guest.Read{Path: "/no"}), api.NotFound, `"/no"`},
		"read a directory":       {readIt(guest.Read{Path: "/d"}), api.Invalid, "directory"},
		"read a pipe":            {readIt(guest.Read{Path: "/pipe"}), api.Invalid, "regular"},
		"read negative":          {readIt(guest.Read{Path: "/d/f", Offset: -1}), api.Invalid, "negative"},
		"write to a directory":   {writeIt(guest.Write{Path: "/d"}), api.Invalid, "directory"},
		"write without parent":   {writeIt(guest.Write{Path: "/no/f"}), api.NotFound, `"/no/f"`},
		"write below a file":     {writeIt(guest.Write{Path: "/d/f/x", Parents: true}), api.Invalid, "not a directory"},
		"write unknown owner":    {writeIt(guest.Write{Path: "/x", Owner: "nosuch"}), api.Invalid, `"nosuch"`},
		"write bad mode":         {writeIt(guest.Write{Path: "/x", Mode: 1 << 20}), api.Invalid, "mode"},
		"write through dangling": {writeIt(guest.Write{Path: "/dangling"}), api.NotFound, "nowhere"},
		"mkdir again":            {c.Mkdir(ctx, guest.Mkdir{Path: "/d"}), api.Conflict, `"/d"`},
		"mkdir without parent":   {c.Mkdir(ctx, guest.Mkdir{Path: "/no/d"}), api.NotFound, `"/no/d"`},
		"mkdir bad mode":         {c.Mkdir(ctx, guest.Mkdir{Path: "/x", Mode: -1}), api.Invalid, "mode"},
		"mkdir over a file":      {c.Mkdir(ctx, guest.Mkdir{Path: "/d/f", Parents: true}), api.Conflict, `"/d/f"`},
		"remove missing":         {c.Remove(ctx, guest.Remove{Path: "/no"}), api.NotFound, `"/no"`},
		"remove missing tree":    {c.Remove(ctx, guest.Remove{Path: "/no", Recursive: true}), api.NotFound, `"/no"`},
		"remove full directory":  {c.Remove(ctx, guest.Remove{Path: "/d"}), api.Conflict, `"/d"`},
		"remove the root":        {c.Remove(ctx, guest.Remove{Path: "/../", Recursive: true}), api.Invalid, "root"},
		"rename missing":         {c.Rename(ctx, "/no", "/x"), api.NotFound, `"/no"`},
		"rename into itself":     {c.Rename(ctx, "/d", "/d/e"), api.Invalid, `"/d/e"`},
		"tar missing":            {drain(c.TarOut(ctx, guest.TarOut{Base: "/no"})), api.NotFound, `"/no"`},
		"tar missing path":       {drain(c.TarOut(ctx, guest.TarOut{Base: "/d", Paths: []string{"no"}})), api.NotFound, `"no"`},
		"tar outside":            {drain(c.TarOut(ctx, guest.TarOut{Base: "/d", Paths: []string{"../etc"}})), api.Invalid, "below"},
		"changes without layer":  {drain(c.Changes(ctx)), api.Conflict, "marked"},
		"mark without layer":     {c.Mark(ctx), api.Unavailable, "layer"},
		"shutdown of no guest":   {c.Shutdown(ctx, guest.Shutdown{}), api.Unavailable, "first process"},
		"bad machine id":         {c.Setup(ctx, guest.Setup{MachineID: "x"}), api.Invalid, "32 hex"},
		"attach to nothing":      {c.Forget(ctx, "p9"), api.NotFound, `"p9"`},
		"unknown operation":      {call(ctx, c, 200), api.Invalid, "200"},
	} {
		if test.err == nil || api.ClassOf(test.err) != test.class || !strings.Contains(test.err.Error(), test.text) {
			t.Errorf("%s: class %q: %v", name, api.ClassOf(test.err), test.err)
		}
	}
	if err := c.Remove(ctx, guest.Remove{Path: "/no", Force: true}); err != nil {
		t.Error(err)
	}
}

// call opens a stream by hand and returns the failure that comes.
func call(ctx context.Context, c guest.Client, op guest.Op) error {
	st, err := c.Open(ctx, op, &guest.Empty{})
	if err != nil {
		return err
	}
	defer st.Close()
	m, err := guest.RecvWhole(st)
	if err != nil {
		return err
	}
	return api.Errorf(api.Invalid, "kind %d: %s", m.Kind, m.Payload)
}

func TestListMkdirRemove(t *testing.T) {
	c, _ := serveDir(t)
	ctx := testContext(t)
	if err := c.Mkdir(ctx, guest.Mkdir{Path: "/x/y", Parents: true, Mode: 0o1777, Owner: "1000"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Mkdir(ctx, guest.Mkdir{Path: "/x/y", Parents: true}); err != nil {
		t.Error(err)
	}
	const n = 1000
	for i := range n {
		if err := c.Mkdir(ctx, guest.Mkdir{Path: "/x/y/" + strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
	}
	l, err := c.List(ctx, "/x/y")
	sorted := slices.IsSortedFunc(l, func(a, b guest.FileInfo) int { return strings.Compare(a.Path, b.Path) })
	if err != nil || len(l) != n || !sorted || l[0].Type != "dir" || l[0].Path != "0" {
		t.Errorf("%d entries, %v", len(l), err)
	}
	if info, err := c.Stat(ctx, guest.Path{Path: "/x/y"}); err != nil || info.Mode != 0o1777 || info.UID != 1000 {
		t.Errorf("%+v, %v", info, err)
	}
	if err := c.Rename(ctx, "/x/y", "/z"); err != nil {
		t.Error(err)
	}
	if err := c.Remove(ctx, guest.Remove{Path: "/z", Recursive: true}); err != nil {
		t.Error(err)
	}
	if l, err := c.List(ctx, "/x"); err != nil || len(l) != 0 {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestTarInHostile has an archive that leads out of its destination in the guest.
func TestTarInHostile(t *testing.T) {
	c, dir := serveDir(t)
	os.Mkdir(filepath.Join(dir, "dest"), 0o755)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../etc"})
	w.WriteHeader(&tar.Header{Name: "l/new", Typeflag: tar.TypeReg, Mode: 0o644})
	w.Close()
	if _, err := c.TarIn(testContext(t), guest.TarIn{Dest: "/dest"}, &b); api.ClassOf(err) != api.Denied {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/new")); err == nil {
		t.Error("it got out")
	}
}

func TestCopy(t *testing.T) {
	c, dir := serveDir(t)
	ctx, host := testContext(t), t.TempDir()
	src := filepath.Join(host, "src")
	os.MkdirAll(filepath.Join(src, "sub"), 0o755)
	os.WriteFile(filepath.Join(src, "sub/f"), bytes.Repeat([]byte("x"), 1<<20), 0o755)
	os.Symlink("sub/f", filepath.Join(src, "l"))
	var moved int64
	res, err := c.CopyIn(ctx, src, "/copy", guest.CopyOptions{Owner: "agent", Progress: func(n int64) { moved = n }})
	if err != nil || res.Bytes != 1<<20 || moved < 1<<20 {
		t.Fatalf("%+v, %v, %d", res, err, moved)
	}
	if st, err := os.Stat(filepath.Join(dir, "copy/sub/f")); err != nil || st.Mode() != 0o755 || st.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("%v", err)
	}
	if _, err := c.CopyIn(ctx, src, "/copy", guest.CopyOptions{}); err != nil { // into it
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "copy/src/l")); err != nil {
		t.Error(err)
	}
	if _, err := c.CopyOut(ctx, "/copy/src", filepath.Join(host, "back"), guest.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("diff", "-r", "--no-dereference", src, filepath.Join(host, "back")).CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
	if _, err := c.CopyOut(ctx, "/copy/sub/f", filepath.Join(host, "one"), guest.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(host, "one")); err != nil || st.Size() != 1<<20 {
		t.Errorf("%v", err)
	}
	for _, err := range []error{
		second(c.CopyIn(ctx, filepath.Join(host, "no"), "/x", guest.CopyOptions{})),
		second(c.CopyOut(ctx, "/no", filepath.Join(host, "x"), guest.CopyOptions{})),
	} {
		if api.ClassOf(err) != api.NotFound {
			t.Errorf("%v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(host, "x")); err == nil {
		t.Error("a copy of nothing left something")
	}
}

func second(_ guest.TarResult, err error) error { return err }

func TestWatch(t *testing.T) {
	c, dir := serveDir(t)
	w, err := c.Watch(testContext(t), guest.Watch{Path: "/", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := func(name string) string { return filepath.Join(dir, name) }
	for _, step := range []struct {
		do   func() error
		want guest.Event
	}{
		{func() error { return os.WriteFile(p("f"), []byte("x"), 0o644) }, guest.Event{Path: "/f", What: "write"}},
		{func() error { return os.Mkdir(p("d"), 0o755) }, guest.Event{Path: "/d", What: "create"}},
		{func() error { return os.WriteFile(p("d/g"), []byte("x"), 0o644) }, guest.Event{Path: "/d/g", What: "create"}},
		{func() error { return os.Chmod(p("d/g"), 0o600) }, guest.Event{Path: "/d/g", What: "chmod"}},
		{func() error { return os.Rename(p("d/g"), p("d/h")) }, guest.Event{Path: "/d/g", What: "rename"}},
		{func() error { return os.Remove(p("d/h")) }, guest.Event{Path: "/d/h", What: "remove"}},
		{func() error { return os.MkdirAll(p("d/e/deep"), 0o755) }, guest.Event{Path: "/d/e/deep", What: "create"}},
		{func() error { return os.WriteFile(p("d/e/deep/f"), nil, 0o644) }, guest.Event{Path: "/d/e/deep/f", What: "create"}},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		for {
			e, err := w.Next()
			if err != nil {
				t.Fatalf("waiting for %+v: %v", step.want, err)
			}
			if e == step.want {
				break
			}
		}
	}
	if _, err := c.Watch(testContext(t), guest.Watch{Path: "/no"}); api.ClassOf(err) != api.NotFound {
		t.Errorf("%v", err)
	}
}

func TestInfoStatsPs(t *testing.T) {
	c := serve(t, agent.Options{Version: "v9"})
	ctx := testContext(t)
	if i, err := c.Info(ctx); err != nil || i.Agent != "v9" || i.Kernel == "" || i.UptimeMS <= 0 || len(i.BootID) != 36 {
		t.Errorf("%+v, %v", i, err)
	}
	if s, err := c.Stats(ctx); err != nil || s.MemTotalKiB <= 0 || s.MemAvailableKiB <= 0 || s.DiskTotalKiB <= 0 || s.Procs <= 0 || s.CPUMS <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
	ps, err := c.Ps(ctx)
	i := slices.IndexFunc(ps, func(e guest.PsEntry) bool { return e.PID == os.Getpid() })
	if err != nil || i < 0 || ps[i].PPID != os.Getppid() || ps[i].RSSKiB <= 0 || len(ps[i].Argv) == 0 || ps[i].User != "root" {
		t.Errorf("%v", err)
	}
}
