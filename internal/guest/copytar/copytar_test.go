package copytar

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"golang.org/x/sys/unix"
)

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// archive makes a tar stream. Regular files hold their name.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, h.Name)
		}
	}
	w.Close()
	return b.Bytes()
}

func file(name string) tar.Header { return tar.Header{Name: name} }
func dir(name string) tar.Header  { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
func symlink(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}
func link(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
}

// TestUnpackHostile has archives that try to get out of the directory. Each
// is refused, and what lies outside stays as it is.
func TestUnpackHostile(t *testing.T) {
	for _, test := range []struct {
		name  string
		tar   []tar.Header
		class api.Class
	}{
		{"parent", []tar.Header{file("../outside/f")}, api.Denied},
		{"parent inside", []tar.Header{file("a/../../outside/f")}, api.Denied},
		{"parent at the end", []tar.Header{dir("a/..")}, api.Denied},
		{"absolute", []tar.Header{file("/outside")}, api.Denied},
		{"through a link up", []tar.Header{symlink("l", "../outside"), file("l/f")}, api.Denied},
		{"through an absolute link", []tar.Header{symlink("l", "OUTSIDE"), file("l/f")}, api.Denied},
		{"through a chain of links", []tar.Header{symlink("a", "b"), symlink("b", ".."), file("a/outside/f")}, api.Denied},
		{"directory over a link out", []tar.Header{symlink("l", "../outside"), dir("l")}, api.Conflict},
		{"directory below a link out", []tar.Header{symlink("l", "../outside"), dir("l/new")}, api.Denied},
		{"hard link up", []tar.Header{link("h", "../outside/secret")}, api.Denied},
		{"hard link absolute", []tar.Header{link("h", "/etc/passwd")}, api.Denied},
		{"hard link through a link", []tar.Header{symlink("l", "../outside"), link("h", "l/secret")}, api.Denied},
		{"hard link to nothing", []tar.Header{link("h", "nothing")}, api.NotFound},
		{"device", []tar.Header{{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, api.Denied},
		{"block device", []tar.Header{{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 8}}, api.Denied},
		{"pipe", []tar.Header{{Name: "p", Typeflag: tar.TypeFifo}}, api.Denied},
		{"long name", []tar.Header{file(strings.Repeat("a/", 3000) + "f")}, api.Invalid},
		{"long component", []tar.Header{file(strings.Repeat("a", 300))}, api.Invalid},
		{"file over directory", []tar.Header{dir("d"), file("d/f"), file("d")}, api.Conflict},
		{"directory over file", []tar.Header{file("f"), dir("f")}, api.Conflict},
		{"below a file", []tar.Header{file("f"), file("f/g")}, api.Conflict},
		{"loop", []tar.Header{symlink("a", "b"), symlink("b", "a"), file("a/f")}, api.Invalid},
		{"unknown type", []tar.Header{{Name: "x", Typeflag: 'Z'}}, api.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			top := t.TempDir()
			in, out := filepath.Join(top, "in"), filepath.Join(top, "outside")
			os.Mkdir(in, 0o755)
			os.Mkdir(out, 0o755)
			os.WriteFile(filepath.Join(out, "secret"), []byte("secret"), 0o600)
			for i := range test.tar {
				test.tar[i].Linkname = strings.ReplaceAll(test.tar[i].Linkname, "OUTSIDE", out)
			}
			_, err := Unpack(bytes.NewReader(archive(t, test.tar...)), openRoot(t, in), UnpackOptions{})
			if err == nil || api.ClassOf(err) != test.class {
				t.Errorf("class %q: %v", api.ClassOf(err), err)
			}
			checkOutside(t, top)
		})
	}
}

func checkOutside(t *testing.T, top string) {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(top, "*"))
	if len(names) != 2 {
		t.Errorf("beside the directory: %v", names)
	}
	names, _ = filepath.Glob(filepath.Join(top, "outside", "*"))
	if len(names) != 1 {
		t.Errorf("outside: %v", names)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(top, "outside", "secret"), &st); err != nil || st.Nlink != 1 || st.Size != 6 {
		t.Errorf("the secret was touched: %+v, %v", st, err)
	}
}

func TestUnpackDamaged(t *testing.T) {
	b := archive(t, file("a"), file("b"))
	for _, test := range [][]byte{b[:512], []byte(strings.Repeat("x", 2000)), b[:100]} {
		_, err := Unpack(bytes.NewReader(test), openRoot(t, t.TempDir()), UnpackOptions{})
		if api.ClassOf(err) != api.Invalid {
			t.Errorf("%v", err)
		}
	}
}

// TestUnpackSparse has an entry of a few bytes that unpacks to a terabyte.
func TestUnpackSparse(t *testing.T) {
	b := slices.Concat(
		block(t, "x", 'x', paxRecord("GNU.sparse.major", "1")+paxRecord("GNU.sparse.minor", "0")+
			paxRecord("GNU.sparse.name", "s")+paxRecord("GNU.sparse.realsize", "1099511627776")),
		block(t, "s", tar.TypeReg, "1\n1099511627776\n0\n"+strings.Repeat("\x00", 512-18)),
		make([]byte, 1024))
	_, err := Unpack(bytes.NewReader(b), openRoot(t, t.TempDir()), UnpackOptions{})
	if api.ClassOf(err) != api.Invalid || !strings.Contains(err.Error(), "sparse") {
		t.Errorf("%v", err)
	}
}

func paxRecord(key, value string) string {
	r := fmt.Sprintf("%02d %s=%s\n", len(key)+len(value)+5, key, value)
	return r
}

// block is one entry with a type that the writer does not write.
func block(t *testing.T, name string, kind byte, data string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, data)
	w.Flush()
	b := buf.Bytes()
	const typeAt, sumAt, sumEnd = 156, 148, 156
	b[typeAt] = kind
	copy(b[sumAt:], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[sumAt:sumEnd], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func TestUnpackBound(t *testing.T) {
	_, err := Unpack(bytes.NewReader(archive(t, file("abc"), file("def"))), openRoot(t, t.TempDir()), UnpackOptions{MaxBytes: 5})
	if api.ClassOf(err) != api.Exhausted {
		t.Errorf("%v", err)
	}
}

func TestUnpackReplaces(t *testing.T) {
	d := t.TempDir()
	os.WriteFile(filepath.Join(d, "target"), []byte("keep"), 0o644)
	b := archive(t, file("f"), file("f"), symlink("f", "target"), file("f"), symlink("l", "target"), link("l", "target"))
	if _, err := Unpack(bytes.NewReader(b), openRoot(t, d), UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"f": "f", "target": "keep", "l": "keep"} {
		if got, err := os.ReadFile(filepath.Join(d, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestUnpackThroughOwnLink has a link to a directory inside, as /lib is today.
func TestUnpackThroughOwnLink(t *testing.T) {
	d := t.TempDir()
	os.MkdirAll(filepath.Join(d, "usr/lib"), 0o755)
	os.Symlink("usr/lib", filepath.Join(d, "lib"))
	if _, err := Unpack(bytes.NewReader(archive(t, dir("lib"), file("lib/f"))), openRoot(t, d), UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(d, "usr/lib/f")); err != nil {
		t.Error(err)
	}
}

// TestRoundTrip packs a tree and unpacks it: nothing may differ.
func TestRoundTrip(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	old := time.Unix(1_000_000_000, 0)
	os.MkdirAll(filepath.Join(src, "t/closed"), 0o755)
	os.WriteFile(filepath.Join(src, "t/f"), bytes.Repeat([]byte("x"), 200_000), 0o640)
	os.WriteFile(filepath.Join(src, "t/closed/g"), nil, 0o4755)
	os.Chmod(filepath.Join(src, "t/closed/g"), 0o755|os.ModeSetuid)
	os.Link(filepath.Join(src, "t/f"), filepath.Join(src, "t/hard"))
	os.Symlink("nowhere/at/all", filepath.Join(src, "t/soft"))
	os.WriteFile(filepath.Join(src, "t", strings.Repeat("n", 200)), []byte("long"), 0o600)
	unix.Mkfifo(filepath.Join(src, "t/pipe"), 0o600)
	os.Chtimes(filepath.Join(src, "t/f"), old, old)
	os.Chmod(filepath.Join(src, "t/closed"), 0o500)
	os.Chtimes(filepath.Join(src, "t/closed"), old, old)
	unix.Setxattr(filepath.Join(src, "t/f"), "user.smolvm", []byte("v"), 0)
	if os.Geteuid() == 0 {
		os.Lchown(filepath.Join(src, "t/soft"), 12, 34)
	}
	var b bytes.Buffer
	if err := Pack(&b, openRoot(t, src), []string{"t"}, PackOptions{Xattrs: true}); err != nil {
		t.Fatal(err)
	}
	o := UnpackOptions{KeepOwner: true, Xattrs: true, Devices: true, Setid: true, From: "t", To: "u"}
	if _, err := Unpack(&b, openRoot(t, dst), o); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "f", "closed", "closed/g", "hard", "soft", "pipe", strings.Repeat("n", 200)} {
		same(t, filepath.Join(src, "t", name), filepath.Join(dst, "u", name))
	}
	v := make([]byte, 10)
	if n, err := unix.Getxattr(filepath.Join(dst, "u/f"), "user.smolvm", v); err != nil || string(v[:n]) != "v" {
		t.Errorf("extended attribute: %q, %v", v, err)
	}
	var st unix.Stat_t
	if unix.Stat(filepath.Join(dst, "u/f"), &st); st.Nlink != 2 {
		t.Error("the hard link is lost")
	}
}

func same(t *testing.T, a, b string) {
	t.Helper()
	var sa, sb unix.Stat_t
	if err := unix.Lstat(a, &sa); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lstat(b, &sb); err != nil {
		t.Error(err)
		return
	}
	if sa.Mode != sb.Mode || sa.Uid != sb.Uid || sa.Gid != sb.Gid || sa.Mode&unix.S_IFDIR == 0 && sa.Size != sb.Size {
		t.Errorf("%s: mode %o %o, owner %d %d, size %d %d", a, sa.Mode, sb.Mode, sa.Uid, sb.Uid, sa.Size, sb.Size)
	}
	if sa.Mode&unix.S_IFMT != unix.S_IFLNK && sa.Mtim.Sec != sb.Mtim.Sec {
		t.Errorf("%s: time %d %d", a, sa.Mtim.Sec, sb.Mtim.Sec)
	}
}

func TestPackRefuses(t *testing.T) {
	root := openRoot(t, t.TempDir())
	for _, name := range []string{"..", "../x", "/etc", "a/../.."} {
		if err := Pack(io.Discard, root, []string{name}, PackOptions{}); api.ClassOf(err) != api.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Pack(io.Discard, root, []string{"missing"}, PackOptions{}); api.ClassOf(err) != api.NotFound {
		t.Errorf("missing: %v", err)
	}
}

func TestDecide(t *testing.T) {
	for _, test := range []struct {
		src     string
		srcKind Kind
		dst     string
		dstKind Kind
		want    Decision
		class   api.Class
	}{
		{"a/f", File, "x/g", Missing, Decision{Into: "x", Name: "g"}, ""},
		{"a/f", File, "g", Missing, Decision{Into: ".", Name: "g"}, ""},
		{"a/f", File, "/g", File, Decision{Into: "/", Name: "g"}, ""},
		{"a/f", File, "/d", Dir, Decision{Into: "/d", Name: "f"}, ""},
		{"a/f", File, "/d/", Dir, Decision{Into: "/d/", Name: "f"}, ""},
		{"a/f", File, "/d/", Missing, Decision{}, api.NotFound},
		{"a/f", File, "/g/", File, Decision{}, api.Conflict},
		{"a/f/", File, "/g", Missing, Decision{}, api.Invalid},
		{"a/f/.", File, "/g", Missing, Decision{}, api.Invalid},
		{"a/d", Dir, "/n", Missing, Decision{Into: "/n", Make: true, Name: "."}, ""},
		{"a/d", Dir, "/n/", Missing, Decision{Into: "/n/", Make: true, Name: "."}, ""},
		{"a/d", Dir, "/f", File, Decision{}, api.Conflict},
		{"a/d", Dir, "/e", Dir, Decision{Into: "/e", Name: "d"}, ""},
		{"a/d/", Dir, "/e", Dir, Decision{Into: "/e", Name: "d"}, ""},
		{"a/d/.", Dir, "/e", Dir, Decision{Into: "/e", Name: "."}, ""},
		{".", Dir, "/e", Dir, Decision{Into: "/e", Name: "."}, ""},
		{"/", Dir, "/e", Dir, Decision{Into: "/e", Name: "."}, ""},
		{"a/d/.", Dir, "/n", Missing, Decision{Into: "/n", Make: true, Name: "."}, ""},
		{"x", Missing, "/n", Missing, Decision{}, api.NotFound},
		{"", Missing, "/n", Missing, Decision{}, api.Invalid},
		{"x", File, "", Missing, Decision{}, api.Invalid},
	} {
		got, err := Decide(test.src, test.srcKind, test.dst, test.dstKind)
		if got != test.want || (err != nil) != (test.class != "") || err != nil && api.ClassOf(err) != test.class {
			t.Errorf("%q (%d) to %q (%d): %+v, %v", test.src, test.srcKind, test.dst, test.dstKind, got, err)
		}
	}
}

// FuzzUnpack unpacks whatever comes: nothing outside may change.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, dir("d"), file("d/f"), symlink("l", "../outside"), file("l/f"), link("h", "d/f")))
	f.Add(archive(f, file("../outside/f")))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		in, out := filepath.Join(top, "in"), filepath.Join(top, "outside")
		os.Mkdir(in, 0o755)
		os.Mkdir(out, 0o755)
		os.WriteFile(filepath.Join(out, "secret"), []byte("secret"), 0o600)
		Unpack(bytes.NewReader(data), openRoot(t, in), UnpackOptions{MaxBytes: 1 << 20})
		checkOutside(t, top)
	})
}
