package netlog

import (
	"bytes"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/smolvm/smolvm/api"
)

func TestRecordGoesOn(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		w := openTest(t, dir, Options{})
		w.Record(flow(round))
		w.Close()
		w.Close()
		w.Record(flow(99)) // after Close: nothing
	}
	list := readAll(t, dir, Filter{})
	if len(list) != 3 || list[2].Seq != 3 || list[2].Flow != 2 || list[0].Prev != first {
		t.Errorf("read %+v", list)
	}
	if r := verified(t, dir); len(r.Problems) > 0 || r.First != 1 || r.Last != 3 || r.Entries != 3 {
		t.Errorf("report %+v", r)
	}
}

func TestRotationIsBoundedAndVerifies(t *testing.T) {
	dir := t.TempDir()
	const fileBytes, kept = 2000, 3
	var w *Writer
	for i := 1; i <= 200; i++ {
		if i%50 == 1 { // also over stops and starts
			w = openTest(t, dir, Options{FileBytes: fileBytes, Files: kept})
		}
		w.Record(flow(i))
		if i%50 == 0 {
			w.Close()
		}
	}
	r := verified(t, dir)
	if len(r.Problems) > 0 || r.Last != 200 || r.First <= 1 || r.Entries != r.Last-r.First+1 {
		t.Errorf("report %+v", r)
	}
	list, err := files(dir)
	if err != nil || len(list) != kept {
		t.Errorf("files %v, %v", list, err)
	}
	for _, n := range list {
		if fi, err := os.Stat(file(dir, n)); err != nil || fi.Size() > fileBytes+500 {
			t.Errorf("file %d: %d bytes, %v", n, fi.Size(), err)
		}
	}
}

func TestManyWriteAtOnce(t *testing.T) {
	dir := t.TempDir()
	w := openTest(t, dir, Options{FileBytes: 20000, Files: 100})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 200 {
				w.Record(flow(i))
			}
		})
	}
	for range 20 { // it is verified while it is written
		if r := verified(t, dir); len(r.Problems) > 0 {
			t.Errorf("meanwhile: %+v", r)
		}
	}
	group.Wait()
	if r := verified(t, dir); len(r.Problems) > 0 || r.Last != 1600 {
		t.Errorf("report %+v", r)
	}
}

// TestVerifyWhileFilesGo verifies a record whose oldest files are removed all the time.
func TestVerifyWhileFilesGo(t *testing.T) {
	dir := t.TempDir()
	w := openTest(t, dir, Options{FileBytes: 4000, Files: 3})
	stop := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer close(stop)
	group.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.Record(flow(i))
			}
		}
	})
	for range 30 {
		r, err := Verify(dir, testKey)
		if err != nil && !strings.Contains(err.Error(), "none yet") || len(r.Problems) > 0 {
			t.Fatalf("report %+v, %v", r, err)
		}
	}
}

// TestKilled opens records as a killed writer leaves them.
func TestKilled(t *testing.T) {
	dir := written(t, 20)
	w := openTest(t, dir, Options{})
	last := w.begins[len(w.begins)-1].file
	w.Record(flow(21))
	before, err := os.ReadFile(headPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	h := w.head
	w.Record(flow(22))
	w.Close()
	whole, err := os.ReadFile(file(dir, last))
	if err != nil {
		t.Fatal(err)
	}
	pending := h
	pending.Next = w.head.Hash
	for name, c := range map[string]struct {
		head  []byte
		lines []byte
		want  uint64
	}{
		"before the line":     {w.sealed(pending), whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1], 21},
		"in the line":         {w.sealed(pending), whole[:len(whole)-9], 21},
		"after the line":      {w.sealed(pending), whole, 22},
		"before anything":     {before, whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1], 21},
		"in a line, long ago": {before, whole[:len(whole)-9], 21},
	} {
		if err := os.WriteFile(file(dir, last), c.lines, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(headPath(dir), c.head, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := verified(t, dir); len(r.Problems) > 0 || r.Last != c.want {
			t.Errorf("%s: before opening: %+v", name, r)
		}
		w := openTest(t, dir, Options{})
		w.Record(flow(8))
		w.Close()
		if r := verified(t, dir); len(r.Problems) > 0 || r.Last != c.want+1 {
			t.Errorf("%s: after it went on: %+v", name, r)
		}
	}
}

// TestOpenHidesNothing goes on with records that were tampered with: what was done
// must still be found.
func TestOpenHidesNothing(t *testing.T) {
	for _, c := range tamperings {
		if c.want == nil {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			dir := written(t, 20)
			r := load(t, dir)
			c.do(t, r)
			r.save(t)
			w := openTest(t, dir, Options{FileBytes: 1500, Files: 100})
			w.Record(flow(1))
			w.Close()
			if got := problems(verified(t, dir)); len(got) == 0 {
				t.Error("nothing is found any more")
			}
		})
	}
}

