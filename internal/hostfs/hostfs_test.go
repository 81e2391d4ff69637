package hostfs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x")
	for path, class := range map[string]api.Class{
		dir + "/missing": api.NotFound, dir + "/file": api.Invalid, dir: api.Denied,
	} {
		s, err := New(Config{Folder: path, Hidden: []string{dir}})
		if api.ClassOf(err) != class {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			s.Close()
		}
	}
}

func TestInit(t *testing.T) {
	_, k := share(t, Config{Folder: t.TempDir()})
	a := k.ask(opInit, 0, 7, 37, 1<<20, ^uint32(0))
	if a.err != 0 || len(a.body) != 64-16+16 {
		t.Errorf("%v, %d bytes", a.err, len(a.body))
	}
	for _, version := range [][2]int{{6, 37}, {7, 20}, {8, 0}} {
		if a := k.ask(opInit, 0, version[0], version[1], 0, 0); a.err == 0 {
			t.Errorf("version %v is taken", version)
		}
	}
	if a := k.ask(opInit, 0, 7); a.err == 0 {
		t.Error("half a request is taken")
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/b/file", "hello")
	os.Symlink("b/file", dir+"/a/link")
	os.Chmod(dir+"/a/b/file", 0o4755)
	_, k := share(t, Config{Folder: dir})
	f := k.walk("a", "b", "file")
	if uid, gid := f.owner(); uid != testUser || gid != testUser {
		t.Errorf("it belongs to %d:%d", uid, gid)
	}
	if f.mode() != unix.S_IFREG|0o755 {
		t.Errorf("mode %o", f.mode())
	}
	if text, err := k.readAll(f.node()); text != "hello" || err != 0 {
		t.Errorf("%q, %v", text, err)
	}
	if a := k.ask(opReadlink, k.walk("a", "link").node()); string(a.body) != "b/file" {
		t.Errorf("link: %q, %v", a.body, a.err)
	}
	if a := k.ask(opLookup, rootID, "none"); a.err != 0 || a.node() != 0 {
		t.Errorf("a missing name: %v, node %d", a.err, a.node())
	}
	if a := k.ask(opOpen, f.node(), 0, 0); a.err != unix.ENOSYS {
		t.Errorf("open of what cannot be changed: %v", a.err)
	}
	if a := k.ask(opGetattr, rootID, 0, 0, uint64(0)); a.err != 0 || len(a.body) != 16+attrLen {
		t.Errorf("attributes: %v", a.err)
	}
	if a := k.ask(opStatfs, rootID); a.err != 0 || len(a.body) != 80 {
		t.Errorf("statfs: %v, %d bytes", a.err, len(a.body))
	}
}

func TestReaddir(t *testing.T) {
	dir := t.TempDir()
	want := []string{".", ".."}
	for i := range 300 {
		name := strings.Repeat("n", i%50) + string(rune('a'+i%26)) + strings.Repeat("x", i)[:i/10]
		if i > 250 {
			name = strings.Repeat("long", 50) + string(rune('A'+i-251))
		}
		write(t, filepath.Join(dir, "d", name), "")
		if !slices.Contains(want, name) {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	_, k := share(t, Config{Folder: dir})
	d := k.walk("d").node()
	for _, op := range []opcode{opReaddir, opReaddirplus} {
		got := k.names(d, op)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("operation %d: %d names, not %d", op, len(got), len(want))
		}
	}
}

// TestReadOnly has every request that changes something refused.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x")
	_, k := share(t, Config{Folder: dir})
	f := k.walk("file").node()
	for name, a := range map[string]answer{
		"setattr":   k.ask(opSetattr, f, make([]byte, 88)),
		"mkdir":     k.ask(opMkdir, rootID, 0o755, 0, "d"),
		"mknod":     k.ask(opMknod, rootID, unix.S_IFREG|0o644, 0, 0, 0, "n"),
		"create":    k.ask(opCreate, rootID, unix.O_CREAT|unix.O_RDWR, 0o644, 0, 0, "n"),
		"symlink":   k.ask(opSymlink, rootID, "l", "file"),
		"link":      k.ask(opLink, rootID, f, "l"),
		"unlink":    k.ask(opUnlink, rootID, "file"),
		"rename":    k.ask(opRename, rootID, uint64(rootID), "file", "g"),
		"write":     k.ask(opWrite, f, uint64(0), uint64(0), 1, 0, uint64(0), 0, 0, []byte("y")),
		"fallocate": k.ask(opFallocate, f, uint64(0), uint64(0), uint64(9), 0, 0),
	} {
		if a.err != unix.EROFS {
			t.Errorf("%s: %v", name, a.err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d files", len(entries))
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	_, k := share(t, Config{Folder: dir, Writable: true})
	a := k.ask(opCreate, rootID, unix.O_CREAT|unix.O_RDWR, unix.S_IFREG|0o444, 0o022, 0, "new")
	if a.err != 0 {
		t.Fatal(a.err)
	}
	f, h := a.node(), a.body[entryLen:entryLen+8]
	// Its mode would not let it be opened again.
	if a := k.ask(opWrite, f, h, uint64(2), 3, 0, uint64(0), 0, 0, []byte("abc")); a.err != 0 {
		t.Errorf("write: %v", a.err)
	}
	if b, _ := os.ReadFile(dir + "/new"); string(b) != "\x00\x00abc" {
		t.Errorf("%q", b)
	}
	if st, _ := os.Stat(dir + "/new"); st.Mode() != 0o444 {
		t.Errorf("mode %v", st.Mode())
	}
	// Removed, but open: it can still be read and described.
	if a := k.ask(opUnlink, rootID, "new"); a.err != 0 {
		t.Errorf("unlink: %v", a.err)
	}
	if a := k.ask(opRead, f, h, uint64(0), 100, 0, uint64(0), 0, 0); string(a.body) != "\x00\x00abc" {
		t.Errorf("read what was removed: %q, %v", a.body, a.err)
	}
	if a := k.ask(opGetattr, f, 0, 0, uint64(0)); a.err != 0 {
		t.Errorf("describe what was removed: %v", a.err)
	}
	k.ask(opRelease, f, h, 0, 0, uint64(0))
	if a := k.ask(opGetattr, f, 0, 0, uint64(0)); a.err != unix.ESTALE {
		t.Errorf("describe what is gone: %v", a.err)
	}
}

func TestChange(t *testing.T) {
	dir := t.TempDir()
	_, k := share(t, Config{Folder: dir, Writable: true})
	d := k.ask(opMkdir, rootID, 0o7755, 0, "d")
	if d.err != 0 || d.mode() != unix.S_IFDIR|0o1755 {
		t.Errorf("mkdir: %v, mode %o", d.err, d.mode())
	}
	if a := k.ask(opMknod, d.node(), unix.S_IFREG|0o6755, 0, 0, 0, "f"); a.err != 0 || a.mode() != unix.S_IFREG|0o755 {
		t.Errorf("mknod: %v, mode %o", a.err, a.mode())
	}
	if a := k.ask(opSymlink, d.node(), "l", "../../../etc"); a.err != 0 {
		t.Errorf("symlink: %v", a.err)
	}
	f := k.walk("d", "f").node()
	if a := k.ask(opLink, rootID, f, "hard"); a.err != 0 || a.node() != f {
		t.Errorf("link: %v", a.err)
	}
	if a := k.ask(opRename, d.node(), uint64(rootID), "f", "g"); a.err != 0 {
		t.Errorf("rename: %v", a.err)
	}
	if a := k.ask(opRename2, rootID, uint64(rootID), uint32(unix.RENAME_NOREPLACE), 0, "g", "hard"); a.err != unix.EEXIST {
		t.Errorf("rename over: %v", a.err)
	}
	if a := k.ask(opRename2, rootID, uint64(rootID), uint32(unix.RENAME_WHITEOUT), 0, "g", "w"); a.err != unix.EINVAL {
		t.Errorf("whiteout: %v", a.err)
	}
	if a := k.ask(opRmdir, rootID, "d"); a.err != unix.ENOTEMPTY {
		t.Errorf("rmdir: %v", a.err)
	}
	set := func(valid uint32, size uint64, mode, uid uint32) answer {
		return k.ask(opSetattr, f, valid, 0, uint64(0), size, uint64(0), uint64(100), uint64(200), uint64(0), 5, 6, 0, mode, 0, uid, uint32(testUser), 0)
	}
	if a := set(setSize|setMode|setMtime|setUID|setGID, 9, 0o6700, testUser); a.err != 0 {
		t.Errorf("setattr: %v", a.err)
	}
	if a := set(setUID, 0, 0, 0); a.err != unix.EPERM {
		t.Errorf("chown: %v", a.err)
	}
	st, err := os.Stat(dir + "/g")
	if err != nil || st.Size() != 9 || st.Mode() != 0o700 || st.ModTime().Unix() != 200 {
		t.Errorf("%v, %v", st, err)
	}
}
