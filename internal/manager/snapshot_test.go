package manager_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/point"
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

var hibernateLaws = []law{
	{"start continues", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.says(sb, "put old", "<nil>")
		for i := range 3 {
			l.counted(sb, 2*i+1)
			l.hibernate(sb)
			info := l.is(sb, api.StateHibernated, "hibernated by its user")
			if info.VMMPID != 0 || info.SupervisorPID != 0 || info.Name != "web" {
				l.Errorf("%+v", info)
			}
			l.ok(sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true})) // it does already
			l.ok(sb.Start(l.ctx))
			l.counted(sb, 2*i+2)
			l.says(sb, "got", "old")
		}
	}},
	{"exec wakes", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.hibernate(sb)
		l.counted(sb, 2)
		l.is(sb, api.StateRunning, "")
	}},
	{"many execs wake it once", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for range 3 {
			l.hibernate(sb)
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					if r, err := sb.Run(l.ctx, smolvm.ShellCommand("echo up")); err != nil || string(r.Stdout) != "up\n" {
						l.Errorf("%+v, %v", r, err)
					}
				})
			}
			wg.Wait()
		}
	}},
	{"it is itself when it wakes", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.hibernate(sb)
		r, err := sb.Run(l.ctx, smolvm.Command{Argv: []string{"who"}})
		l.ok(err)
		who := strings.Fields(string(r.Stdout))
		if len(who) != 5 || who[0] != "web" || who[1] != "machine=" || len(who[2]) < 64 || who[3] != "resumed=true" || who[4] != "copy=false" {
			l.Errorf("it was told %q", who)
		}
	}},
	{"stop drops the memory and keeps the disk", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.says(sb, "put kept", "<nil>")
		l.hibernate(sb)
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.is(sb, api.StateStopped, "stopped by its user")
		l.ok(sb.Start(l.ctx))
		l.counted(sb, 1)
		l.says(sb, "got", "kept")
	}},
	{"rm of one that hibernates", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.hibernate(sb)
		l.ok(sb.Remove(l.ctx))
		l.gone(sb)
		l.create(smolvm.Spec{Name: "web"})
	}},
	{"paused hibernates", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.ok(sb.Pause(l.ctx))
		l.hibernate(sb)
		l.counted(sb, 2)
	}},
	{"calls on one that hibernates", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web", Env: map[string]string{"A": "1"}})
		l.hibernate(sb)
		for _, err := range []error{sb.Pause(l.ctx), sb.Resume(l.ctx)} {
			l.refused(err, smolvm.ErrUnavailable, "not_running", "smolvm start web", `sandbox "web" is hibernated`)
		}
		l.ok(sb.Rename(l.ctx, "web2"))
		_, err := sb.ChangeEnv(l.ctx, api.EnvChange{Set: map[string]string{"A": "2"}})
		l.ok(err)
		l.says(sb, "echo $A", "2")
		l.is(sb, api.StateRunning, "")
	}},
	{"one that does not run", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.refused(sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true}), smolvm.ErrConflict, "not_running", "smolvm start web", "stopped")
	}},
	{"ephemeral does not hibernate", func(l *life) {
		sb := l.create(smolvm.Spec{Ephemeral: true})
		l.fails(sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true}), smolvm.ErrInvalid, "ephemeral")
		l.is(sb, api.StateRunning, "")
		_, err := l.Create(l.ctx, smolvm.Spec{Ephemeral: true, IdleAction: api.IdleHibernate})
		l.fails(err, smolvm.ErrInvalid, "ephemeral")
	}},
	{"idle action hibernate", func(l *life) {
		sb := l.create(smolvm.Spec{IdleTimeoutSeconds: 0.3, IdleAction: api.IdleHibernate})
		l.counted(sb, 1)
		info, err := sb.Wait(l.ctx)
		if err != nil || info.State != api.StateHibernated || info.Reason != "idle timeout" {
			l.Errorf("%+v, %v", info, err)
		}
		l.counted(sb, 2)
		_, err = sb.Wait(l.ctx) // and the time begins anew
		l.ok(err)
		l.is(sb, api.StateHibernated, "idle timeout")
	}},
	{"a failing save keeps it running", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.counted(sb, 1)
		for i, fault := range []string{"save", "region", "overlay", "layer"} {
			l.says(sb, "put something", "<nil>") // else there is no layer to make
			l.faults("fail " + fault)
			l.fails(sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true}), smolvm.ErrInternal, `hibernate sandbox "web"`, "told to fail "+fault)
			l.faults()
			l.is(sb, api.StateRunning, "")
			start := time.Now()
			l.says(sb, "echo up", "up") // its processes run, and new ones may be started
			if d := time.Since(start); d > 5*time.Second {
				l.Errorf("%s: the guest stood still for %v", fault, d)
			}
			l.counted(sb, i+2)
		}
		l.hibernate(sb)
		l.counted(sb, 6)
	}},
	{"a manifest that cannot be written keeps it running", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.ok(os.MkdirAll(l.path(sb, "hibernated.json/x"), 0o700))
		if err := sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true}); err == nil {
			l.Fatal("it hibernated")
		}
		l.ok(os.RemoveAll(l.path(sb, "hibernated.json")))
		start := time.Now()
		l.says(sb, "echo up", "up")
		l.counted(sb, 2)
		if d := time.Since(start); d > 5*time.Second {
			l.Errorf("the guest stood still for %v", d)
		}
		l.hibernate(sb)
		l.counted(sb, 3)
	}},
	{"idle hibernate that fails is tried again", func(l *life) {
		l.faults("fail save", "no template") // of this VM, not of a template
		sb := l.create(smolvm.Spec{NoTemplate: true, IdleTimeoutSeconds: 0.2, IdleAction: api.IdleHibernate})
		time.Sleep(600 * time.Millisecond) // no event: nothing may happen
		l.is(sb, api.StateRunning, "")
		l.faults()
		_, err := sb.Wait(l.ctx)
		l.ok(err)
		l.is(sb, api.StateHibernated, "")
	}},
	{"a failing restore can be tried again", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.counted(sb, 1)
		l.hibernate(sb)
		for _, fault := range []string{"fail load", "fail start", "fail overlay", "panic at boot", "fail setup"} {
			l.faults(fault)
			err := sb.Start(l.ctx)
			if err == nil {
				l.Fatalf("%s: it started", fault)
			}
			l.is(sb, api.StateHibernated, "")
			l.faults()
		}
		l.counted(sb, 2)
	}},
	{"memory of another VMM is refused, the disk is usable", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.counted(sb, 1)
		l.says(sb, "put kept", "<nil>")
		l.hibernate(sb)
		l.faults("other VMM")
		err := sb.Start(l.ctx)
		l.refused(err, smolvm.ErrUnavailable, "foreign_memory", "disk", "another VMM")
		l.is(sb, api.StateHibernated, "")
		_, err = sb.Run(l.ctx, smolvm.ShellCommand("true"))
		l.refused(err, smolvm.ErrUnavailable, "foreign_memory", "disk", "another VMM")
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.ok(sb.Start(l.ctx))
		l.says(sb, "got", "kept")
		l.counted(sb, 1)
	}},
	{"killed while it hibernates", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.says(sb, "put kept", "<nil>")
		os.Remove(filepath.Join(l.Home, "reached"))
		l.faults("stall save")
		stopped := async(func() error { return sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true}) })
		l.reached()
		l.kill(sb)
		l.faults()
		if err := <-stopped; err == nil {
			l.Error("it is said to hibernate")
		}
		l.is(sb, api.StateError, "died")
		l.ok(sb.Start(l.ctx))
		l.says(sb, "got", "kept")
		l.counted(sb, 1) // what was in memory is lost, as with each death
	}},
	{"killed while it wakes", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for i, fault := range []string{"stall load", "stall dial", "stall setup"} {
			l.counted(sb, i+1)
			l.hibernate(sb)
			os.Remove(filepath.Join(l.Home, "reached"))
			l.faults(fault)
			started := async(func() error { return sb.Start(l.ctx) })
			l.reached()
			l.kill(sb)
			l.fails(<-started, smolvm.ErrInternal, "supervisor died")
			l.faults()
			// Its memory is as good as before.
			l.is(sb, api.StateHibernated, "")
		}
		l.counted(sb, 4)
	}},
	{"time to live while it hibernates", func(l *life) {
		sb := l.create(smolvm.Spec{TTLSeconds: 1.5})
		l.hibernate(sb)
		l.gone(sb)
	}},
	{"gc keeps it", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.hibernate(sb)
		if c, err := l.GC(l.ctx, false); err != nil || len(c.Sandboxes)+len(c.Temporary) > 0 {
			l.Errorf("%+v, %v", c, err)
		}
		l.counted(sb, 1)
	}},
	{"its files do not pile up", func(l *life) {
		sb := l.create(smolvm.Spec{})
		parts := 0
		for i := range 6 {
			l.counted(sb, i+1)
			l.hibernate(sb)
			l.ok(sb.Start(l.ctx))
			list, _ := filepath.Glob(l.path(sb, "parts/*"))
			devices, _ := filepath.Glob(l.path(sb, "parts/devices-*"))
			deltas, _ := filepath.Glob(l.path(sb, "parts/delta-*"))
			if len(devices) != 0 || len(deltas) > 1 {
				l.Errorf("round %d: %v", i, list)
			}
			parts = len(list)
		}
		if parts > 12 {
			l.Errorf("%d parts", parts)
		}
	}},
}

