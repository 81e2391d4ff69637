package diff

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/api"
)

// state is a directory to be: name to what it is. "-> x" is a link, "/" a
// directory, "x " begins an executable file, "|" is a pipe.
type state map[string]string

func (s state) write(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(s)) {
		p := filepath.Join(root, name)
		must[any](t)(nil, os.MkdirAll(filepath.Dir(p), 0o755))
		what := s[name]
		target, link := strings.CutPrefix(what, "-> ")
		text, executable := strings.CutPrefix(what, "x ")
		switch {
		case what == "/":
			must[any](t)(nil, os.MkdirAll(p, 0o755))
		case what == "|":
			must[any](t)(nil, syscall.Mkfifo(p, 0o600))
		case link:
			must[any](t)(nil, os.Symlink(target, p))
		case executable:
			must[any](t)(nil, os.WriteFile(p, []byte(text), 0o755))
		default:
			must[any](t)(nil, os.WriteFile(p, []byte(what), 0o644))
		}
	}
	return root
}

func noise(n int) string {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func numbered(n int, change func(i int) string) string {
	var b strings.Builder
	for i := range n {
		s := change(i)
		if s == "" {
			s = fmt.Sprintf("line %d\n", i)
		}
		b.WriteString(s)
	}
	return b.String()
}

var same = func(int) string { return "" }

func every(n int) func(int) string {
	return func(i int) string {
		if i%n == n-1 {
			return fmt.Sprintf("new %d\n", i)
		}
		return ""
	}
}

// histories are pairs of states and what a patch cannot carry.
var histories = []struct {
	name          string
	before, after state
	skipped       []string
}{
	{"edits", state{"f": numbered(40, same), "g": "a\nb\n"}, state{"f": numbered(40, every(13)), "g": "a\nc\nb\n"}, nil},
	{"many edits", state{"f": numbered(3000, same)}, state{"f": numbered(3000, every(3))}, nil},
	{"first and last line", state{"f": numbered(9, same)}, state{"f": "new\n" + numbered(9, same) + "last\n"}, nil},
	{"added and deleted", state{"gone": "1\n", "d/gone": "1\n2\n"}, state{"new": "1\n", "n/e/w": "1\n2"}, nil},
	{"empty files", state{"gone": "", "filled": "", "emptied": "x\n"}, state{"new": "", "filled": "x\n", "emptied": ""}, nil},
	{"no newline", state{"a": "1\n2", "b": "1\n2\n", "c": "1\n2"}, state{"a": "1\n2\n", "b": "1\n2", "c": "1\n3"}, nil},
	{"carriage returns", state{"a": "1\r\n2\r\n"}, state{"a": "1\r\n3\r\n"}, nil},
	{"modes", state{"a": "1\n", "b": "x 1\n", "c": "1\n"}, state{"a": "x 1\n", "b": "1\n", "c": "x 2\n"}, nil},
	{"links", state{"a": "-> x", "b": "-> y", "c": "file\n", "d": "-> f"}, state{"a": "-> z", "n": "-> long/way/../off", "c": "-> was a file", "d": "is a file\n"}, nil},
	{"odd names", state{"a b": "1\n", "q\"q": "1\n", "b\\s": "1\n", "tab\there": "1\n", "sp ace/x y": "1\n", "gone é": "1\n", " lead": "1\n", "trail ": "1\n"},
		state{"a b": "2\n", "q\"q": "2\n", "b\\s": "2\n", "tab\there": "2\n", "sp ace/x y": "2\n", "new\nline": "1\n", "bell\a\x01": "1\n", " lead": "2\n", "trail ": "2\n", "-dash": "1\n"}, nil},
	{"like a patch", state{"f": "--- a/f\n+++ b/f\n@@ -1 +1 @@\n"}, state{"f": "--- a/f\n+++ b/g\n-- \n@@ -1 +1 @@\n"}, nil},
	{"binary", state{"a": noise(10000), "b": noise(77), "gone": noise(53), "t": "text\n"}, state{"a": noise(10001), "b": noise(78), "new": noise(52), "e": "\x00", "t": noise(3)}, nil},
	{"long text", state{"f": strings.Repeat("long\n", maxText/5+1)}, state{"f": strings.Repeat("long\n", maxText/5+2)}, nil},
	{"file to directory", state{"a": "1\n", "b": "-> x"}, state{"a/f": "1\n", "a/g/h": "2\n", "b/f": "1\n"}, nil},
	{"directory to file", state{"a/f": "1\n", "a/g/h": "2\n", "b/f": "1\n"}, state{"a": "1\n", "b": "-> x"}, nil},
	{"directories", state{"gone": "/", "kept/f": "1\n"}, state{"new": "/", "kept/f": "1\n"}, nil},
	{"what git has no words for", state{"p": "|", ".git/config": "1\n", "r/.GIT/x": "1\n", "q": "1\n"}, state{"n": "|", ".git/config": "2\n", "r/.GIT/x": "2\n", "q": "2\n"},
		[]string{"/.git/config", "/n", "/p", "/r/.GIT/x"}},
}

func TestPatch(t *testing.T) {
	for _, h := range histories {
		t.Run(h.name, func(t *testing.T) {
			d := sides{h.before.write(t), h.after.write(t)}
			var patch bytes.Buffer
			skipped, err := Patch(&patch, "/", d.changes(t), d.open)
			if err != nil || !slices.Equal(skipped, h.skipped) {
				t.Fatalf("%q, %v", skipped, err)
			}
			if h.skipped != nil {
				return // what is left out makes the trees differ
			}
			apply(t, d, patch.Bytes())
		})
	}
}

// apply has git turn one side into the other, in its index too.
func apply(t *testing.T, d sides, patch []byte) {
	t.Helper()
	work := filepath.Join(t.TempDir(), "work")
	run(t, "/", "cp", "-a", d[Before], work)
	if len(patch) == 0 {
		if !maps.Equal(listing(t, work), listing(t, d[After])) {
			t.Error("the patch is empty")
		}
		return
	}
	file := filepath.Join(t.TempDir(), "patch")
	must[any](t)(nil, os.WriteFile(file, patch, 0o600))
	run(t, work, "git", "init", "-q")
	run(t, work, "git", "add", "-A")
	run(t, work, "git", "apply", "--index", "--whitespace=nowarn", file)
	got, want := listing(t, work), listing(t, d[After])
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%q\n got %.100q\nwant %.100q", name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q is left", name)
		}
	}
	if t.Failed() && len(patch) < 4<<10 {
		t.Logf("%s", patch)
	}
}

