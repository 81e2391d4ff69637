package netlog

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

var testKey = seal.Key{1, 2, 3}

var testTime = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// clock returns a clock that goes on by a second each time it is asked.
func clock() func() time.Time {
	now := testTime
	return func() time.Time {
		now = now.Add(time.Second)
		return now
	}
}

func openTest(t *testing.T, dir string, o Options) *Writer {
	t.Helper()
	o.Key = testKey
	if o.Now == nil {
		o.Now = clock()
	}
	w, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func flow(n int) Entry {
	return Entry{
		Kind: api.EventFlow, Verdict: api.PolicyDeny, Rule: "r1", Code: "rule", Reason: "Rule r1 denies it.",
		Flow: uint64(n), Proto: "tcp", Host: fmt.Sprintf("h%d.example.com", n), Address: "93.184.216.34", Port: 443,
	}
}

// written makes a record of n entries, a few in each file, and closes it.
func written(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	w := openTest(t, dir, Options{FileBytes: 1500, Files: 100})
	for i := 1; i <= n; i++ {
		w.Record(flow(i))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func readAll(t *testing.T, dir string, f Filter) []Entry {
	t.Helper()
	var list []Entry
	err := Read(context.Background(), dir, ReadOptions{Filter: f}, func(e Entry) error {
		list = append(list, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func verified(t *testing.T, dir string) Report {
	t.Helper()
	r, err := Verify(dir, testKey)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// lines reads a file as lines with their ends.
func linesOf(t *testing.T, path string) [][]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list := bytes.SplitAfter(b, []byte("\n"))
	return list[:len(list)-1]
}

func writeLines(t *testing.T, path string, lines [][]byte) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}