func TestHibernateLaws(t *testing.T) { hold(t, hibernateLaws) }

// TestDamagedHibernation damages what a sandbox hibernated as: it is not continued,
// and says what can be done.
func TestDamagedHibernation(t *testing.T) {
	for _, d := range damages("base", "raw", "devices", "delta") {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l := newLife(t)
			sb := l.create(smolvm.Spec{Name: "web"})
			l.counted(sb, 1)
			l.hibernate(sb)
			l.ok(os.Link(l.path(sb, "hibernated.json"), l.path(sb, "point.json"))) // the name that d knows
			d.do(l, l.path(sb, ""))
			l.ok(os.Remove(l.path(sb, "point.json")))
			err := sb.Start(l.ctx)
			l.refused(err, smolvm.ErrDenied, seal.CodeAltered, "smolvm stop", "start sandbox", "not as it was saved")
			l.is(sb, api.StateHibernated, "")
			_, err = sb.Fork(l.ctx, smolvm.ForkOptions{})
			l.fails(err, smolvm.ErrDenied)
			l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
			l.is(sb, api.StateStopped, "")
		})
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
		var won, lost int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "s"})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else if errors.Is(err, smolvm.ErrConflict) {
					lost++
				} else {
					l.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 || lost != 4 {
			l.Errorf("%d won, %d lost", won, lost)
		}
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

// carried is a snapshot as a file, and what vouches for it.
type carried struct {
	file   []byte
	digest string
	key    seal.Key
}

// carry makes a snapshot in a home of its own and returns it as a file.
func carry(l *life, diskOnly bool) carried {
	l.Helper()
	sb := l.create(smolvm.Spec{})
	l.counted(sb, 1)
	l.says(sb, "put saved", "<nil>")
	s, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "carried", DiskOnly: diskOnly})
	l.ok(err)
	l.ok(sb.Remove(l.ctx))
	var file bytes.Buffer
	l.ok(l.SaveSnapshot(l.ctx, "carried", &file))
	key, err := seal.OpenKey(filepath.Join(l.Home, "key"))
	l.ok(err)
	return carried{file.Bytes(), s.Digest, key}
}

