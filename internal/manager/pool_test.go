package manager_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/testenv"
)

// pool sets a pool and waits until it is full.
func (l *life) pool(p smolvm.Pool) {
	l.Helper()
	_, err := l.SetPool(l.ctx, p)
	l.ok(err)
	l.full(p.Size)
}

// full waits until so many wait in the only pool.
func (l *life) full(n int) {
	l.Helper()
	l.eventually("the pool is full", func() bool {
		list, err := l.Pools(l.ctx)
		if err != nil || len(list) != 1 {
			l.Fatalf("%v, %v", list, err)
		}
		// The keeper may not have noticed an end yet.
		members, _ := filepath.Glob(filepath.Join(l.Home, "pools/*/*"))
		members = slices.DeleteFunc(members, func(path string) bool {
			return !store.Locked(filepath.Join(l.Home, "sandboxes", filepath.Base(path), "lock"))
		})
		return list[0].Ready == n && len(members) == n
	})
}

// claimed creates a sandbox and checks that it comes from the pool.
func (l *life) claimed(s smolvm.Spec) *smolvm.Sandbox {
	l.Helper()
	sb := l.create(s)
	l.madeOf(sb, "pool")
	return sb
}

// nobody waits until there is no sandbox but who waits: one that is spent goes a
// moment after its client was told.
func (l *life) nobody() {
	l.Helper()
	l.eventually("it leaves nothing", func() bool {
		list, err := l.List(l.ctx, smolvm.ListOptions{})
		return err == nil && len(list) == 0
	})
	l.alone()
}

// kinds are the processes of one errand.
func (l *life) kinds(errand string) []testenv.Process {
	return slices.DeleteFunc(testenv.Processes(l.Home), func(p testenv.Process) bool { return !slices.Contains(p.Args, errand) })
}

