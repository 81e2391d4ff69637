package cli

import (
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/forkcheck"
)

// TestSavedTables prints what is saved, with names as hostile as a damaged state
// directory could make them.
func TestSavedTables(t *testing.T) {
	made := time.Now().Add(-49 * time.Hour) // shown as 2d, also by a slow test
	key := strings.Repeat("0123456789abcdef", 4)
	templates := []smolvm.Template{
		{Key: key, Image: "base", CPUs: 1, MemoryMiB: 512, DiskMiB: 8192, Accel: "tcg", Bytes: 60 << 20, Created: made, Used: made},
		{Key: "\x1b[31mshort", Image: hostile, CPUs: 2, MemoryMiB: 300, DiskMiB: 64},
	}
	snapshots := []smolvm.Snapshot{
		{Name: "ready", Kind: api.SnapshotFull, Source: "abcdef", Image: "base", ImageID: "sha256:" + key, CPUs: 1, MemoryMiB: 512,
			DiskMiB: 8192, Accel: "tcg", VMM: "qemu 7.2", Bytes: 1 << 20, PauseMS: 41.7, Digest: "sha256:" + key, Created: made},
		{Name: hostile, Kind: api.SnapshotDisk, Image: hostile, Digest: hostile},
	}
	pools := []smolvm.Pool{
		{Image: "base", CPUs: 1, MemoryMiB: 512, DiskMiB: 8192, Size: 3, Ready: 2},
		{Image: hostile, Error: hostile},
	}
	for name, print := range map[string]func(io.Writer){
		"templates":       func(w io.Writer) { printTemplates(w, templates, false) },
		"templates-quiet": func(w io.Writer) { printTemplates(w, templates, true) },
		"snapshots":       func(w io.Writer) { printSnapshots(w, snapshots, false) },
		"snapshots-quiet": func(w io.Writer) { printSnapshots(w, snapshots, true) },
		"pools":           func(w io.Writer) { printPools(w, pools) },
		"snapshot": func(w io.Writer) {
			s := snapshots[0]
			s.Created = time.Time{} // is shown in the time zone of whoever looks
			printSnapshot(w, s)
			printSnapshot(w, snapshots[1])
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			print(&b)
			if strings.ContainsAny(b.String(), "\x1b\t\r\u202e") {
				t.Errorf("control characters reached the terminal: %q", b.String())
			}
			golden(t, filepath.Join("testdata", name+".txt"), []byte(b.String()))
		})
	}
}

func TestInspectShowsWhatIsSaved(t *testing.T) {
	var b strings.Builder
	printInfo(&b, smolvm.Info{
		State: api.StateHibernated, Origin: "fork \x1bx", IdleTimeoutSeconds: 60, Checkpoint: api.CheckpointEachCommand,
	})
	for _, want := range []string{
		"state         hibernated\n", "idle timeout  1m0s\n", "when idle     stop\n", "checkpoints   each-command\n", `made of       fork \x1bx` + "\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestSamePool(t *testing.T) {
	list := []smolvm.Pool{{Image: "a", CPUs: 1, MemoryMiB: 512, DiskMiB: 64, Ready: 1}, {Image: "a", CPUs: 2, MemoryMiB: 512, DiskMiB: 64}}
	if p, ok := samePool(list, smolvm.Pool{Image: "a", CPUs: 1, MemoryMiB: 512, DiskMiB: 64, Size: 9}); !ok || p.Ready != 1 {
		t.Errorf("found %+v, %v", p, ok)
	}
	if p, ok := samePool(list, smolvm.Pool{Image: "b", CPUs: 1, MemoryMiB: 512, DiskMiB: 64}); ok {
		t.Errorf("found %+v", p)
	}
}

func TestOldStates(t *testing.T) {
	got, err := oldStates("stopped")
	if want := []api.State{api.StateHibernated, api.StateStopped}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("stopped is %v, %v, want %v", got, err, want)
	}
	if _, err := oldStates("hibernated"); err == nil {
		t.Error("the original knows hibernated")
	}
}

func TestCounter(t *testing.T) {
	var b strings.Builder
	var n, told int64
	c := &counter{&b, &n, func(n int64) { told = n }}
	for range 3 {
		if _, err := io.WriteString(c, "abc"); err != nil {
			t.Fatal(err)
		}
	}
	if n != 9 || told != 9 || b.Len() != 9 {
		t.Errorf("counted %d, told %d, wrote %d", n, told, b.Len())
	}
}

func TestForkReport(t *testing.T) {
	for name, r := range map[string]forkcheck.Report{
		"ok": {OK: true, Sandboxes: []string{"a", "b", "c"}, Properties: []forkcheck.Property{{Name: "clocks", OK: true, Detail: "fine"}}},
		"bad": {Sandboxes: []string{"a", "b"}, Properties: []forkcheck.Property{
			{Name: "clocks", OK: true, Detail: "fine", Values: []string{"0s", "0s"}},
			{Name: "host name", Detail: hostile, Values: []string{hostile, ""}},
		}},
	} {
		var b strings.Builder
		printForkReport(&b, r)
		if strings.ContainsAny(b.String(), "\x1b\t\r\u202e") {
			t.Errorf("control characters reached the terminal: %q", b.String())
		}
		golden(t, filepath.Join("testdata", "fork-report-"+name+".txt"), []byte(b.String()))
	}
}
