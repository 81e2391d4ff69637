package hostfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// outside makes a folder with a secret beside it and returns the folder.
func outside(t *testing.T) (folder string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/secret", "secret")
	write(t, dir+"/folder/file", "file")
	return dir + "/folder"
}

// TestNames has names that are no names.
func TestNames(t *testing.T) {
	_, k := share(t, Config{Folder: outside(t), Writable: true})
	for _, name := range []string{"", ".", "..", "../secret", "/etc/passwd", "a/b", "./file", "file/", strings.Repeat("x", 256)} {
		for what, a := range map[string]answer{
			"lookup":  k.ask(opLookup, rootID, name),
			"mkdir":   k.ask(opMkdir, rootID, 0o755, 0, name),
			"mknod":   k.ask(opMknod, rootID, unix.S_IFREG|0o644, 0, 0, 0, name),
			"create":  k.ask(opCreate, rootID, unix.O_CREAT|unix.O_RDWR, 0o644, 0, 0, name),
			"symlink": k.ask(opSymlink, rootID, name, "file"),
			"unlink":  k.ask(opUnlink, rootID, name),
			"rename":  k.ask(opRename, rootID, uint64(rootID), "file", name),
			"renamed": k.ask(opRename, rootID, uint64(rootID), name, "g"),
			"link":    k.ask(opLink, rootID, k.walk("file").node(), name),
		} {
			if a.err != unix.EINVAL {
				t.Errorf("%s %q: %v", what, name, a.err)
			}
		}
	}
}

// TestLinksOut has symbolic links that lead out, in every place of a path.
func TestLinksOut(t *testing.T) {
	folder := outside(t)
	for name, target := range map[string]string{
		"etc": "/etc", "up": "..", "self": "/proc/self/fd", "root": "/proc/self/root", "secret": "../secret", "loop": "loop",
	} {
		os.Symlink(target, filepath.Join(folder, name))
	}
	_, k := share(t, Config{Folder: folder, Writable: true})
	for name, child := range map[string]string{"etc": "passwd", "up": "secret", "self": "0", "root": "etc", "loop": "x"} {
		n := k.walk(name).node()
		if n == 0 {
			t.Errorf("link %s does not show", name)
		}
		for what, a := range map[string]answer{
			"lookup": k.ask(opLookup, n, child),
			"list":   k.ask(opReaddir, n, uint64(0), uint64(0), 4096, 0, uint64(0), 0, 0),
			"create": k.ask(opCreate, n, unix.O_CREAT|unix.O_RDWR, 0o644, 0, 0, "new"),
			"read":   k.ask(opRead, n, uint64(0), uint64(0), 4096, 0, uint64(0), 0, 0),
			"open":   k.ask(opOpen, n, unix.O_RDWR, 0),
			"cut":    k.ask(opSetattr, n, uint32(setSize), make([]byte, 84)),
			"chmod":  k.ask(opSetattr, n, uint32(setMode), make([]byte, 84)),
		} {
			if a.err == 0 {
				t.Errorf("%s through %s: no error", what, name)
			}
		}
	}
	if a := k.ask(opRead, k.walk("secret").node(), uint64(0), uint64(0), 4096, 0, uint64(0), 0, 0); a.err == 0 {
		t.Errorf("read through a link: %q", a.body)
	}
	if b, _ := os.ReadFile(filepath.Dir(folder) + "/secret"); string(b) != "secret" {
		t.Errorf("the secret is %q", b)
	}
}

// TestSpecialFiles has files that are none: a pipe that would block, a socket, and
// devices where the test may make them.
func TestSpecialFiles(t *testing.T) {
	folder := outside(t)
	if err := unix.Mkfifo(folder+"/pipe", 0o666); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(folder+"/socket", unix.S_IFSOCK|0o666, 0); err != nil {
		t.Fatal(err)
	}
	_, k := share(t, Config{Folder: folder, Writable: true})
	for _, name := range []string{"pipe", "socket"} {
		if a := k.ask(opLookup, rootID, name); a.err != unix.EACCES {
			t.Errorf("%s: %v", name, a.err)
		}
		if a := k.ask(opCreate, rootID, unix.O_CREAT|unix.O_WRONLY, 0o644, 0, 0, name); a.err == 0 {
			t.Errorf("%s is opened", name)
		}
	}
	for _, kind := range []int{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFBLK, unix.S_IFCHR} {
		if a := k.ask(opMknod, rootID, kind|0o666, 0x0103, 0, 0, "made"); a.err != unix.EPERM {
			t.Errorf("kind %o is made: %v", kind, a.err)
		}
	}
	if got := k.names(rootID, opReaddirplus); len(got) != 5 {
		t.Errorf("%v", got)
	}
	// To take one away harms nobody.
	if a := k.ask(opUnlink, rootID, "pipe"); a.err != 0 {
		t.Errorf("remove a pipe: %v", a.err)
	}
}