func TestHeadWithoutFiles(t *testing.T) {
	dir := written(t, 20)
	for _, n := range load(t, dir).files {
		if err := os.Remove(file(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	w := openTest(t, dir, Options{})
	w.Record(flow(1))
	w.Close()
	got := problems(verified(t, dir))
	if !slices.Contains(got, "broken 21-21") || !slices.Contains(got, "cut 1-20") {
		t.Errorf("found %v", got)
	}
}

// TestHostileText writes the longest and worst that a guest can send.
func TestHostileText(t *testing.T) {
	for name, s := range map[string]string{
		"long":     strings.Repeat("x", 100000),
		"controls": strings.Repeat("\x1b[2J\x07\u009b\x7f\u202e\u2028", 20000),
		"not text": strings.Repeat("\xff\xfe\xc3", 30000),
		"quotes":   strings.Repeat(`"\`, 50000),
		"html":     strings.Repeat("<&>", 30000),
		"wide":     strings.Repeat("\U000e0001", 30000),
	} {
		many := slices.Repeat([]string{s}, 1000)
		e := Entry{
			Kind: api.EventAlarm, Verdict: api.PolicyAction(s), Rule: s, Code: s, Reason: s, Ask: s, Proto: s, Host: s,
			Address: s, Dialed: s, Secrets: many, Process: &api.NetworkProcess{PID: math.MaxInt, Argv: many},
			DNS:        &api.NetworkDNS{Type: s, Result: s, Addresses: many, Removed: many},
			HTTP:       &api.NetworkHTTP{Method: s, Scheme: s, Host: s, Path: s, Version: s, RequestType: s, ResponseType: s, WaitMS: math.Inf(1)},
			DurationMS: math.NaN(),
		}
		dir := t.TempDir()
		w := openTest(t, dir, Options{})
		w.Record(e)
		b := linesOf(t, file(dir, 1))
		if len(b) != 1 || len(b[0]) > MaxLine {
			t.Fatalf("%s: %d lines, the first of %d bytes", name, len(b), len(b[0]))
		}
		if i := strings.IndexFunc(string(b[0][:len(b[0])-1]), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s: byte %d does not print: %q", name, i, b[0][i:i+10])
		}
		list := readAll(t, dir, Filter{})
		if len(list) != 1 || list[0].Kind != api.EventAlarm || w.lost != 0 {
			t.Errorf("%s: read %d entries, %d lost (%v)", name, len(list), w.lost, w.err)
		}
	}
}

// TestFullDisk takes the file away from under a writer: what is lost is counted.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	w := openTest(t, dir, Options{})
	w.Record(flow(1))
	good := w.f
	bad, err := os.Open(os.DevNull) // for reading alone
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	w.f = bad
	w.Record(flow(2))
	w.Record(flow(3))
	w.f = good
	w.Record(flow(4))
	list := readAll(t, dir, Filter{})
	if len(list) != 3 || list[1].Kind != api.EventLost || list[1].Count != 2 || list[2].Flow != 4 {
		t.Errorf("read %+v", list)
	}
	if r := verified(t, dir); len(r.Problems) > 0 {
		t.Errorf("report %+v", r)
	}
}

func TestCounts(t *testing.T) {
	w := openTest(t, t.TempDir(), Options{})
	for _, e := range []Entry{
		{Kind: api.EventDNS, Verdict: api.PolicyDeny}, {Kind: api.EventFlow, Verdict: api.PolicyAllow}, {Kind: api.EventEnd, Verdict: api.PolicyAllow},
		{Kind: api.EventHTTP, Verdict: api.PolicyAllow}, {Kind: api.EventHTTP, Verdict: api.PolicyDeny}, {Kind: api.EventFlow, Verdict: api.PolicyDeny},
		{Kind: api.EventAnswer, Verdict: api.PolicyDeny},
	} {
		w.Record(e)
	}
	if got := w.Counts(); got != (Counts{1, 1, 2}) {
		t.Errorf("%+v", got)
	}
}

func BenchmarkRecord(b *testing.B) {
	w, err := Open(b.TempDir(), Options{Key: testKey})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for i := range b.N {
		w.Record(flow(i))
	}
}