func (l *life) killEach(list []testenv.Process) {
	l.Helper()
	if len(list) == 0 {
		l.Fatal("there is nobody to kill")
	}
	for _, p := range list {
		syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

var poolLaws = []law{
	{"fill, claim, fill again, drain", func(l *life) {
		p, err := l.SetPool(l.ctx, smolvm.Pool{Size: 2})
		if err != nil || p.Image != "base" || p.CPUs != api.DefaultCPUs || p.MemoryMiB != api.DefaultMemoryMiB || p.Size != 2 || p.KeeperPID == 0 {
			l.Fatalf("%+v, %v", p, err)
		}
		l.full(2)
		l.alone() // who waits is not listed
		sb := l.claimed(smolvm.Spec{Name: "web", Env: map[string]string{"A": "1"}, Labels: map[string]string{"k": "v"}})
		info := l.is(sb, api.StateRunning, "")
		if info.Name != "web" || info.Labels["k"] != "v" || info.Started.IsZero() || info.SupervisorPID == 0 || info.Timings.TotalMS <= 0 {
			l.Errorf("%+v", info)
		}
		l.says(sb, "echo $A", "1")
		l.counted(sb, 1)
		if got, err := l.Get(l.ctx, "web"); err != nil || got.ID() != sb.ID() {
			l.Errorf("%v", err)
		}
		l.full(2)
		drained, err := l.DrainPools(l.ctx, "")
		if err != nil || len(drained) != 1 || drained[0].Size != 2 {
			l.Errorf("%+v, %v", drained, err)
		}
		l.eventually("keeper and members are gone", func() bool { return len(testenv.Processes(l.Home)) == 1 })
		if list, err := l.Pools(l.ctx); err != nil || len(list) != 0 {
			l.Errorf("%v, %v", list, err)
		}
		l.counted(sb, 2) // who was taken lives on
		l.madeOf(l.create(smolvm.Spec{}), "template")
	}},
	{"who is taken is as any other", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		sb := l.claimed(smolvm.Spec{})
		l.ok(sb.Pause(l.ctx))
		l.ok(sb.Resume(l.ctx))
		l.counted(sb, 1)
		l.counted(l.fork(sb, smolvm.ForkOptions{})[0], 2)
		l.checkpoint(sb, "s")
		l.hibernate(sb)
		l.counted(sb, 2)
		l.ok(sb.Rewind(l.ctx, 0))
		l.counted(sb, 2)
		l.ok(sb.Rename(l.ctx, "other"))
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.ok(sb.Start(l.ctx))
		l.counted(sb, 1)
	}},
	{"times begin when it is taken", func(l *life) {
		l.pool(smolvm.Pool{Size: 2})
		time.Sleep(time.Second) // no event: it only has to wait
		sb := l.claimed(smolvm.Spec{TTLSeconds: 2})
		if info := l.is(sb, api.StateRunning, ""); time.Until(info.Expires) < time.Second {
			l.Errorf("it expires in %v", time.Until(info.Expires))
		}
		idle := l.claimed(smolvm.Spec{IdleTimeoutSeconds: 0.5, IdleAction: api.IdleHibernate})
		if _, err := idle.Wait(l.ctx); err != nil {
			l.Error(err)
		}
		l.is(idle, api.StateHibernated, "idle timeout")
		l.gone(sb)
	}},
	{"of many who claim each gets another", func(l *life) {
		l.pool(smolvm.Pool{Size: 4})
		var mu sync.Mutex
		var wg sync.WaitGroup
		ids, pooled := map[string]bool{}, 0
		for range 10 {
			wg.Go(func() {
				sb, err := l.Create(l.ctx, smolvm.Spec{})
				if err != nil {
					l.Error(err)
					return
				}
				info := l.is(sb, api.StateRunning, "")
				l.counted(sb, 1)
				mu.Lock()
				defer mu.Unlock()
				if ids[sb.ID()] {
					l.Errorf("%s served twice", sb.ID())
				}
				ids[sb.ID()] = true
				if info.Origin == "pool" {
					pooled++
				}
			})
		}
		wg.Wait()
		if len(ids) != 10 || pooled < 4 {
			l.Errorf("%d sandboxes, %d from the pool", len(ids), pooled)
		}
	}},
	{"only what fits is taken", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		l.snapshot(l.create(smolvm.Spec{MemoryMiB: 256}), "s")
		for _, s := range []smolvm.Spec{{MemoryMiB: 256}, {CPUs: 2}, {Image: "other"}, {DiskMiB: 512}, {Accel: api.AccelTCG}} {
			l.madeOf(l.create(s), "template")
		}
		l.madeOf(l.create(smolvm.Spec{NoTemplate: true}), "boot")
		l.madeOf(l.create(smolvm.Spec{FromSnapshot: "s"}), "snapshot s")
		l.claimed(smolvm.Spec{})
	}},
	{"a taken name", func(l *life) {
		other := l.create(smolvm.Spec{Name: "web", MemoryMiB: 256})
		l.pool(smolvm.Pool{Size: 1})
		for range 3 {
			_, err := l.Create(l.ctx, smolvm.Spec{Name: "web"})
			l.refused(err, smolvm.ErrConflict, "", "smolvm rm web", `name "web" is taken`)
		}
		l.alone(other)
		l.claimed(smolvm.Spec{Name: "web2"}) // the member was not spent
	}},
	{"many claim one name", func(l *life) {
		l.pool(smolvm.Pool{Size: 3})
		var mu sync.Mutex
		var wg sync.WaitGroup
		won := 0
		for range 5 {
			wg.Go(func() {
				_, err := l.Create(l.ctx, smolvm.Spec{Name: "web"})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else {
					l.fails(err, smolvm.ErrConflict, "taken")
				}
			})
		}
		wg.Wait()
		if won != 1 {
			l.Errorf("%d have the name", won)
		}
		l.full(3)
		for range 3 {
			l.claimed(smolvm.Spec{})
		}
	}},
	{"an ephemeral one ends with its client", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		for _, how := range []string{"end", "kill"} {
			cmd, in, id := startClient(l)
			sb, err := l.Get(l.ctx, id)
			l.ok(err)
			l.madeOf(sb, "pool")
			if how == "end" {
				in.Close()
			} else {
				cmd.Process.Kill()
			}
			cmd.Wait()
			l.gone(sb)
			l.full(1)
		}
	}},
	{"an ephemeral one lives as long as its program", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		id := l.claimed(smolvm.Spec{Ephemeral: true}).ID()
		for range 5 {
			runtime.GC() // of the handle, which nobody has any more
		}
		sb, err := l.Get(l.ctx, id)
		l.ok(err)
		l.says(sb, "sleep 0.2; echo alive", "alive")
	}},
	{"a client that gives up", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		for i := range 15 {
			ctx, cancel := context.WithCancel(l.ctx)
			time.AfterFunc(time.Duration(i)*time.Millisecond, cancel)
			sb, err := l.Create(ctx, smolvm.Spec{Name: "web"})
			cancel()
			if err == nil {
				l.is(sb, api.StateRunning, "")
				l.ok(sb.Remove(l.ctx))
			} else {
				l.nobody()
			}
			l.full(1)
			l.nobody()
		}
		l.claimed(smolvm.Spec{}) // and the pool serves on
	}},
	{"a client that is killed while it takes", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		os.Remove(filepath.Join(l.Home, "reached"))
		l.faults("stall setup")
		cmd, _ := l.startCreate()
		l.reached()
		cmd.Process.Kill()
		cmd.Wait()
		l.faults()
		l.nobody()
		l.full(1)
		l.claimed(smolvm.Spec{})
	}},
	{"a claim that fails in the middle spends the member", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		l.faults("fail setup")
		_, err := l.Create(l.ctx, smolvm.Spec{Name: "web"}) // nor can another be made
		if err == nil {
			l.Fatal("it was created")
		}
		l.faults()
		l.nobody()
		l.full(1)
		l.claimed(smolvm.Spec{Name: "web"})
	}},
	{"the keeper is killed", func(l *life) {
		l.pool(smolvm.Pool{Size: 2})
		taken := l.claimed(smolvm.Spec{})
		l.full(2)
		l.killEach(l.kinds("keep"))
		l.eventually("its members end", func() bool { return len(testenv.Processes(l.Home)) == 1 })
		l.counted(taken, 1)
		l.alone(taken)
		l.madeOf(l.create(smolvm.Spec{}), "template")
		l.full(2) // whoever asks starts another
		l.claimed(smolvm.Spec{})
	}},
	{"the keeper is killed while it makes one", func(l *life) {
		for _, fault := range []string{"stall load", "stall setup"} {
			l.ok(errOf(l.BuildTemplate(l.ctx, smolvm.Spec{})))
			os.Remove(filepath.Join(l.Home, "reached"))
			l.faults(fault)
			l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 1})))
			l.reached()
			l.killEach(l.kinds("keep"))
			l.eventually("the member ends", func() bool { return len(testenv.Processes(l.Home)) == 0 })
			l.faults()
			l.ok(errOf(l.GC(l.ctx, false)))
			l.alone()
			l.full(1)
			l.ok(l.claimed(smolvm.Spec{}).Remove(l.ctx))
			l.ok(errOf(l.DrainPools(l.ctx, "")))
		}
	}},
	{"a member is killed", func(l *life) {
		l.pool(smolvm.Pool{Size: 2})
		l.killEach(l.kinds("member")[:1])
		l.alone() // not even for a moment is it somebody's
		l.full(2)
		for range 2 {
			l.claimed(smolvm.Spec{})
		}
	}},
	{"all members are killed", func(l *life) {
		l.pool(smolvm.Pool{Size: 2})
		l.killEach(l.kinds("member"))
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.full(2)
		l.alone(sb)
		if dirs, _ := filepath.Glob(filepath.Join(l.Home, "sandboxes/*")); len(dirs) != 3 {
			l.Errorf("%v", dirs)
		}
		members, _ := filepath.Glob(filepath.Join(l.Home, "pools/*/*"))
		if len(members) != 2 {
			l.Errorf("%v", members)
		}
	}},
	{"a member is killed while it is taken", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		os.Remove(filepath.Join(l.Home, "reached"))
		l.faults("stall setup")
		made := async(func() error { _, err := l.Create(l.ctx, smolvm.Spec{Name: "web"}); return err })
		l.reached()
		l.killEach(l.kinds("member")[:1])
		l.faults()
		l.ok(<-made) // it gets another
		l.full(1)
		sb, err := l.Get(l.ctx, "web")
		l.ok(err)
		l.counted(sb, 1)
		l.alone(sb)
	}},
	{"sizes change", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		l.pool(smolvm.Pool{Size: 3})
		l.pool(smolvm.Pool{Size: 1})
		l.eventually("the others end", func() bool { return len(l.kinds("member")) == 1 })
		l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 0})))
		l.eventually("all end", func() bool { return len(testenv.Processes(l.Home)) == 0 })
		if list, err := l.Pools(l.ctx); err != nil || len(list) != 0 {
			l.Errorf("%v, %v", list, err)
		}
		for _, p := range []smolvm.Pool{{Size: -1}, {Size: api.MaxPool + 1}, {Size: 1, CPUs: 1000}} {
			l.fails(errOf(l.SetPool(l.ctx, p)), smolvm.ErrInvalid)
		}
	}},
	{"a size that shrinks while one is made", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		os.Remove(filepath.Join(l.Home, "reached"))
		l.faults("stall load")
		l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 2})))
		l.reached()
		l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 1})))
		l.faults()
		l.eventually("one is too many", func() bool { return len(l.kinds("member")) == 1 })
		l.full(1)
	}},
	{"several pools", func(l *life) {
		l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 1})))
		l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 1, MemoryMiB: 256})))
		l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 1, Image: "other"})))
		ready := func() bool {
			list, err := l.Pools(l.ctx)
			l.ok(err)
			n := 0
			for _, p := range list {
				n += p.Ready
			}
			return len(list) == n
		}
		l.eventually("all are full", ready)
		l.claimed(smolvm.Spec{MemoryMiB: 256})
		l.claimed(smolvm.Spec{Image: "other"})
		drained, err := l.DrainPools(l.ctx, "base")
		if err != nil || len(drained) != 2 {
			l.Errorf("%v, %v", drained, err)
		}
		l.full(1)
		l.madeOf(l.create(smolvm.Spec{}), "template")
		l.claimed(smolvm.Spec{Image: "other"})
	}},
	{"drain while one is made", func(l *life) {
		l.ok(errOf(l.BuildTemplate(l.ctx, smolvm.Spec{})))
		l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 3})))
		l.ok(errOf(l.DrainPools(l.ctx, "")))
		l.eventually("nobody is left", func() bool { return len(testenv.Processes(l.Home)) == 0 })
		l.alone()
	}},
	{"the image was replaced", func(l *life) {
		l.pool(smolvm.Pool{Size: 2})
		l.faults("other image")
		sb := l.create(smolvm.Spec{})
		if info := l.is(sb, api.StateRunning, ""); info.ImageID != "sha256:base-2" {
			l.Errorf("%+v", info)
		}
		l.eventually("new members come", func() bool {
			sb := l.create(smolvm.Spec{})
			info := l.is(sb, api.StateRunning, "")
			if info.ImageID != "sha256:base-2" {
				l.Errorf("%+v", info)
			}
			l.ok(sb.Remove(l.ctx))
			return info.Origin == "pool"
		})
	}},
	{"a member that cannot be made is told of", func(l *life) {
		l.faults("fail disk")
		l.ok(errOf(l.SetPool(l.ctx, smolvm.Pool{Size: 1})))
		l.eventually("the error shows", func() bool {
			list, err := l.Pools(l.ctx)
			return err == nil && len(list) == 1 && strings.Contains(list[0].Error, "told to fail disk")
		})
		l.faults()
		l.full(1) // after a rest
		if list, err := l.Pools(l.ctx); err != nil || list[0].Error != "" {
			l.Errorf("%+v, %v", list, err)
		}
	}},
	{"gc disturbs nobody", func(l *life) {
		l.pool(smolvm.Pool{Size: 2})
		if c, err := l.GC(l.ctx, false); err != nil || len(c.Sandboxes)+len(c.Names)+len(c.Temporary) > 0 {
			l.Errorf("%+v, %v", c, err)
		}
		l.claimed(smolvm.Spec{})
	}},
	{"what is left of a keeper and its members", func(l *life) {
		l.pool(smolvm.Pool{Size: 2})
		l.killAll()
		if list, err := l.List(l.ctx, smolvm.ListOptions{}); err != nil || len(list) > 0 {
			l.Errorf("%v, %v", list, err)
		}
		sb := l.create(smolvm.Spec{})
		l.madeOf(sb, "template")
		l.ok(errOf(l.GC(l.ctx, false)))
		l.alone(sb)
		if dirs, _ := filepath.Glob(filepath.Join(l.Home, "sandboxes/*")); len(dirs) != 1 {
			l.Errorf("%v", dirs)
		}
		l.full(2)
		l.claimed(smolvm.Spec{})
	}},
}

func errOf[T any](_ T, err error) error { return err }

func TestPoolLaws(t *testing.T) { hold(t, poolLaws) }