// TestPatchBelow patches a directory of a guest, not all of it.
func TestPatchBelow(t *testing.T) {
	d := sides{state{"work/repo/f": "1\n", "work/other": "1\n"}.write(t), state{"work/repo/f": "2\n", "work/repo/n": "1\n", "work/other": "2\n"}.write(t)}
	var patch bytes.Buffer
	if _, err := Patch(&patch, "/work/repo/", d.changes(t), d.open); err != nil {
		t.Fatal(err)
	}
	apply(t, sides{d[Before] + "/work/repo", d[After] + "/work/repo"}, patch.Bytes())
}

// TestPatchRandom applies patches of random texts.
func TestPatchRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	before, after := state{}, state{}
	for i := range 150 {
		name := fmt.Sprintf("d%d/f%d", i%7, i)
		before[name], after[name] = randomText(r), randomText(r)
	}
	d := sides{before.write(t), after.write(t)}
	var patch bytes.Buffer
	if _, err := Patch(&patch, "/", d.changes(t), d.open); err != nil {
		t.Fatal(err)
	}
	apply(t, d, patch.Bytes())
}

func randomText(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(30) {
		b.WriteString(strings.Repeat(string(rune('a'+r.IntN(4))), 1+r.IntN(2)))
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), []string{"", "\n"}[r.IntN(2)])
}

func TestPatchTooLarge(t *testing.T) {
	f := file(1, 1)
	f.Size = maxPatched + 1
	changes := func(yield func(Change, error) bool) { yield(Change{"/big", File{}, f, false}, nil) }
	if _, err := Patch(io.Discard, "/", changes, texts(nil, nil)); api.ClassOf(err) != api.Exhausted {
		t.Error(err)
	}
}

