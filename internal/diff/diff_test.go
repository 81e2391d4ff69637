package diff

import (
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// entries makes a tree of entries.
func entries(list ...Entry) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func e(path string, file, base File) Entry { return Entry{Path: path, File: file, Base: base} }

func file(ino, ctime int64) File {
	return File{Type: guest.TypeFile, Mode: 0o644, Size: 5, Ino: ino, CTimeNS: ctime}
}

func dir(mode int) File { return File{Type: guest.TypeDir, Mode: mode} }

// summary reads changes as "what path", with a question mark where unsure.
func summary(t *testing.T, changes Changes) []string {
	t.Helper()
	var l []string
	for c, err := range changes {
		if err != nil {
			return append(l, "error: "+err.Error())
		}
		s := string(c.What()) + " " + c.Path
		if c.Unsure {
			s += "?"
		}
		l = append(l, s)
	}
	return l
}

func TestCompare(t *testing.T) {
	base := File{Type: guest.TypeFile, Mode: 0o644, Size: 5}
	none := File{}
	for _, test := range []struct {
		name          string
		before, after []Entry
		want          []string
	}{
		{"nothing", nil, nil, nil},
		{"beside the image", nil, []Entry{e("/a", dir(0o755), none), e("/a/f", file(1, 1), none), e("/b", file(2, 1), base), e("/c", none, base)},
			[]string{"added /a", "added /a/f", "changed /b?", "deleted /c"}},
		{"back to the image", []Entry{e("/a", file(1, 1), none), e("/c", none, base)}, nil, []string{"deleted /a", "added /c"}},
		{"the same file", []Entry{e("/a", file(1, 1), none)}, []Entry{e("/a", file(1, 1), none)}, nil},
		{"another file", []Entry{e("/a", file(1, 1), none)}, []Entry{e("/a", file(2, 1), none)}, []string{"changed /a?"}},
		{"written again", []Entry{e("/a", file(1, 1), none)}, []Entry{e("/a", file(1, 2), none)}, []string{"changed /a?"}},
		{"deleted in both", []Entry{e("/a", none, base)}, []Entry{e("/a", none, base)}, nil},
		{"a directory that is there", nil, []Entry{e("/a", dir(0o755), dir(0o755))}, nil},
		{"its mode", nil, []Entry{e("/a", dir(0o700), dir(0o755))}, []string{"changed /a"}},
		{"order of names", nil, []Entry{e("/a", dir(0o755), none), e("/a/z", file(1, 1), none), e("/a-b", file(1, 1), none)},
			[]string{"added /a", "added /a/z", "added /a-b"}},
		{"a liar", nil, []Entry{e("/b", file(1, 1), none), e("/a", file(1, 1), none)},
			[]string{"added /b", `error: compare files: "/a" comes after "/b"`}},
	} {
		if got := summary(t, Compare(entries(test.before...), entries(test.after...))); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func TestCompareError(t *testing.T) {
	broken := func(yield func(Entry, error) bool) {
		if yield(Entry{Path: "/a", File: file(1, 1)}, nil) {
			yield(Entry{}, errors.New("lost"))
		}
	}
	if got := summary(t, Compare(entries(), broken)); !slices.Equal(got, []string{"added /a", "error: lost"}) {
		t.Errorf("%q", got)
	}
}

// texts is an Open of texts.
func texts(before, after map[string]string) Open {
	return func(s Side, path string) (io.ReadCloser, error) {
		text, ok := []map[string]string{before, after}[s][path]
		if !ok {
			return nil, api.Errorf(api.NotFound, "no %q", path)
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
}

func TestSettle(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 8<<10)
	open := texts(map[string]string{"/same": long, "/other": long + "a", "/shorter": long},
		map[string]string{"/same": long, "/other": long + "b", "/shorter": long[1:], "/sure": ""})
	f := file(1, 1)
	changes := func(yield func(Change, error) bool) {
		for _, p := range []string{"/same", "/other", "/shorter"} {
			if !yield(Change{p, f, f, true}, nil) {
				return
			}
		}
		if yield(Change{"/sure", f, f, false}, nil) {
			yield(Change{"/lost", f, f, true}, nil)
		}
	}
	want := []string{"changed /other", "changed /shorter", "changed /sure", `error: no "/lost"`}
	if got := summary(t, Settle(changes, open)); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestIdentity(t *testing.T) {
	for _, test := range []struct {
		path string
		want bool
	}{{"/etc/hostname", true}, {"/etc/ssh/ssh_host_rsa_key", true}, {"/proc", true}, {"/etc/hosts.allow", false}, {"/work", false}} {
		if Identity(test.path) != test.want {
			t.Error(test.path)
		}
	}
}

// sides are two directories that stand for two states of a guest.
type sides [2]string

func (d sides) open(s Side, path string) (io.ReadCloser, error) { return os.Open(d[s] + path) }

// changes compares the directories, of which the first counts as the image.
func (d sides) changes(t *testing.T) Changes {
	t.Helper()
	all := map[string]Entry{}
	for s, root := range d {
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil || p == root {
				return err
			}
			name := "/" + must[string](t)(filepath.Rel(root, p))
			entry := all[name]
			entry.Path = name
			f := &entry.Base
			if Side(s) == After {
				f = &entry.File
			}
			*f = describe(t, p)
			all[name] = entry
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var list []Entry
	for _, e := range all {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Entry) int { return guest.ComparePaths(a.Path, b.Path) })
	return Settle(Compare(entries(), entries(list...)), d.open)
}

func describe(t *testing.T, path string) File {
	t.Helper()
	fi := must[fs.FileInfo](t)(os.Lstat(path))
	st := fi.Sys().(*syscall.Stat_t)
	f := File{Type: guest.TypeFile, Mode: int(fi.Mode().Perm()), UID: int(st.Uid), GID: int(st.Gid), MTimeNS: fi.ModTime().UnixNano(), Size: fi.Size()}
	switch {
	case fi.IsDir():
		f.Type, f.Size = guest.TypeDir, 0
	case fi.Mode()&fs.ModeSymlink != 0:
		f.Type, f.Size, f.Target = guest.TypeSymlink, 0, must[string](t)(os.Readlink(path))
	case !fi.Mode().IsRegular():
		f.Type, f.Size, f.Target = guest.TypeOther, 0, "pipe"
	}
	return f
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// run runs a program in a directory, which has to succeed.
func run(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// listing describes a directory, as git does: no empty directories, of modes only
// whether files are executable.
func listing(t *testing.T, root string) map[string]string {
	t.Helper()
	l := map[string]string{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if e != nil && e.Name() == ".git" {
				return filepath.SkipDir
			}
			return err
		}
		name := must[string](t)(filepath.Rel(root, p))
		switch f := describe(t, p); f.Type {
		case guest.TypeSymlink:
			l[name] = "-> " + f.Target
		case guest.TypeFile:
			x := ""
			if f.Mode&0o100 != 0 {
				x = "x "
			}
			l[name] = x + string(must[[]byte](t)(os.ReadFile(p)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
