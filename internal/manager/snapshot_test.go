package manager_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

// refused checks all of an error that a person or a program acts on.
func (l *life) refused(err, class error, code, next string, words ...string) {
	l.Helper()
	l.fails(err, class, words...)
	e := api.AsError(err)
	if code != "" && e.Code != code {
		l.Errorf("%v has code %q, want %q", err, e.Code, code)
	}
	if !strings.Contains(e.Recovery, next) || e.Recovery == "" {
		l.Errorf("%v: the next step is %q, want %q", err, e.Recovery, next)
	}
}

func (l *life) hibernate(sb *smolvm.Sandbox) {
	l.Helper()
	l.ok(sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true}))
	l.is(sb, api.StateHibernated, "")
}

func (l *life) snapshot(sb *smolvm.Sandbox, name string) smolvm.Snapshot {
	l.Helper()
	s, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: name})
	l.ok(err)
	return s
}

func (l *life) snapshotNames() []string {
	l.Helper()
	list, err := l.Snapshots(l.ctx)
	l.ok(err)
	names := []string{}
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names
}

func (l *life) has(names ...string) {
	l.Helper()
	if got := l.snapshotNames(); strings.Join(got, " ") != strings.Join(names, " ") {
		l.Errorf("the snapshots are %v, want %v", got, names)
	}
	if tmp, _ := filepath.Glob(filepath.Join(l.Home, "tmp/*")); len(tmp) > 0 {
		l.Errorf("%v is left", tmp)
	}
}

