package netlog

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

func TestFilter(t *testing.T) {
	e := Entry{Time: testTime, Kind: api.EventFlow, Verdict: api.PolicyAllow, Host: "api.Example.com", Address: "93.184.216.34"}
	deny := e
	deny.Verdict = api.PolicyDeny
	alarm := e
	alarm.Kind, alarm.HTTP = api.EventAlarm, &api.NetworkHTTP{Host: "Evil.example:8080"}
	for _, c := range []struct {
		f    Filter
		e    Entry
		want bool
	}{
		{Filter{}, e, true},
		{Filter{Since: testTime}, e, true},
		{Filter{Since: testTime.Add(1)}, e, false},
		{Filter{Denied: true}, e, false},
		{Filter{Denied: true}, deny, true},
		{Filter{Denied: true}, alarm, true},
		{Filter{Denied: true}, Entry{Kind: api.EventLost}, true},
		{Filter{Denied: true}, Entry{Kind: api.EventStart}, false},
		{Filter{Host: "example.com"}, e, true},
		{Filter{Host: "*.example.com"}, e, true},
		{Filter{Host: "API.example.COM"}, e, true},
		{Filter{Host: "ample.com"}, e, false},
		{Filter{Host: "pi.example.com"}, e, false},
		{Filter{Host: "93.184.216.34"}, e, true},
		{Filter{Host: "evil.example"}, alarm, true},
		{Filter{Host: "evil.example", Denied: true, Since: testTime}, alarm, true},
	} {
		if got := c.f.Match(c.e); got != c.want {
			t.Errorf("%+v of %+v: %v", c.f, c.e, got)
		}
	}
}

func TestReadSaysWhatIsNoEntry(t *testing.T) {
	dir := written(t, 20)
	r := load(t, dir)
	*r.line(3) = []byte("xyz\n")
	*r.line(5) = []byte(strings.Repeat("y", 3*MaxLine) + "\n")
	*r.line(20) = []byte(`{"seq":20,`) // without an end: it is being written
	r.save(t)
	list := readAll(t, dir, Filter{Host: "h4.example.com"})
	if len(list) != 3 || list[0].Kind != api.EventBroken || list[0].Reason != "line 3 of 000001.jsonl is no entry" ||
		list[1].Host != "h4.example.com" || list[2].Kind != api.EventBroken {
		t.Errorf("read %+v", list)
	}
	if list := readAll(t, dir, Filter{}); len(list) != 19 || list[18].Seq != 19 {
		t.Errorf("read %d", len(list))
	}
	if list := readAll(t, dir+"/none", Filter{}); len(list) != 0 {
		t.Errorf("read %+v", list)
	}
	if err := Read(t.Context(), dir+"/none", ReadOptions{Follow: true}, nil); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("follow what is not there: %v", err)
	}
}

// TestFollow reads while files begin and go, and must see every entry once.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	w := openTest(t, dir, Options{FileBytes: 1000, Files: 50})
	w.Record(flow(1))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const total = 100
	seen := make(chan uint64, total)
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, dir, ReadOptions{Follow: true}, func(e Entry) error {
			seen <- e.Seq
			return nil
		})
	}()
	for want := uint64(1); want <= total; want++ {
		select {
		case got := <-seen:
			if got != want {
				t.Fatalf("saw entry %d, want %d", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("entry %d was not seen", want)
		}
		if want == 50 { // another life
			w.Close()
			w = openTest(t, dir, Options{FileBytes: 1000, Files: 50})
		}
		if want < total {
			w.Record(flow(int(want) + 1))
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("at its end: %v", err)
	}
}

// TestFollowSlowly reads more slowly than files are removed: numbers tell what was missed.
func TestFollowSlowly(t *testing.T) {
	dir := t.TempDir()
	w := openTest(t, dir, Options{FileBytes: 1000, Files: 2})
	for i := 1; i <= 2; i++ {
		w.Record(flow(i))
	}
	stop := errors.New("enough")
	var list []uint64
	err := Read(t.Context(), dir, ReadOptions{Follow: true}, func(e Entry) error {
		list = append(list, e.Seq)
		if e.Seq == 1 {
			for i := 3; i <= 100; i++ {
				w.Record(flow(i))
			}
		}
		if e.Seq == 100 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || len(list) > 20 {
		t.Errorf("saw %v, %v", list, err)
	}
	for i := 1; i < len(list); i++ {
		if list[i] <= list[i-1] {
			t.Errorf("saw %d after %d", list[i], list[i-1])
		}
	}
}

// FuzzRead reads and verifies whatever stands in the files.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	w, err := Open(dir, Options{Key: testKey, Now: clock()})
	if err != nil {
		f.Fatal(err)
	}
	for i := range 4 {
		w.Record(flow(i))
	}
	w.Close()
	lines, err := os.ReadFile(file(dir, 1))
	if err != nil {
		f.Fatal(err)
	}
	head, err := os.ReadFile(headPath(dir))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(lines, head)
	f.Add(lines[:len(lines)/2], head)
	f.Add([]byte("xyz\n\n{}\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, lines, head []byte) {
		dir := t.TempDir()
		for path, b := range map[string][]byte{file(dir, 1): lines, file(dir, 2): lines, headPath(dir): head} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := Verify(dir, testKey); err != nil || len(r.Problems) == 0 && len(lines) > 0 && r.Entries > 0 {
			t.Fatalf("the same file twice: %+v, %v", r, err)
		}
		count := 0
		if err := Read(t.Context(), dir, ReadOptions{}, func(Entry) error { count++; return nil }); err != nil {
			t.Fatal(err)
		}
		w, err := Open(dir, Options{Key: testKey})
		if err != nil {
			t.Fatal(err)
		}
		w.Record(Entry{Kind: api.EventStart})
		w.Close()
		list := readAll(t, dir, Filter{})
		if len(list) <= count || list[len(list)-1].Kind != api.EventStart {
			t.Fatalf("it does not go on: %d entries, then %d", count, len(list))
		}
	})
}