// TestHidden has smolvm's own state below a shared folder.
func TestHidden(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/home/state/key", "key")
	write(t, dir+"/other/state/key", "of the guest")
	_, k := share(t, Config{Folder: dir, Writable: true, Hidden: []string{dir + "/home/state"}})
	home := k.walk("home").node()
	for what, a := range map[string]answer{
		"look":    k.ask(opLookup, home, "state"),
		"rename":  k.ask(opRename, home, uint64(rootID), "state", "mine"),
		"replace": k.ask(opRename2, home, home, uint32(unix.RENAME_EXCHANGE), 0, "state", "other"),
		"remove":  k.ask(opRmdir, home, "state"),
		// Else a state that the guest has made could take its place.
		"rename above":  k.ask(opRename, rootID, uint64(rootID), "home", "moved"),
		"replace above": k.ask(opRename2, rootID, uint64(rootID), uint32(unix.RENAME_EXCHANGE), 0, "other", "home"),
	} {
		if a.err != unix.EACCES {
			t.Errorf("%s: %v", what, a.err)
		}
	}
	// Not by another name above it either, nor by a state that the guest made up.
	if err := os.Rename(dir+"/home", dir+"/moved"); err != nil {
		t.Fatal(err)
	}
	k.ask(opLookup, rootID, "home")
	if a := k.walk("moved", "state"); a.err != unix.EACCES {
		t.Errorf("below a new name: %v", a.err)
	}
	s, err := New(Config{Folder: dir, Hidden: []string{dir + "/moved/state"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	forged := connect(t, s, guest.FolderBegun{Resumed: true}, packPart(
		guest.FolderNode{ID: 7, Parent: 1, Name: "moved", Kind: unix.S_IFDIR, Lookups: 1},
		guest.FolderNode{ID: 8, Parent: 7, Name: "state", Kind: unix.S_IFDIR, Lookups: 1},
		guest.FolderNode{ID: 9, Parent: 8, Name: "key", Kind: unix.S_IFREG, Lookups: 1},
		guest.FolderNode{ID: 10, Parent: 7, Name: "../../etc", Kind: unix.S_IFDIR, Lookups: 1},
		guest.FolderNode{ID: 11, Parent: 12, Name: "a", Kind: unix.S_IFDIR, Lookups: 1},
		guest.FolderNode{ID: 12, Parent: 11, Name: "b", Kind: unix.S_IFDIR, Lookups: 1},
	))
	for id := uint64(8); id <= 12; id++ {
		if text, err := forged.readAll(id); err == 0 {
			t.Errorf("node %d reads %q", id, text)
		}
		if a := forged.ask(opLookup, id, "x"); a.err == 0 {
			t.Errorf("node %d is a directory", id)
		}
	}
}

func packPart(nodes ...guest.FolderNode) []byte {
	return append([]byte{byte(guest.FolderState)}, wire.Marshal(&guest.FolderPart{Nodes: nodes, Fresh: true})...)
}

// raceRounds bounds each race.
const raceRounds = 300

// TestRaces swaps a directory for a link to outside while the guest works in it.
func TestRaces(t *testing.T) {
	folder := outside(t)
	out := filepath.Dir(folder)
	write(t, folder+"/d/secret", "inside")
	os.Symlink(out, folder+"/link")
	_, k := share(t, Config{Folder: folder, Writable: true})
	d := k.walk("d").node()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for range 100 * raceRounds {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, folder+"/d", unix.AT_FDCWD, folder+"/link", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range raceRounds {
		if n := k.ask(opLookup, d, "secret").node(); n != 0 {
			if text, err := k.readAll(n); err == 0 && text != "inside" {
				t.Fatalf("read %q", text)
			}
		}
		k.ask(opMkdir, d, 0o755, 0, "made")
		k.ask(opMknod, d, unix.S_IFREG|0o644, 0, 0, 0, "file")
		k.ask(opUnlink, d, "secret-not-there")
		k.ask(opRename, d, uint64(rootID), "made", "moved")
		k.ask(opRmdir, rootID, "moved")
		d = max(k.ask(opLookup, rootID, "d").node(), d)
	}
	close(stop)
	<-stopped
	for _, name := range []string{"made", "file", "moved"} {
		if _, err := os.Lstat(filepath.Join(out, name)); err == nil {
			t.Errorf("%s was made outside", name)
		}
	}
}

// TestHardLinks has no link made to what the guest was not shown, and one to a file
// outside, made by the host, do what the host has said by it.
func TestHardLinks(t *testing.T) {
	folder := outside(t)
	os.Symlink("../secret", folder+"/link")
	_, k := share(t, Config{Folder: folder, Writable: true})
	if a := k.ask(opLink, rootID, k.walk("link").node(), "hard"); a.err != unix.EPERM {
		t.Errorf("hard link to a link: %v", a.err)
	}
	if a := k.ask(opLink, rootID, uint64(99), "hard"); a.err != unix.ESTALE {
		t.Errorf("hard link to nothing: %v", a.err)
	}
	if a := k.ask(opLink, rootID, uint64(rootID), "hard"); a.err != unix.EPERM {
		t.Errorf("hard link to the folder: %v", a.err)
	}
}

// TestReplaced has a file that is another one by now.
func TestReplaced(t *testing.T) {
	folder := outside(t)
	_, k := share(t, Config{Folder: folder})
	f := k.walk("file").node()
	write(t, folder+"/new", "another")
	os.Rename(folder+"/new", folder+"/file")
	if text, err := k.readAll(f); err != unix.ESTALE {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := k.readAll(k.walk("file").node()); text != "another" || err != 0 {
		t.Errorf("after another look: %q, %v", text, err)
	}
}

// TestResume has a guest continue with another server.
func TestResume(t *testing.T) {
	folder := outside(t)
	write(t, folder+"/d/deep/file", "deep")
	c := Config{Folder: folder, Writable: true}
	_, k := share(t, c)
	f := k.walk("d", "deep", "file").node()
	h := k.ask(opOpen, f, unix.O_RDWR, 0).body[:8]
	k.event(guest.FolderSave, &guest.Empty{})
	var parts [][]byte
	for e := range k.events {
		if guest.FolderEvent(e[0]) == guest.FolderSaved {
			break
		}
		if guest.FolderEvent(e[0]) == guest.FolderState {
			parts = append(parts, e)
		}
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	next := connect(t, s, guest.FolderBegun{Resumed: true, UID: testUser, GID: testUser}, parts...)
	if again := next.walk("d", "deep", "file").node(); again != f {
		t.Errorf("file %d has the number %d now", f, again)
	}
	if text, err := next.readAll(f); text != "deep" || err != 0 {
		t.Errorf("%q, %v", text, err)
	}
	if a := next.ask(opWrite, f, h, uint64(0), 2, 0, uint64(0), 0, 0, []byte("sh")); a.err != 0 {
		t.Errorf("write by the handle from before: %v", a.err)
	}
	if b, _ := os.ReadFile(folder + "/d/deep/file"); string(b) != "shep" {
		t.Errorf("%q", b)
	}
	if n := next.walk("file").node(); n <= f {
		t.Errorf("number %d was given twice", n)
	}
	next.ask(opRelease, f, h, 0, 0, uint64(0))
}

// TestFloods has a guest that asks and does not listen, and one that says nonsense.
func TestFloods(t *testing.T) {
	s, first := share(t, Config{Folder: outside(t)})
	first.st.Close()
	<-first.over
	for _, m := range [][]byte{
		nil, make([]byte, 10), make([]byte, inHeaderLen),
		pack(opBatchForget, 1, 0, []byte{255, 255, 255, 255, 0, 0, 0, 0}),
	} {
		k := connect(t, s, guest.FolderBegun{})
		k.raw(m)
		k.st.Close()
		<-k.over
	}
	if n := s.nodes.count(); n != 1 {
		t.Errorf("%d files are known", n)
	}
}

// FuzzRequest has requests of any bytes, in a folder that is made for it.
func FuzzRequest(f *testing.F) {
	for op := opLookup; op <= opRename2+6; op++ {
		f.Add(uint32(op), uint64(rootID), append(make([]byte, 16), "file\x00other\x00"...))
		f.Add(uint32(op), uint64(2), make([]byte, 88))
	}
	dir := f.TempDir()
	os.WriteFile(dir+"/canary", []byte("canary"), 0o644)
	os.Mkdir(dir+"/folder", 0o755)
	os.WriteFile(dir+"/folder/file", []byte("file"), 0o644)
	s, err := New(Config{Folder: dir + "/folder", Writable: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, op uint32, node uint64, body []byte) {
		m := pack(opcode(op), 1, node, body)
		h, b, ok := parseHeader(m)
		if !ok {
			t.Fatal("the header is not taken")
		}
		if opcode(op) == opFallocate || opcode(op) == opSetattr {
			return // may fill the disk, as the guest's own user might
		}
		if h.op.silent() {
			s.forgets(h, b)
			return
		}
		r := request{s: s, h: h, in: reader{b: b}}
		out := r.serve()
		if len(out) < outHeaderLen || len(out) > maxRequest {
			t.Errorf("an answer of %d bytes", len(out))
		}
		if c, _ := os.ReadFile(dir + "/canary"); string(c) != "canary" {
			t.Fatal("a file outside was changed")
		}
	})
}