func (l *life) load(file []byte, o smolvm.LoadSnapshot) (smolvm.Snapshot, error) {
	return l.LoadSnapshot(l.ctx, bytes.NewReader(file), o)
}

var carryLaws = []law{
	{"to the same installation", func(l *life) {
		c := carry(l, false)
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		s, err := l.load(c.file, smolvm.LoadSnapshot{Name: "again"})
		if err != nil || s.Name != "again" || s.Kind != api.SnapshotFull || s.Digest != c.digest {
			l.Fatalf("%+v, %v", s, err)
		}
		child := l.create(smolvm.Spec{FromSnapshot: "again"})
		l.counted(child, 2)
		l.says(child, "got", "saved")
		var file bytes.Buffer
		l.ok(l.SaveSnapshot(l.ctx, "again", &file))
		if s, err := l.load(file.Bytes(), smolvm.LoadSnapshot{Name: "third"}); err != nil || s.Digest != c.digest {
			l.Errorf("%+v, %v", s, err)
		}
	}},
	{"to another installation", func(l *life) {
		c := carry(newLife(l.T), false)
		_, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s"})
		l.refused(err, smolvm.ErrDenied, seal.CodeAltered, "--digest sha256:", "another installation")
		for _, digest := range []string{"sha256:" + strings.Repeat("0", 64), "x", c.digest[:len(c.digest)-1]} {
			_, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s", Digest: digest})
			l.refused(err, smolvm.ErrDenied, seal.CodeAltered, "do not use", "another digest")
		}
		l.has()
		s, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s", Digest: c.digest})
		if err != nil || s.Digest != c.digest {
			l.Fatalf("%+v, %v", s, err)
		}
		child := l.create(smolvm.Spec{FromSnapshot: "s"})
		l.counted(child, 2)
		l.says(child, "got", "saved")
	}},
	{"the disk alone", func(l *life) {
		c := carry(l, true)
		s, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s"})
		if err != nil || s.Kind != api.SnapshotDisk || s.Digest != c.digest {
			l.Errorf("%+v, %v", s, err)
		}
		l.says(l.create(smolvm.Spec{FromSnapshot: "s"}), "got", "saved")
	}},
	{"a full one of which the disk alone is taken", func(l *life) {
		c := carry(newLife(l.T), false)
		_, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s", DiskOnly: true})
		l.fails(err, smolvm.ErrDenied)
		s, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s", DiskOnly: true, Digest: c.digest})
		if err != nil || s.Kind != api.SnapshotDisk {
			l.Fatalf("%+v, %v", s, err)
		}
		l.faults("other VMM")
		child := l.create(smolvm.Spec{FromSnapshot: "s"})
		l.says(child, "got", "saved")
		l.counted(child, 1)
		if parts, _ := filepath.Glob(filepath.Join(l.Home, "snapshots/s/parts/[^rl]*")); len(parts) > 0 {
			l.Errorf("memory was taken in: %v", parts)
		}
	}},
	{"a name that is taken", func(l *life) {
		c := carry(l, false)
		_, err := l.load(c.file, smolvm.LoadSnapshot{Name: "carried"})
		l.refused(err, smolvm.ErrConflict, "", "smolvm snapshot rm carried", "taken")
		_, err = l.load(c.file, smolvm.LoadSnapshot{Name: "../x"})
		l.fails(err, smolvm.ErrInvalid)
		_, err = l.load(c.file, smolvm.LoadSnapshot{}) // under the name that it had
		l.refused(err, smolvm.ErrConflict, "", "smolvm snapshot rm carried", "taken")
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		s, err := l.load(c.file, smolvm.LoadSnapshot{})
		if err != nil || s.Name != "carried" {
			l.Errorf("%+v, %v", s, err)
		}
	}},
	{"what is no snapshot", func(l *life) {
		for name, text := range map[string]string{
			"nothing": "", "text": "hello", "zeros": strings.Repeat("\x00", 1<<16),
			"zstd of nothing": string(compress(l, nil)), "zstd of text": string(compress(l, []byte("hello"))),
			"another tar":  string(compress(l, tarOf(l, entry{name: "x", body: []byte("y")}))),
			"no manifest":  string(compress(l, tarOf(l, entry{name: "point.json", body: []byte("{}")}))),
			"big manifest": string(compress(l, tarOf(l, entry{name: "point.json", body: make([]byte, 5<<20)}))),
		} {
			_, err := l.load([]byte(text), smolvm.LoadSnapshot{Name: "s"})
			if !errors.Is(err, smolvm.ErrInvalid) && !errors.Is(err, smolvm.ErrDenied) || api.AsError(err).Recovery == "" {
				l.Errorf("%s: %v (next step %q)", name, err, api.AsError(err).Recovery)
			}
			l.has()
		}
	}},
	{"cut off anywhere", func(l *life) {
		c := carry(l, false)
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		for i := range 40 {
			n := len(c.file) * i / 40
			_, err := l.load(c.file[:n], smolvm.LoadSnapshot{Name: "s"})
			if err == nil {
				l.Fatalf("%d of %d bytes were enough", n, len(c.file))
			}
			if !errors.Is(err, smolvm.ErrInvalid) && !errors.Is(err, smolvm.ErrDenied) || api.AsError(err).Recovery == "" {
				l.Errorf("cut at %d: %v (next step %q)", n, err, api.AsError(err).Recovery)
			}
		}
		l.has()
	}},
	{"a bit flipped anywhere", func(l *life) {
		c := carry(l, false)
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		for i := range 200 {
			at := (len(c.file)*i/200*8 + i) % (len(c.file) * 8)
			bad := bytes.Clone(c.file)
			bad[at/8] ^= 1 << (at % 8)
			s, err := l.load(bad, smolvm.LoadSnapshot{Name: "s"})
			if err == nil {
				// Some bits mean nothing, such as those of a tar header's time.
				if s.Digest != c.digest {
					l.Errorf("bit %d: it became %s", at, s.Digest)
				}
				l.ok(l.RemoveSnapshot(l.ctx, "s"))
				continue
			}
			if !errors.Is(err, smolvm.ErrInvalid) && !errors.Is(err, smolvm.ErrDenied) {
				l.Errorf("bit %d: %v", at, err)
			}
		}
		l.has()
	}},
	{"cancelled while it is read", func(l *life) {
		c := carry(l, false)
		ctx, cancel := context.WithCancel(l.ctx)
		_, err := l.LoadSnapshot(ctx, io.MultiReader(bytes.NewReader(c.file[:len(c.file)/2]), readerFunc(func([]byte) (int, error) {
			cancel()
			return 0, nil
		})), smolvm.LoadSnapshot{Name: "s"})
		if !errors.Is(err, context.Canceled) {
			l.Errorf("%v", err)
		}
		l.has("carried")
	}},
	{"hostile files", func(l *life) {
		c := carry(l, false)
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		m, pieces := unpack(l, c)
		for name, f := range hostile(m, pieces) {
			bad, badPieces := clone(l, m), append([]entry(nil), pieces...)
			f(bad, &badPieces)
			// Signed by the right key even: the file's maker may be anybody once a digest vouches.
			for _, o := range []smolvm.LoadSnapshot{{Name: "s"}, {Name: "s", Digest: bad.Digest()}} {
				start := time.Now()
				_, err := l.load(pack(l, c.key, bad, badPieces), o)
				if err == nil {
					l.Errorf("%s: it was taken in", name)
					l.ok(l.RemoveSnapshot(l.ctx, "s"))
					continue
				}
				if errors.Is(err, smolvm.ErrInternal) {
					l.Errorf("%s: %v", name, err)
				}
				if d := time.Since(start); d > 5*time.Second {
					l.Errorf("%s: it took %v", name, d)
				}
				l.has()
			}
		}
		if _, err := os.Stat(filepath.Join(l.Home, "escaped")); err == nil {
			l.Error("a file was written outside")
		}
		if _, err := l.load(pack(l, c.key, m, pieces), smolvm.LoadSnapshot{Name: "s"}); err != nil {
			l.Errorf("the good one: %v", err) // what is above failed for the right reason
		}
	}},
}

