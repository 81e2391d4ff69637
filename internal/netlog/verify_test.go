package netlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

// tampering is something done to a record of 20 entries, and what must be said.
// Lines are counted over all files.
type tampering struct {
	name string
	do   func(t *testing.T, r *onDisk)
	want []string // flaw from-to
}

// onDisk is a record as lines, and where they stand.
type onDisk struct {
	dir   string
	files []int
	lines [][]byte // of all files
	count []int    // lines of each file
}

func load(t *testing.T, dir string) *onDisk {
	t.Helper()
	list, err := files(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := &onDisk{dir: dir, files: list}
	for _, n := range list {
		l := linesOf(t, file(dir, n))
		r.lines = append(r.lines, l...)
		r.count = append(r.count, len(l))
	}
	return r
}

// save writes the lines back; what is more or less is so in the last file.
func (r *onDisk) save(t *testing.T) {
	t.Helper()
	lines := r.lines
	for i, n := range r.files {
		k := min(r.count[i], len(lines))
		if i == len(r.files)-1 {
			k = len(lines)
		}
		writeLines(t, file(r.dir, n), lines[:k])
		lines = lines[k:]
	}
}

// line returns the line of an entry for changing.
func (r *onDisk) line(seq int) *[]byte { return &r.lines[seq-1] }

func replace(seq int, old, new string) func(*testing.T, *onDisk) {
	return func(t *testing.T, r *onDisk) {
		l := r.line(seq)
		if !bytes.Contains(*l, []byte(old)) {
			t.Fatalf("line %d has no %q: %s", seq, old, *l)
		}
		*l = bytes.Replace(*l, []byte(old), []byte(new), 1)
	}
}

// rechain gives all lines from an entry on numbers and hashes that fit.
func rechain(t *testing.T, r *onDisk, from int) {
	t.Helper()
	for i := from - 1; i < len(r.lines); i++ {
		var e Entry
		if err := json.Unmarshal(r.lines[i], &e); err != nil {
			t.Fatal(err)
		}
		e.Seq, e.Prev = uint64(i+1), hashOf(bytes.TrimSuffix(r.lines[i-1], []byte("\n")))
		b, err := line(e)
		if err != nil {
			t.Fatal(err)
		}
		r.lines[i] = append(b, '\n')
	}
}

var tamperings = []tampering{
	{"nothing", func(*testing.T, *onDisk) {}, nil},
	{"a verdict is edited", replace(7, `"deny"`, `"allow"`), []string{"changed 7-7"}},
	{"the first entry is edited", replace(1, `"deny"`, `"allow"`), []string{"changed 1-1"}},
	{"the last entry is edited", replace(20, `"deny"`, `"allow"`), []string{"changed 20-20"}},
	{"the one before the last is edited", replace(19, `"deny"`, `"allow"`), []string{"changed 19-19"}},
	{"two neighbours are edited", func(t *testing.T, r *onDisk) {
		replace(7, `"deny"`, `"allow"`)(t, r)
		replace(8, `"deny"`, `"allow"`)(t, r)
	}, []string{"changed 8-8"}},
	{"two are edited", func(t *testing.T, r *onDisk) {
		replace(3, `"deny"`, `"allow"`)(t, r)
		replace(15, `"deny"`, `"allow"`)(t, r)
	}, []string{"changed 3-3", "changed 15-15"}},
	{"a hash is edited", replace(9, `"prev":"`, `"prev":"0`), []string{"changed 9-9"}},
	{"the first hash is edited", replace(1, first, strings.Repeat("1", 64)), []string{"changed 1-1"}},
	{"a number is raised", replace(9, `"seq":9,`, `"seq":900,`), []string{"changed 9-9"}},
	{"a number is lowered", replace(9, `"seq":9,`, `"seq":2,`), []string{"changed 9-9"}},
	{"the last number is raised", replace(20, `"seq":20,`, `"seq":21,`), []string{"changed 20-20"}},
	{"an entry is overwritten", func(t *testing.T, r *onDisk) { *r.line(9) = []byte("xyz\n") }, []string{"changed 9-9"}},
	{"the last is overwritten", func(t *testing.T, r *onDisk) { *r.line(20) = []byte("xyz\n") }, []string{"changed 20-20"}},
	{"the first is overwritten", func(t *testing.T, r *onDisk) { *r.line(1) = []byte("xyz\n") }, []string{"changed 1-1"}},
	{"a line is put in", func(t *testing.T, r *onDisk) { r.lines = slices.Insert(r.lines, 9, []byte("xyz\n")) }, []string{"added 0-0"}},
	{"an entry is taken out", func(t *testing.T, r *onDisk) { r.lines = slices.Delete(r.lines, 8, 9) }, []string{"missing 9-9"}},
	{"entries are taken out", func(t *testing.T, r *onDisk) { r.lines = slices.Delete(r.lines, 8, 12) }, []string{"missing 9-12"}},
	{"the first are taken out", func(t *testing.T, r *onDisk) { r.lines = slices.Delete(r.lines, 0, 3) }, []string{"cut 1-3"}},
	{"the last are taken out", func(t *testing.T, r *onDisk) { r.lines = r.lines[:17] }, []string{"cut 18-20"}},
	{"the last is taken out", func(t *testing.T, r *onDisk) { r.lines = r.lines[:19] }, []string{"cut 20-20"}},
	{"the last is cut", func(t *testing.T, r *onDisk) { l := r.line(20); *l = (*l)[:len(*l)-9] }, []string{"cut 20-20"}},
	{"all are taken out", func(t *testing.T, r *onDisk) { r.lines = nil }, []string{"cut 1-20"}},
	{"two change places", func(t *testing.T, r *onDisk) { r.lines[4], r.lines[5] = r.lines[5], r.lines[4] }, []string{"moved 5-5"}},
	{"one is moved to the end", func(t *testing.T, r *onDisk) {
		r.lines = append(slices.Delete(slices.Clone(r.lines), 4, 5), r.lines[4])
	}, []string{"moved 5-5"}},
	{"one is there twice", func(t *testing.T, r *onDisk) { r.lines = slices.Insert(r.lines, 10, r.lines[4]) }, []string{"moved 5-5"}},
	{"one is taken out, the rest made to fit", func(t *testing.T, r *onDisk) {
		r.lines = slices.Delete(r.lines, 8, 9)
		rechain(t, r, 9)
	}, []string{"cut 20-20"}},
	{"one is edited, the rest made to fit", func(t *testing.T, r *onDisk) {
		replace(7, `"deny"`, `"allow"`)(t, r)
		rechain(t, r, 8)
	}, []string{"changed 20-20"}},
	{"one that fits is put behind the end", func(t *testing.T, r *onDisk) {
		r.lines = append(r.lines, r.lines[19])
		rechain(t, r, 21)
	}, []string{"added 21-21"}},
	{"ten that fit are put behind the end", func(t *testing.T, r *onDisk) {
		r.lines = append(r.lines, r.lines[5:15]...)
		rechain(t, r, 21)
	}, []string{"added 21-30"}},
	{"the head is removed", func(t *testing.T, r *onDisk) { os.Remove(headPath(r.dir)) }, []string{"head 0-0"}},
	{"the head is edited", func(t *testing.T, r *onDisk) {
		b, err := os.ReadFile(headPath(r.dir))
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.Replace(b, []byte(`"seq":20`), []byte(`"seq":19`), 1)
		if err := os.WriteFile(headPath(r.dir), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}, []string{"head 0-0"}},
	{"the head is removed and one edited", func(t *testing.T, r *onDisk) {
		os.Remove(headPath(r.dir))
		replace(7, `"deny"`, `"allow"`)(t, r)
	}, []string{"head 0-0", "changed 7-7"}},
}

func problems(r Report) []string {
	var list []string
	for _, p := range r.Problems {
		list = append(list, fmt.Sprintf("%s %d-%d", p.Flaw, p.From, p.To))
	}
	return list
}

func TestVerifyNamesWhatWasDone(t *testing.T) {
	for _, c := range tamperings {
		t.Run(c.name, func(t *testing.T) {
			dir := written(t, 20)
			r := load(t, dir)
			if len(r.files) < 3 || len(r.lines) != 20 {
				t.Fatalf("%d files, %d lines", len(r.files), len(r.lines))
			}
			c.do(t, r)
			r.save(t)
			report := verified(t, dir)
			if got := problems(report); !slices.Equal(got, c.want) {
				t.Errorf("found %v, want %v\n%+v", got, c.want, report)
			}
		})
	}
}

// TestVerifySeesEachByte changes every byte of a record in turn.
func TestVerifySeesEachByte(t *testing.T) {
	dir := written(t, 2)
	list, err := files(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file(dir, list[0]), headPath(dir)} {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if r := verified(t, dir); len(r.Problems) == 0 {
				t.Errorf("%s: byte %d was changed from %q to %q, and nothing said", path, i, good[i], bad[i])
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := verified(t, dir); len(r.Problems) != 0 {
		t.Errorf("as it was: %v", r.Problems)
	}
}

func TestVerifyMissesNoFile(t *testing.T) {
	for i, want := range []string{"cut", "missing", "cut"} {
		dir := written(t, 20)
		r := load(t, dir)
		n := []int{0, 1, len(r.files) - 1}[i]
		if err := os.Remove(file(dir, r.files[n])); err != nil {
			t.Fatal(err)
		}
		if got := problems(verified(t, dir)); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("file %d removed: found %v, want %s", n, got, want)
		}
	}
}

func TestVerifyOfNone(t *testing.T) {
	if _, err := Verify(t.TempDir(), testKey); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("no record: %v", err)
	}
	dir := t.TempDir()
	openTest(t, dir, Options{})
	if r := verified(t, dir); len(r.Problems) > 0 || r.Entries != 0 {
		t.Errorf("empty record: %+v", r)
	}
}

func TestVerifyWithAnotherKey(t *testing.T) {
	r, err := Verify(written(t, 5), seal.Key{9})
	if got := problems(r); err != nil || !slices.Equal(got, []string{"head 0-0"}) {
		t.Errorf("found %v, %v", got, err)
	}
}

func TestVerifyBoundsItsReport(t *testing.T) {
	dir := written(t, 400)
	r := load(t, dir)
	for i := 0; i < 400; i += 2 {
		*r.line(i + 1) = bytes.Replace(*r.line(i + 1), []byte("deny"), []byte("allow"), 1)
	}
	r.save(t)
	if rep := verified(t, dir); len(rep.Problems) != maxProblems || rep.More != 100 {
		t.Errorf("%d problems and %d more", len(rep.Problems), rep.More)
	}
}
