package manager_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

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