var snapshotLaws = []law{
	{"of a running sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web", MemoryMiB: 256})
		l.counted(sb, 1)
		l.says(sb, "put saved", "<nil>")
		s := l.snapshot(sb, "base")
		if s.Name != "base" || s.Kind != api.SnapshotFull || s.Source != sb.ID() || s.Image != "base" || s.MemoryMiB != 256 ||
			s.VMM == "" || s.PauseMS <= 0 || !strings.HasPrefix(s.Digest, "sha256:") || len(s.Digest) != 7+64 || s.Bytes == 0 {
			l.Errorf("%+v", s)
		}
		l.counted(sb, 2)
		l.says(sb, "put later", "<nil>")
		l.ok(sb.Remove(l.ctx))
		for range 2 {
			child := l.create(smolvm.Spec{FromSnapshot: "base"})
			l.madeOf(child, "snapshot base")
			l.counted(child, 2)
			l.says(child, "got", "saved")
			l.says(child, "put child", "<nil>")
		}
		got, err := l.GetSnapshot(l.ctx, "base")
		if err != nil || got.Digest != s.Digest {
			l.Errorf("%+v, %v; was %s", got, err, s.Digest)
		}
	}},
	{"of a paused sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.ok(sb.Pause(l.ctx))
		if s := l.snapshot(sb, "s"); s.Kind != api.SnapshotFull {
			l.Errorf("%+v", s)
		}
		l.is(sb, api.StatePaused, "")
		l.counted(l.create(smolvm.Spec{FromSnapshot: "s"}), 2)
		l.ok(sb.Resume(l.ctx))
		l.counted(sb, 2)
	}},
	{"of a hibernated sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.says(sb, "put saved", "<nil>")
		l.hibernate(sb)
		if s := l.snapshot(sb, "s"); s.Kind != api.SnapshotFull {
			l.Errorf("%+v", s)
		}
		l.is(sb, api.StateHibernated, "")
		child := l.create(smolvm.Spec{FromSnapshot: "s"})
		l.counted(child, 2)
		l.says(child, "got", "saved")
		l.says(child, "put child", "<nil>")
		l.counted(sb, 2)
		l.says(sb, "got", "saved")
	}},
	{"of a stopped sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.counted(sb, 1)
		l.says(sb, "put saved", "<nil>")
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		_, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "s"})
		l.refused(err, smolvm.ErrConflict, "not_running", "--disk-only", `save sandbox "web"`)
		s, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "s", DiskOnly: true})
		if err != nil || s.Kind != api.SnapshotDisk || s.VMM != "" {
			l.Errorf("%+v, %v", s, err)
		}
		l.is(sb, api.StateStopped, "")
		child := l.create(smolvm.Spec{FromSnapshot: "s"})
		l.counted(child, 1)
		l.says(child, "got", "saved")
		l.says(child, "put child", "<nil>")
		l.ok(sb.Start(l.ctx))
		l.says(sb, "got", "saved")
		l.says(sb, "put later", "<nil>")
		l.says(l.create(smolvm.Spec{FromSnapshot: "s"}), "got", "saved")
		l.has("s")
	}},
	{"of the disk alone", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.says(sb, "put saved", "<nil>")
		for _, state := range []string{"running", "paused", "hibernated"} {
			switch state {
			case "paused":
				l.ok(sb.Pause(l.ctx))
			case "hibernated":
				l.hibernate(sb)
			}
			s, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: state, DiskOnly: true})
			if err != nil || s.Kind != api.SnapshotDisk {
				l.Errorf("%s: %+v, %v", state, s, err)
				continue
			}
			child := l.create(smolvm.Spec{FromSnapshot: state})
			l.counted(child, 1)
			l.says(child, "got", "saved")
		}
		l.counted(sb, 2)
		l.says(sb, "got", "saved")
	}},
	{"without a name", func(l *life) {
		sb := l.create(smolvm.Spec{})
		one, two := l.snapshot(sb, ""), l.snapshot(sb, "")
		if one.Name == "" || one.Name == two.Name {
			l.Errorf("%q, %q", one.Name, two.Name)
		}
		l.has(one.Name, two.Name)
	}},
	{"a taken or impossible name", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.snapshot(sb, "s")
		_, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "s"})
		l.refused(err, smolvm.ErrConflict, "", "smolvm snapshot rm s", `name "s" is taken`)
		for _, name := range []string{"..", "a/b", "-a", "A", strings.Repeat("a", 64), "a\x00", "\x1b[31m"} {
			_, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: name})
			l.refused(err, smolvm.ErrInvalid, "", "lower-case")
			_, err = l.Create(l.ctx, smolvm.Spec{FromSnapshot: name})
			l.fails(err, smolvm.ErrInvalid)
			_, err = l.GetSnapshot(l.ctx, name)
			l.fails(err, smolvm.ErrNotFound)
			l.fails(l.RemoveSnapshot(l.ctx, name), smolvm.ErrNotFound)
			l.fails(l.SaveSnapshot(l.ctx, name, io.Discard), smolvm.ErrNotFound)
		}
		l.has("s")
	}},
	{"many take one name at once", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.oneWins(5, func() error {
			_, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "s"})
			return err
		})
		l.has("s")
	}},
	{"one that is not there", func(l *life) {
		_, getErr := l.GetSnapshot(l.ctx, "s")
		_, createErr := l.Create(l.ctx, smolvm.Spec{FromSnapshot: "s"})
		for _, err := range []error{getErr, createErr, l.RemoveSnapshot(l.ctx, "s"), l.SaveSnapshot(l.ctx, "s", io.Discard)} {
			l.refused(err, smolvm.ErrNotFound, "", "smolvm snapshot ls", `find snapshot "s"`)
		}
		sb := l.create(smolvm.Spec{})
		l.ok(sb.Remove(l.ctx))
		_, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "s"})
		l.fails(err, smolvm.ErrNotFound, "find sandbox")
		l.has()
	}},
	{"rm disturbs nobody", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.snapshot(sb, "s")
		child := l.create(smolvm.Spec{FromSnapshot: "s"})
		l.ok(l.RemoveSnapshot(l.ctx, "s"))
		l.counted(child, 2)
		l.hibernate(child)
		l.counted(child, 3)
		l.hibernate(sb)
		l.counted(sb, 2)
		l.has()
	}},
	{"a snapshot of a child of a snapshot", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for i := range 4 {
			l.counted(sb, i+1)
			l.says(sb, fmt.Sprintf("put gen%d", i), "<nil>")
			l.snapshot(sb, fmt.Sprintf("s%d", i))
			sb = l.create(smolvm.Spec{FromSnapshot: fmt.Sprintf("s%d", i)})
		}
		for i := range 4 {
			child := l.create(smolvm.Spec{FromSnapshot: fmt.Sprintf("s%d", i)})
			l.counted(child, i+2)
			l.says(child, "got", fmt.Sprintf("gen%d", i))
		}
	}},
	{"a failing save leaves nothing", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		for _, fault := range []string{"save", "region", "overlay", "layer"} {
			l.says(sb, "put something", "<nil>") // else there is no layer to make
			l.faults("fail " + fault)
			_, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "s"})
			l.fails(err, smolvm.ErrInternal, "told to fail "+fault)
			l.faults()
			l.is(sb, api.StateRunning, "")
			l.has()
			start := time.Now()
			l.says(sb, "echo up", "up")
			if d := time.Since(start); d > 5*time.Second {
				l.Errorf("%s: the guest stood still for %v", fault, d)
			}
		}
		l.counted(sb, 2)
		l.snapshot(sb, "s")
		l.counted(l.create(smolvm.Spec{FromSnapshot: "s"}), 3)
	}},
	{"cancelled while it is taken", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		os.Remove(filepath.Join(l.Home, "reached"))
		l.faults("stall save")
		ctx, cancel := context.WithCancel(l.ctx)
		taken := async(func() error { _, err := sb.TakeSnapshot(ctx, smolvm.TakeSnapshot{Name: "s"}); return err })
		l.reached()
		cancel()
		if err := <-taken; !errors.Is(err, context.Canceled) {
			l.Errorf("%v", err)
		}
		l.faults()
		l.counted(sb, 2)
		l.has()
	}},
	{"killed while it is taken", func(l *life) {
		for _, fault := range []string{"stall save", "stall layer"} {
			sb := l.create(smolvm.Spec{})
			l.says(sb, "put kept", "<nil>")
			os.Remove(filepath.Join(l.Home, "reached"))
			l.faults(fault)
			taken := async(func() error { _, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "s"}); return err })
			l.reached()
			l.kill(sb)
			if err := <-taken; err == nil {
				l.Error("it was taken")
			}
			l.faults()
			l.has()
			l.ok(sb.Start(l.ctx))
			l.says(sb, "got", "kept")
		}
	}},
	{"killed while one is created of it", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.snapshot(sb, "s")
		for _, fault := range []string{"stall overlay", "stall load", "stall dial", "stall setup"} {
			os.Remove(filepath.Join(l.Home, "reached"))
			before := map[string]bool{}
			for _, p := range processIDs(l) {
				before[p] = true
			}
			l.faults(fault)
			made := async(func() error { _, err := l.Create(l.ctx, smolvm.Spec{FromSnapshot: "s", Name: "child"}); return err })
			l.reached()
			killNew(l, before)
			l.fails(<-made, smolvm.ErrInternal, "supervisor died")
			l.faults()
			_, err := l.GC(l.ctx, false)
			l.ok(err)
			if list, err := l.List(l.ctx, smolvm.ListOptions{}); err != nil || len(list) != 1 {
				l.Errorf("%s: %v, %v", fault, list, err)
			}
			l.has("s")
		}
		l.counted(l.create(smolvm.Spec{FromSnapshot: "s", Name: "child"}), 2)
	}},
	{"memory of another VMM is refused, the disk is usable", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.says(sb, "put saved", "<nil>")
		l.snapshot(sb, "s")
		l.faults("other VMM")
		_, err := l.Create(l.ctx, smolvm.Spec{FromSnapshot: "s"})
		l.refused(err, smolvm.ErrUnavailable, "foreign_memory", "--no-template", "another VMM")
		child := l.create(smolvm.Spec{FromSnapshot: "s", NoTemplate: true})
		l.counted(child, 1)
		l.says(child, "got", "saved")
	}},
	{"without the image's base", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.snapshot(sb, "s")
		base := filepath.Join(l.Home, "images/base")
		l.ok(os.Rename(base, base+".away"))
		_, err := l.Create(l.ctx, smolvm.Spec{FromSnapshot: "s"})
		l.refused(err, smolvm.ErrUnavailable, "", "smolvm image pull", `image "base"`)
		l.ok(os.Rename(base+".away", base))
	}},
}

func TestSnapshotLaws(t *testing.T) { hold(t, snapshotLaws) }

// TestDamagedSnapshot damages a snapshot in each way: nothing is made of it.
func TestDamagedSnapshot(t *testing.T) {
	for _, d := range damages("base", "raw", "devices", "delta") {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l := newLife(t)
			sb := l.create(smolvm.Spec{})
			l.counted(sb, 1)
			l.snapshot(sb, "s")
			d.do(l, filepath.Join(l.Home, "snapshots/s"))
			_, createErr := l.Create(l.ctx, smolvm.Spec{FromSnapshot: "s"})
			_, getErr := l.GetSnapshot(l.ctx, "s")
			saveErr := l.SaveSnapshot(l.ctx, "s", io.Discard)
			for _, err := range []error{createErr, getErr, saveErr} {
				l.refused(err, smolvm.ErrDenied, seal.CodeAltered, "do not use it", "not as it was saved")
			}
			if list, err := l.List(l.ctx, smolvm.ListOptions{}); err != nil || len(list) != 1 {
				t.Errorf("%v, %v", list, err)
			}
			l.ok(l.RemoveSnapshot(l.ctx, "s"))
			l.has()
		})
	}
}
