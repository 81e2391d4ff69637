package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

var when = time.Unix(1700000000, 123456789)

// e is one entry of a handmade layer.
type e struct {
	name, body, link string
	typ              byte // a regular file where it is 0
	mode             int64
	uid, gid         int
	major, minor     int64
	xattrs           map[string]string
}

func dir(name string) e        { return e{name: name, typ: tar.TypeDir, mode: 0o755} }
func file(name, body string) e { return e{name: name, body: body, mode: 0o644} }
func symlink(name, target string) e {
	return e{name: name, typ: tar.TypeSymlink, link: target, mode: 0o777}
}
func hardlink(name, target string) e { return e{name: name, typ: tar.TypeLink, link: target} }

func layer(entries ...e) Layer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, x := range entries {
		h := &tar.Header{
			Name: x.name, Typeflag: x.typ, Linkname: x.link, Mode: x.mode, Uid: x.uid, Gid: x.gid,
			Size: int64(len(x.body)), Devmajor: x.major, Devminor: x.minor, ModTime: when, Format: tar.FormatPAX,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		for k, v := range x.xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[xattrPrefix+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, x.body); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return raw(b.Bytes())
}

func raw(b []byte) Layer {
	return Layer{Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// show flattens layers into a line for each name: "path", "path=content",
// "path->target" or "path==other name".
func show(t *testing.T, layers ...Layer) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := Flatten(t.Context(), layers, Limits{}, &b); err != nil {
		t.Fatal(err)
	}
	var lines []string
	r := tar.NewReader(&b)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return strings.Join(lines, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.TrimPrefix(h.Name, "./")
		switch h.Typeflag {
		case tar.TypeReg:
			line += "=" + string(body)
		case tar.TypeSymlink:
			line += "->" + h.Linkname
		case tar.TypeLink:
			line += "==" + strings.TrimPrefix(h.Linkname, "./")
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
}

func TestFlatten(t *testing.T) {
	for _, c := range []struct {
		name   string
		layers []Layer
		want   string
	}{
		{"no layers", nil, ""},
		{"missing parents are made", []Layer{layer(file("a/b/c", "1"))}, "a/ a/b/ a/b/c=1"},
		{"replaced file", []Layer{layer(file("a", "1")), layer(file("a", "2"))}, "a=2"},
		{"twice in one layer", []Layer{layer(file("a", "1"), file("a", "2"))}, "a=2"},
		{"whiteout", []Layer{layer(file("a", "1"), file("b", "1")), layer(file(".wh.a", ""))}, "b=1"},
		{"whiteout of a directory", []Layer{layer(dir("d"), file("d/x", "1")), layer(file(".wh.d", ""))}, ""},
		{"whiteout of nothing there", []Layer{layer(file("a", "1")), layer(file("d/.wh.x", ""))}, "d/ a=1"},
		{"whiteout spares its own layer", []Layer{layer(file("d/old", "1")), layer(file("d/new", "2"), file(".wh.d", ""))}, "d/ d/new=2"},
		{"whiteout before its own layer's", []Layer{layer(file("d/old", "1")), layer(file(".wh.d", ""), file("d/new", "2"))}, "d/ d/new=2"},
		{"opaque", []Layer{layer(file("d/old", "1")), layer(dir("d"), file("d/.wh..wh..opq", ""), file("d/new", "2"))}, "d/ d/new=2"},
		{"opaque last", []Layer{layer(file("d/s/old", "1")), layer(dir("d"), file("d/s/new", "2"), file("d/.wh..wh..opq", ""))}, "d/ d/s/ d/s/new=2"},
		{"opaque keeps the layer above", []Layer{layer(file("d/a", "1")), layer(file("d/.wh..wh..opq", "")), layer(file("d/c", "3"))}, "d/ d/c=3"},
		{"names of AUFS", []Layer{layer(file(".wh..wh.aufs", ""), file(".wh..wh.plnk/1.2", "x"), file("a", "1"))}, "a=1"},
		{"file becomes directory", []Layer{layer(file("a", "1")), layer(dir("a"), file("a/b", "2"))}, "a/ a/b=2"},
		{"directory becomes file", []Layer{layer(file("a/b", "1")), layer(file("a", "2"))}, "a=2"},
		{"directory again keeps its content", []Layer{layer(file("a/b", "1")), layer(dir("a"))}, "a/ a/b=1"},
		{"merged usr", []Layer{layer(dir("usr/lib"), symlink("lib", "usr/lib")), layer(file("lib/x", "1"))}, "usr/ usr/lib/ usr/lib/x=1 lib->usr/lib"},
		{"directory becomes link", []Layer{layer(dir("lib"), file("lib/a", "1")), layer(file("usr/lib/b", "2"), symlink("lib", "/usr/lib"), file("lib/c", "3"))}, "usr/ usr/lib/ usr/lib/b=2 usr/lib/c=3 lib->/usr/lib"},
		{"link becomes directory", []Layer{layer(symlink("a", "b"), file("b/x", "1")), layer(dir("a"))}, "a/ b/ b/x=1"},
		{"link that dangles", []Layer{layer(symlink("var/run", "../run"), file("var/run/pid", "1"))}, "run/ var/ run/pid=1 var/run->../run"},
		{"link cannot leave", []Layer{layer(symlink("a", "../../../etc"), file("a/passwd", "1"))}, "etc/ etc/passwd=1 a->../../../etc"},
		{"absolute names stay inside", []Layer{layer(file("/etc/passwd", "1"))}, "etc/ etc/passwd=1"},
		{"hard link", []Layer{layer(file("a", "1"), hardlink("b", "a"))}, "a=1 b==a"},
		{"hard link over layers", []Layer{layer(file("b", "1")), layer(hardlink("a", "/b"))}, "a=1 b==a"},
		{"hard link outlives its target", []Layer{layer(file("a", "1"), hardlink("b", "a")), layer(file("a", "2"))}, "b=1 a=2"},
		{"hard link to removed name", []Layer{layer(file("a", "1"), hardlink("b", "a")), layer(file(".wh.a", ""))}, "b=1"},
		{"hard link to itself", []Layer{layer(file("a", "1"), hardlink("a", "a"))}, "a=1"},
		{"hard link to a symbolic one", []Layer{layer(symlink("a", "x"), hardlink("b", "a"))}, "a->x b==a"},
		{"hard link through a link", []Layer{layer(file("d/a", "1"), symlink("l", "d"), hardlink("b", "l/a"))}, "d/ b=1 l->d d/a==b"},
		{"long name", []Layer{layer(file(strings.Repeat("n", 255), "1"))}, strings.Repeat("n", 255) + "=1"},
		{"dots in names", []Layer{layer(file("./a/./b", "1"))}, "a/ a/b=1"},
	} {
		if got := show(t, c.layers...); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestRefuses(t *testing.T) {
	var cut bytes.Buffer
	io.CopyN(&cut, mustOpen(layer(file("a", strings.Repeat("x", 2000)))), 1100)
	loop := layer(symlink("a", "b"), symlink("b", "a"), file("a/x", "1"))
	deep := strings.Repeat("d/", 2100)
	for _, c := range []struct {
		name   string
		layer  Layer
		limits Limits
		want   error
	}{
		{"upwards", layer(file("../a", "1")), Limits{}, api.ErrInvalid},
		{"upwards inside", layer(file("a/../../b", "1")), Limits{}, api.ErrInvalid},
		{"upwards, absolute", layer(file("/../a", "1")), Limits{}, api.ErrInvalid},
		{"hard link upwards", layer(hardlink("a", "../../etc/shadow")), Limits{}, api.ErrInvalid},
		{"hard link to nothing", layer(hardlink("a", "b")), Limits{}, api.ErrInvalid},
		{"hard link to a directory", layer(dir("d"), hardlink("a", "d")), Limits{}, api.ErrInvalid},
		{"hard link to the root", layer(hardlink("a", "/")), Limits{}, api.ErrInvalid},
		{"name too long", layer(file(strings.Repeat("n", 256), "1")), Limits{}, api.ErrInvalid},
		{"path too long", layer(file(deep+"x", "1")), Limits{}, api.ErrInvalid},
		{"target too long", layer(symlink("a", strings.Repeat("x", 5000))), Limits{}, api.ErrInvalid},
		{"link loop", loop, Limits{}, api.ErrInvalid},
		{"file as a directory", layer(file("a", "1"), file("a/b", "2")), Limits{}, api.ErrInvalid},
		{"root is a file", layer(file(".", "")), Limits{}, api.ErrInvalid},
		{"whiteout of nothing", layer(file(".wh.", "")), Limits{}, api.ErrInvalid},
		{"large attribute", layer(e{name: "a", xattrs: map[string]string{"user.x": strings.Repeat("v", 5000)}}), Limits{}, api.ErrInvalid},
		{"not a tar", raw([]byte(strings.Repeat("hello ", 200))), Limits{}, api.ErrInvalid},
		{"cut off", raw(cut.Bytes()), Limits{}, api.ErrInvalid},
		{"too many entries", layer(file("a", ""), file("b", ""), file("c", "")), Limits{Entries: 2}, api.ErrExhausted},
		{"too many bytes", layer(file("a", "123"), file("b", "456")), Limits{Bytes: 5}, api.ErrExhausted},
	} {
		path := filepath.Join(t.TempDir(), "root.ext4")
		if _, err := WriteExt4(t.Context(), []Layer{c.layer}, path, c.limits); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", c.name, err, c.want)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s: the file was left", c.name)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "root.ext4")
	if _, err := WriteExt4(ended, []Layer{layer(file("a", "1"))}, path, Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

func mustOpen(l Layer) io.Reader {
	r, err := l.Open()
	if err != nil {
		panic(err)
	}
	return r
}

// full holds one of everything that an image can have.
func full() []Layer {
	long := strings.Repeat("long-name-", 25)
	return []Layer{
		layer(
			e{name: "./", typ: tar.TypeDir, mode: 0o751, uid: 3, gid: 4},
			dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"),
			e{name: "usr/bin/ping", body: "ping", mode: 0o755, xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
			e{name: "usr/bin/sudo", body: "sudo", mode: 0o4755},
			e{name: "tmp", typ: tar.TypeDir, mode: 0o1777},
			e{name: "home/agent", typ: tar.TypeDir, mode: 0o2700, uid: 1000, gid: 1001},
			e{name: "dev/null", typ: tar.TypeChar, mode: 0o666, major: 1, minor: 3},
			e{name: "dev/vdz", typ: tar.TypeBlock, mode: 0o660, major: 259, minor: 70000},
			e{name: "run/fifo", typ: tar.TypeFifo, mode: 0o600},
			e{name: "big-uid", body: "x", mode: 0o400, uid: 4_000_000_000, gid: 70_000},
			file("gone", "1"),
		),
		layer(
			file("lib/libx.so", "elf"), hardlink("lib/libx.so.1", "usr/lib/libx.so"), hardlink("usr/bin/ping6", "usr/bin/ping"),
			file(".wh.gone", ""), file("empty", ""), file(long, "long"),
			symlink("far", strings.Repeat("t/", 100)+"end"),
			file("many", strings.Repeat("0123456789abcdef", 1<<16)),
			e{name: "attrs", body: "x", xattrs: map[string]string{"user.a": strings.Repeat("v", 300), "user.bb": "2", "trusted.overlay.opaque": "y"}},
		),
	}
}

func TestWriteExt4(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.ext4")
	stats, err := WriteExt4(t.Context(), full(), path, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != stats.Size || st.Mode() != 0o400 {
		t.Errorf("file %v, %v; stats %+v", st, err, stats)
	}
	if out, err := exec.Command("/usr/sbin/e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	for _, c := range []struct{ cmd, want string }{
		{"stat /", `Type: directory\s+Mode:\s+0751[\s\S]+User:\s+3\s+Group:\s+4\s`},
		{"stat /lib", `Type: symlink[\s\S]+Fast link dest: "usr/lib"`},
		{"cat /usr/lib/libx.so.1", `^elf$`},
		{"stat /usr/lib/libx.so", `Links: 2`},
		{"stat /usr/bin/ping", `Mode:\s+0755[\s\S]+Links: 2`},
		{"stat /usr/bin/ping", `mtime: 0x6553f100:1d6f3454`},
		{"ea_get -x /usr/bin/ping6 security.capability", `security.capability \(20\) = 01 00 00 02 00 20 00 `},
		{"stat /usr/bin/sudo", `Mode:\s+04755`},
		{"stat /tmp", `Mode:\s+01777`},
		{"stat /home/agent", `Mode:\s+02700[\s\S]+User:\s+1000\s+Group:\s+1001\s`},
		{"stat /dev/null", `Type: character special\s+Mode:\s+0666[\s\S]+Device major/minor number: 01:03`},
		{"stat /dev/vdz", `Type: block special\s+Mode:\s+0660[\s\S]+Device major/minor number: 259:70000`},
		{"stat /run/fifo", `Type: FIFO\s+Mode:\s+0600`},
		{"stat /big-uid", `User: -294967296   Group: 70000`}, // debugfs prints 4000000000 as a signed number,
		{"stat /gone", `File not found`},
		{"stat /empty", `Size: 0\b`},
		{"cat /" + strings.Repeat("long-name-", 25), `^long$`},
		{"cat /far", `^(t/){100}end$`},
		{"ea_get /attrs user.a", `user.a \(300\) = "v{300}"`},
		{"ea_get /attrs user.bb", `user.bb \(1\) = "2"`},
		{"ea_list /attrs", `^Extended attributes:\s+user.a \(300\)[^(]+\n\s+user.bb \(1\)[^(]+$|^Extended attributes:\s+user.bb \(1\)[^(]+\n\s+user.a \(300\)[^(]+$`},
	} {
		got := debugfs(t, path, c.cmd)
		if !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("%s: no match for %s in:\n%s", c.cmd, c.want, got)
		}
	}
	if got := debugfs(t, path, "cat /many"); got != strings.Repeat("0123456789abcdef", 1<<16) {
		t.Errorf("/many has %d bytes", len(got))
	}
}

// debugfs asks e2fsprogs, which shares no code with the writer, what is in a file system.
func debugfs(t *testing.T, path, cmd string) string {
	t.Helper()
	c := exec.Command("/usr/sbin/debugfs", "-R", cmd, path)
	c.Env = append(os.Environ(), "DEBUGFS_PAGER=cat", "PAGER=cat")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	text := string(out)
	if strings.HasPrefix(text, "debugfs ") { // its version, on stderr
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

func TestSameBytes(t *testing.T) {
	var sums []string
	for i := range 2 {
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if _, err := WriteExt4(t.Context(), full(), path, Limits{}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, fmt.Sprintf("%x", sha256.Sum256(b)))
	}
	if sums[0] != sums[1] {
		t.Errorf("the same layers gave %s and %s", sums[0], sums[1])
	}
}

// FuzzFlatten: no layer may crash us, escape the limits, or give a tar with a
// name that leads upwards.
func FuzzFlatten(f *testing.F) {
	for _, l := range full() {
		b, _ := io.ReadAll(mustOpen(l))
		f.Add(b[:min(len(b), 32<<10)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		if _, err := Flatten(t.Context(), []Layer{raw(b), raw(b)}, Limits{Bytes: 1 << 20, Entries: 1000}, &out); err != nil {
			return
		}
		r := tar.NewReader(&out)
		for {
			h, err := r.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("our own tar: %v", err)
			}
			if !strings.HasPrefix(h.Name, "./") || strings.Contains(h.Name, "/../") {
				t.Fatalf("name %q", h.Name)
			}
		}
	})
}