func TestCarryLaws(t *testing.T) { hold(t, carryLaws) }

// hostile are changes of a carried snapshot that must be refused.
func hostile(good *point.Manifest, pieces []entry) map[string]func(*point.Manifest, *[]entry) {
	rename := func(m *point.Manifest, to string) {
		m.Parts[to] = m.Parts[m.Devices]
		delete(m.Parts, m.Devices)
		m.Devices = to
	}
	resize := func(m *point.Manifest, size int64) {
		p := m.Parts[m.Devices]
		p.Stamp.Size = size
		m.Parts[m.Devices] = p
	}
	list := map[string]func(*point.Manifest, *[]entry){
		"other version":  func(m *point.Manifest, _ *[]entry) { m.Version = 99 },
		"no disk":        func(m *point.Manifest, _ *[]entry) { m.Disk = nil },
		"no memory":      func(m *point.Manifest, _ *[]entry) { m.Memory = nil },
		"unknown part":   func(m *point.Manifest, _ *[]entry) { m.Disk = append(m.Disk, "layer-"+strings.Repeat("a", 26)) },
		"part of nobody": func(m *point.Manifest, _ *[]entry) { delete(m.Parts, m.Disk[0]) },
		"image outside":  func(m *point.Manifest, _ *[]entry) { m.Image.RootFS = "../../etc/passwd" },
		"image absolute": func(m *point.Manifest, _ *[]entry) { m.Image.RootFS = "/etc/passwd" },
		"image empty":    func(m *point.Manifest, _ *[]entry) { m.Image.RootFS = "" },
		"image a device": func(m *point.Manifest, _ *[]entry) { m.Image.RootFS = "images/../key" },
		"huge size":      func(m *point.Manifest, _ *[]entry) { resize(m, 1<<62) },
		"negative size":  func(m *point.Manifest, _ *[]entry) { resize(m, -1) },
		"large size":     func(m *point.Manifest, _ *[]entry) { resize(m, 1<<40) },
		"other size":     func(m *point.Manifest, _ *[]entry) { resize(m, 5) },
		"many parts": func(m *point.Manifest, _ *[]entry) {
			for i := range 5000 {
				name := fmt.Sprintf("layer-%026d", i)
				m.Disk = append(m.Disk, name)
				m.Parts[name] = m.Parts[m.Disk[0]]
			}
		},
		"one part twice": func(m *point.Manifest, _ *[]entry) { m.Disk = append(m.Disk, m.Disk[0]) },
		"pieces gone":    func(_ *point.Manifest, p *[]entry) { *p = nil },
	}
	for _, to := range []string{"../../../escaped", "/tmp/escaped", "devices", "devices-" + strings.Repeat("A", 26), ".", "devices-" + strings.Repeat("a", 27), "devices-../" + strings.Repeat("a", 23)} {
		list["name "+to] = func(m *point.Manifest, p *[]entry) {
			old := m.Devices
			rename(m, to)
			for i := range *p {
				if (*p)[i].name == old {
					(*p)[i].name = to
				}
			}
		}
	}
	for _, off := range []string{"-1", "9223372036854775807", "99999999999999999999", "x", "", "1048576"} {
		list["piece at "+off] = func(m *point.Manifest, p *[]entry) {
			for i := range *p {
				if (*p)[i].name == m.Devices {
					(*p)[i].off = off
				}
			}
		}
	}
	list["large piece"] = func(m *point.Manifest, p *[]entry) {
		resize(m, 4<<20)
		*p = append(*p, entry{name: m.Devices, body: bytes.Repeat([]byte("x"), 2<<20), off: "0"})
	}
	list["other bytes"] = func(m *point.Manifest, p *[]entry) {
		for i := range *p {
			if (*p)[i].name == m.Devices {
				(*p)[i].body = bytes.Repeat([]byte("x"), len((*p)[i].body))
			}
		}
	}
	return list
}