// TestTar unpacks the changes over the first state and compares with the second.
func TestTar(t *testing.T) {
	for _, h := range histories {
		t.Run(h.name, func(t *testing.T) {
			d := sides{h.before.write(t), h.after.write(t)}
			var archive bytes.Buffer
			if _, err := Tar(&archive, "/", d.changes(t), d.open); err != nil {
				t.Fatal(err)
			}
			work := filepath.Join(t.TempDir(), "work")
			run(t, "/", "cp", "-a", d[Before], work)
			unpack(t, work, &archive)
			got, want := listing(t, work), listing(t, d[After])
			if !maps.Equal(got, want) {
				t.Errorf("\n got %.300q\nwant %.300q", got, want)
			}
		})
	}
}

// unpack unpacks an archive with deletions, as layers are.
func unpack(t *testing.T, root string, archive io.Reader) {
	t.Helper()
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(root, h.Name)
		if base, ok := strings.CutPrefix(filepath.Base(p), whiteout); ok {
			must[any](t)(nil, os.RemoveAll(filepath.Join(filepath.Dir(p), base)))
			continue
		}
		fi, err := os.Lstat(p)
		if err == nil && (h.Typeflag != tar.TypeDir || !fi.IsDir()) {
			must[any](t)(nil, os.RemoveAll(p))
		}
		switch h.Typeflag {
		case tar.TypeDir:
			must[any](t)(nil, os.MkdirAll(p, os.FileMode(h.Mode)))
		case tar.TypeSymlink:
			must[any](t)(nil, os.Symlink(h.Linkname, p))
		default:
			must[any](t)(nil, os.WriteFile(p, must[[]byte](t)(io.ReadAll(r)), os.FileMode(h.Mode)))
		}
	}
}

func TestTarChanged(t *testing.T) {
	changes := func(yield func(Change, error) bool) { yield(Change{"/f", File{}, file(1, 1), false}, nil) }
	if _, err := Tar(io.Discard, "/", changes, texts(nil, map[string]string{"/f": "abc"})); api.ClassOf(err) != api.Conflict {
		t.Error(err)
	}
}

func TestUnified(t *testing.T) {
	f := file(1, 1)
	link := File{Type: "symlink", Target: "old"}
	open := texts(map[string]string{"/f": "a\nb\n", "/bin": "\x00", "/d x": "gone\n"}, map[string]string{"/f": "a\nc", "/bin": "1", "/n": "new\n"})
	for _, test := range []struct {
		c    Change
		want Text
	}{
		{Change{"/f", f, f, false}, Text{Unified: "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n\\ No newline at end of file\n"}},
		{Change{"/bin", f, f, false}, Text{Binary: true}},
		{Change{"/n", File{}, f, false}, Text{Unified: "--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+new\n"}},
		{Change{"/d x", f, File{}, false}, Text{Unified: "--- a/d x\t\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"}},
		{Change{"/l", link, File{Type: "symlink", Target: "new"}, false},
			Text{Unified: "--- a/l\n+++ b/l\n@@ -1 +1 @@\n-old\n\\ No newline at end of file\n+new\n\\ No newline at end of file\n"}},
		{Change{"/dir", dir(0o755), dir(0o700), false}, Text{}},
	} {
		if got, err := Unified(test.c, open); err != nil || got != test.want {
			t.Errorf("%s: %+v, %v", test.c.Path, got, err)
		}
	}
	big := f
	big.Size = maxText + 1
	if got, err := Unified(Change{"/f", f, big, false}, open); err != nil || !got.Binary {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestHunksTime compares long texts that have nothing in common: the guest chooses
// them, the host's time is at stake.
func TestHunksTime(t *testing.T) {
	a := strings.Repeat("a\n", maxText/4) + numbered(maxText/32, same)
	b := numbered(maxText/32, every(2)) + strings.Repeat("b\na\n", maxText/8)
	if h := hunks(a, b); len(h) == 0 {
		t.Error("no hunks")
	}
}