// entry is a piece of a carried snapshot.
type entry struct {
	name, off string
	body      []byte
}

func tarOf(l *life, entries ...entry) []byte {
	l.Helper()
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, e := range entries {
		h := tar.Header{Name: e.name, Mode: 0o600, Size: int64(len(e.body)), Format: tar.FormatPAX}
		if e.off != "" {
			h.PAXRecords = map[string]string{"SMOLVM.offset": e.off}
		}
		l.ok(t.WriteHeader(&h))
		_, err := t.Write(e.body)
		l.ok(err)
	}
	l.ok(t.Close())
	return b.Bytes()
}

func compress(l *life, b []byte) []byte {
	l.Helper()
	z, err := zstd.NewWriter(nil)
	l.ok(err)
	return z.EncodeAll(b, nil)
}

func unpack(l *life, c carried) (*point.Manifest, []entry) {
	l.Helper()
	z, err := zstd.NewReader(bytes.NewReader(c.file))
	l.ok(err)
	defer z.Close()
	t := tar.NewReader(z)
	var list []entry
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		l.ok(err)
		b, err := io.ReadAll(t)
		l.ok(err)
		list = append(list, entry{h.Name, h.PAXRecords["SMOLVM.offset"], b})
	}
	doc, err := c.key.Open(list[0].body)
	l.ok(err)
	m := new(point.Manifest)
	l.ok(json.Unmarshal(doc, m))
	return m, list[1:]
}

func clone(l *life, m *point.Manifest) *point.Manifest {
	b, err := json.Marshal(m)
	l.ok(err)
	c := new(point.Manifest)
	l.ok(json.Unmarshal(b, c))
	return c
}

func pack(l *life, key seal.Key, m *point.Manifest, pieces []entry) []byte {
	l.Helper()
	doc, err := json.Marshal(m)
	l.ok(err)
	return compress(l, tarOf(l, append([]entry{{name: "point.json", body: key.Sign(doc)}}, pieces...)...))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
