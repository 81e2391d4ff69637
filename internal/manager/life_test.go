package manager_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv"
)

// law is what holds in the life of every sandbox. Each begins in an empty state
// directory, and when it is over nothing may be left.
type law struct {
	name string
	law  func(*life)
}

var laws = []law{
	{"whole life", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web", Env: map[string]string{"A": "1"}})
		info := l.is(sb, api.StateRunning, "")
		if info.Name != "web" || info.ImageID != "sha256:base" || info.Started.IsZero() || info.SupervisorPID == 0 {
			l.Errorf("%+v", info)
		}
		l.says(sb, "echo $A $FROM", "1 image")
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.is(sb, api.StateStopped, "stopped by its user")
		l.ok(sb.Start(l.ctx))
		l.says(sb, "echo again", "again")
		l.ok(sb.Remove(l.ctx))
		l.gone(sb)
		l.ok(sb.Remove(l.ctx))
	}},
	{"the image's command", func(l *life) {
		r, err := l.create(smolvm.Spec{}).Run(l.ctx, smolvm.Command{})
		if err != nil || string(r.Stdout) != "the image's command\n" {
			l.Errorf("%+v, %v", r, err)
		}
	}},
	{"found by id, name and prefix", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		for _, ref := range []string{sb.ID(), "web", sb.ID()[:4]} {
			if got, err := l.Get(l.ctx, ref); err != nil || got.ID() != sb.ID() {
				l.Errorf("get %q: %v", ref, err)
			}
		}
		for _, ref := range []string{"", "..", "../" + sb.ID(), "we", sb.ID()[:3], "WEB", strings.Repeat("a", 1<<20), "web\x00"} {
			_, err := l.Get(l.ctx, ref)
			l.fails(err, smolvm.ErrNotFound)
		}
	}},
	{"concurrent creates of one name", func(l *life) {
		l.oneWins(6, func() error {
			_, err := l.Create(l.ctx, smolvm.Spec{Name: "web"})
			return err
		})
	}},
	{"cancel during each step of create", func(l *life) {
		for _, step := range []string{"image", "disk", "kernel", "start", "dial"} {
			l.faults("stall " + step)
			ctx, cancel := context.WithCancel(l.ctx)
			err := async(func() error { _, err := l.Create(ctx, smolvm.Spec{}); return err })
			l.reached()
			cancel()
			l.fails(<-err, smolvm.ErrUnavailable, "create sandbox", "canceled")
			l.eventually("nothing lives", func() bool { return len(testenv.Processes(l.Home)) == 0 })
			os.Remove(filepath.Join(l.Home, "reached"))
			if got := testenv.Files(l.Home); !slices.Equal(got, []string{faultsFile}) {
				l.Errorf("after a cancel at %s: %v", step, got)
			}
		}
	}},
	{"deadline during create", func(l *life) {
		l.faults("stall dial")
		ctx, cancel := context.WithTimeout(l.ctx, 200*time.Millisecond)
		defer cancel()
		_, err := l.Create(ctx, smolvm.Spec{})
		l.fails(err, smolvm.ErrTimeout)
	}},
	{"failure of each step of create", func(l *life) {
		for _, step := range []string{"probe", "image", "disk", "kernel", "start"} {
			l.faults("fail " + step)
			_, err := l.Create(l.ctx, smolvm.Spec{Name: "web"})
			l.fails(err, smolvm.ErrInternal, "told to fail "+step)
			if got := testenv.Files(l.Home); !slices.Equal(got, []string{faultsFile}) && !slices.Equal(got, []string{faultsFile, "reached"}) {
				l.Errorf("after a failure of %s: %v", step, got)
			}
		}
	}},
	{"boot failure shows last words", func(l *life) {
		l.faults("panic at boot")
		_, err := l.Create(l.ctx, smolvm.Spec{})
		l.fails(err, smolvm.ErrUnavailable, "was reset by its guest", "kernel says:[31m no root")
	}},
	{"guest that powers off at boot", func(l *life) {
		l.faults("power off at boot")
		_, err := l.Create(l.ctx, smolvm.Spec{})
		l.fails(err, smolvm.ErrUnavailable, "powered off")
	}},
	{"failed start keeps the sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.faults("panic at boot")
		l.fails(sb.Start(l.ctx), smolvm.ErrUnavailable)
		l.is(sb, api.StateError, "was reset")
		if c, err := l.GC(l.ctx, false); err != nil || len(c.Sandboxes) > 0 {
			l.Errorf("gc removed %v, %v", c.Sandboxes, err)
		}
		l.faults()
		l.ok(sb.Start(l.ctx))
	}},
	{"start without the image's base", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		base := filepath.Join(l.Home, "images/base")
		l.ok(os.Rename(base, base+".away"))
		err := sb.Start(l.ctx)
		l.fails(err, smolvm.ErrUnavailable, `start sandbox "web"`, `image "base"`)
		if api.AsError(err).Recovery == "" {
			l.Error("no next step is given")
		}
		l.is(sb, api.StateError, "image")
		l.ok(os.Rename(base+".away", base))
		l.ok(sb.Start(l.ctx))
	}},
	{"agent lost and found", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.tell(sb, "hangup")
		l.eventually("it answers again", func() bool {
			r, err := sb.Run(l.ctx, smolvm.ShellCommand("echo back"))
			return err == nil && string(r.Stdout) == "back\n"
		})
		l.is(sb, api.StateRunning, "")
	}},
	{"agent that breaks off again and again", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for range 100 {
			l.tell(sb, "hangup")
			if info, err := sb.Info(l.ctx); err != nil || info.State == api.StateError {
				break
			}
		}
		l.eventually("it is given up", func() bool {
			info, err := sb.Info(l.ctx)
			return err == nil && info.State == api.StateError
		})
		l.is(sb, api.StateError, "guest agent")
	}},
	{"stop while the agent is lost", func(l *life) {
		l.faults("silent after boot")
		sb := l.create(smolvm.Spec{NoTemplate: true})
		l.tell(sb, "hangup")
		start := time.Now()
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}))
		if d := time.Since(start); d > 5*time.Second {
			l.Errorf("it took %v", d)
		}
		l.is(sb, api.StateStopped, "")
	}},
	{"stop during boot", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		os.Remove(filepath.Join(l.Home, "reached"))
		l.faults("stall dial")
		started := async(func() error { return sb.Start(l.ctx) })
		l.reached()
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.fails(<-started, smolvm.ErrUnavailable, "stopped while it came up")
		l.is(sb, api.StateStopped, "")
	}},
	{"stop at any moment of a boot", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for i := range 12 {
			l.ok(sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}))
			started := async(func() error { return sb.Start(l.ctx) })
			time.Sleep(time.Duration(i) * 5 * time.Millisecond) // no event: every moment is meant
			l.ok(sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}))
			if err := <-started; err != nil && !errors.Is(err, smolvm.ErrUnavailable) && !errors.Is(err, smolvm.ErrConflict) {
				l.Error(err)
			}
		}
	}},
	{"console is followed to its end", func(l *life) {
		sb := l.create(smolvm.Spec{})
		log := l.path(sb, "vm/console.log")
		l.ok(os.WriteFile(log, []byte("one\ntwo\n"), 0o600))
		var out bytes.Buffer
		followed := async(func() error {
			return sb.Console(l.ctx, &out, smolvm.ConsoleOptions{Tail: 1, Follow: true})
		})
		f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
		l.ok(err)
		defer f.Close()
		for range 100 {
			fmt.Fprintln(f, "more")
		}
		l.tell(sb, "poweroff")
		l.ok(<-followed)
		if got := out.String(); !strings.HasSuffix(got, "more\n") || strings.Contains(got, "one") || strings.Count(got, "more") > 100 {
			l.Errorf("%q", got)
		}
	}},
	{"stops race", func(l *life) {
		sb := l.create(smolvm.Spec{})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := sb.Stop(l.ctx, smolvm.StopOptions{}); err != nil {
					l.Error(err)
				}
			})
		}
		wg.Wait()
		l.is(sb, api.StateStopped, "")
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
	}},
	{"stop with a grace beyond all numbers", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: 1e300}))
		l.is(sb, api.StateStopped, "")
	}},
	{"starts race", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		var wg sync.WaitGroup
		var won sync.Map
		for i := range 4 {
			wg.Go(func() {
				err := sb.Start(l.ctx)
				if err == nil {
					won.Store(i, true)
				} else if !errors.Is(err, smolvm.ErrConflict) {
					l.Error(err)
				}
			})
		}
		wg.Wait()
		n := 0
		won.Range(func(any, any) bool { n++; return true })
		if n == 0 {
			l.Error("nobody started it")
		}
		l.is(sb, api.StateRunning, "")
	}},
	{"start right after each end", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for i := range 10 {
			l.tell(sb, "poweroff")
			if _, err := sb.Wait(l.ctx); err != nil {
				l.Fatal(i, err)
			}
			if err := sb.Start(l.ctx); err != nil {
				l.Fatal(i, err)
			}
		}
	}},
	{"onlookers disturb nobody", func(l *life) {
		sb := l.create(smolvm.Spec{})
		ctx, cancel := context.WithCancel(l.ctx)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for ctx.Err() == nil {
					sb.Info(ctx)
				}
			})
		}
		for i := range 15 {
			if err := sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}); err != nil {
				l.Error(i, err)
			}
			if _, err := sb.ChangeEnv(l.ctx, api.EnvChange{Set: map[string]string{"N": strconv.Itoa(i)}}); err != nil {
				l.Error(i, err)
			}
			if err := sb.Start(l.ctx); err != nil {
				l.Error(i, err)
			}
		}
		cancel()
		wg.Wait()
	}},
	{"remove while a command runs", func(l *life) {
		sb := l.create(smolvm.Spec{})
		p, err := sb.Exec(l.ctx, smolvm.ShellCommand("echo up; cat; sleep 60"))
		l.ok(err)
		ended := async(func() error { _, err := p.Wait(); return err })
		l.ok(sb.Remove(l.ctx))
		l.fails(<-ended, smolvm.ErrUnavailable)
		l.gone(sb)
	}},
	{"remove during a slow stop", func(l *life) {
		l.faults("stall shutdown")
		sb := l.create(smolvm.Spec{})
		stopped := async(func() error { return sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: 60}) })
		os.Remove(filepath.Join(l.Home, "reached"))
		l.reached()
		start := time.Now()
		l.ok(sb.Remove(l.ctx))
		if d := time.Since(start); d > 3*time.Second {
			l.Errorf("it took %v", d)
		}
		<-stopped
	}},
	{"remove a supervisor that hangs", func(l *life) {
		sb := l.create(smolvm.Spec{})
		info := l.is(sb, api.StateRunning, "")
		l.ok(syscall.Kill(info.SupervisorPID, syscall.SIGSTOP))
		list, err := l.List(l.ctx, smolvm.ListOptions{})
		if err != nil || len(list) != 1 {
			l.Errorf("list: %v, %v", list, err)
		}
		l.ok(sb.Remove(l.ctx))
		l.gone(sb)
	}},
	{"removes race", func(l *life) {
		sb := l.create(smolvm.Spec{})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := sb.Remove(l.ctx); err != nil {
					l.Error(err)
				}
			})
		}
		wg.Wait()
	}},
	{"renames race", func(l *life) {
		for _, running := range []bool{true, false} {
			sb := l.create(smolvm.Spec{})
			if !running {
				l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
			}
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					err := sb.Rename(l.ctx, fmt.Sprintf("name%d", i))
					if err != nil && (running || !errors.Is(err, smolvm.ErrConflict)) {
						l.Error(err)
					}
				})
			}
			wg.Wait()
			name := l.is(sb, map[bool]smolvm.State{true: api.StateRunning, false: api.StateStopped}[running], "").Name
			links, _ := filepath.Glob(filepath.Join(l.Home, "names/[a-z]*"))
			if len(links) != 1 || filepath.Base(links[0]) != name {
				l.Errorf("it is called %q, the names are %v", name, links)
			}
			l.ok(sb.Remove(l.ctx))
		}
	}},
	{"rename to a taken name", func(l *life) {
		one := l.create(smolvm.Spec{Name: "one"})
		two := l.create(smolvm.Spec{Name: "two"})
		l.fails(one.Rename(l.ctx, "two"), smolvm.ErrConflict, "taken")
		l.ok(two.Remove(l.ctx))
		l.ok(one.Rename(l.ctx, "two"))
		l.fails(one.Rename(l.ctx, "../x"), smolvm.ErrInvalid)
	}},
	{"environment of a stopped sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{Env: map[string]string{"A": "1"}})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		out, err := sb.ChangeEnv(l.ctx, api.EnvChange{Set: map[string]string{"B": "2"}, Unset: []string{"A", "C"}})
		if err != nil || !slices.Equal(out.Missing, []string{"C"}) {
			l.Errorf("%+v, %v", out, err)
		}
		l.ok(sb.Start(l.ctx))
		l.says(sb, "echo [$A$B]", "[2]")
	}},
	{"the largest environment", func(l *life) {
		// JSON writes each of these bytes as six.
		big := map[string]string{"A": strings.Repeat("<", api.MaxEnvBytes-10)}
		sb := l.create(smolvm.Spec{Env: big})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		if env, err := sb.Env(l.ctx); err != nil || env["A"] != big["A"] {
			l.Errorf("%d bytes came back, %v", len(env["A"]), err)
		}
		_, err := sb.ChangeEnv(l.ctx, api.EnvChange{Set: map[string]string{"B": "12345678901"}})
		l.fails(err, smolvm.ErrExhausted)
		l.ok(sb.Start(l.ctx))
		_, err = sb.ChangeEnv(l.ctx, api.EnvChange{Set: big})
		l.ok(err)
	}},
	{"program that reads no spec", func(l *life) {
		c := smolvm.Client{Home: l.Home, Binary: "/bin/false"}
		_, err := c.Create(l.ctx, smolvm.Spec{Env: map[string]string{"A": strings.Repeat("a", api.MaxEnvBytes-10)}})
		l.fails(err, smolvm.ErrInternal, "supervisor died")
	}},
	{"program that is not there", func(l *life) {
		c := smolvm.Client{Home: l.Home, Binary: "/nonexistent/smolvm"}
		_, err := c.Create(l.ctx, smolvm.Spec{})
		l.fails(err, smolvm.ErrUnavailable, "/nonexistent/smolvm")
	}},
	{"time to live while running", func(l *life) {
		sb := l.create(smolvm.Spec{TTLSeconds: 0.5})
		l.gone(sb)
	}},
	{"time to live while stopped", func(l *life) {
		sb := l.create(smolvm.Spec{TTLSeconds: 1.5})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}))
		l.is(sb, api.StateStopped, "")
		l.gone(sb)
		l.fails(sb.Start(l.ctx), smolvm.ErrNotFound)
	}},
	{"idle stop", func(l *life) {
		sb := l.create(smolvm.Spec{IdleTimeoutSeconds: 0.3})
		l.says(sb, "sleep 0.6; echo busy", "busy") // longer than the timeout: it is in use
		info, err := sb.Wait(l.ctx)
		if err != nil || info.State != api.StateStopped || info.Reason != "idle timeout" {
			l.Errorf("%+v, %v", info, err)
		}
		l.ok(sb.Start(l.ctx)) // and the time begins anew
		l.says(sb, "echo up", "up")
	}},
	{"idle remove", func(l *life) {
		sb := l.create(smolvm.Spec{IdleTimeoutSeconds: 1.5, IdleAction: api.IdleRemove})
		l.says(sb, "echo up", "up")
		l.gone(sb)

		// One that was stopped is removed too, but not while it is used again.
		sb = l.create(smolvm.Spec{IdleTimeoutSeconds: 1.5, IdleAction: api.IdleRemove})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}))
		if info := l.is(sb, api.StateStopped, ""); info.Expires.Before(time.Now()) {
			l.Errorf("it says that it expires at %v", info.Expires)
		}
		l.ok(sb.Start(l.ctx))
		l.says(sb, "sleep 2; echo busy", "busy")
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}))
		l.gone(sb)
	}},
	{"ephemeral ends with stop", func(l *life) {
		sb := l.create(smolvm.Spec{Ephemeral: true})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.gone(sb)
	}},
	{"ephemeral lives as long as its program", func(l *life) {
		id := l.create(smolvm.Spec{Ephemeral: true}).ID()
		for range 5 {
			runtime.GC() // of the handle, which nobody has any more
		}
		sb, err := l.Get(l.ctx, id)
		l.ok(err)
		l.says(sb, "sleep 0.1; echo alive", "alive")
	}},
	{"ephemeral that is started again", func(l *life) {
		sb := l.create(smolvm.Spec{Ephemeral: true})
		l.kill(sb)
		l.is(sb, api.StateError, "died")
		l.ok(sb.Start(l.ctx))
		l.says(sb, "sleep 0.1; echo alive", "alive")
	}},
	{"ephemeral ends with its program", func(l *life) {
		for _, how := range []string{"end", "kill"} {
			cmd, in, id := startClient(l)
			if how == "end" {
				in.Close()
			} else {
				cmd.Process.Kill()
			}
			cmd.Wait()
			sb, err := l.Get(l.ctx, id)
			if err == nil {
				l.gone(sb)
			} else {
				l.fails(err, smolvm.ErrNotFound)
			}
		}
	}},
	{"pause and resume", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.ok(sb.Pause(l.ctx))
		l.ok(sb.Pause(l.ctx))
		l.is(sb, api.StatePaused, "")
		_, err := sb.Run(l.ctx, smolvm.ShellCommand("true"))
		l.fails(err, smolvm.ErrConflict, "paused")
		l.fails(sb.Start(l.ctx), smolvm.ErrConflict, "paused")
		l.ok(sb.Resume(l.ctx))
		l.says(sb, "echo up", "up")
		l.ok(sb.Pause(l.ctx))
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.is(sb, api.StateStopped, "")
	}},
	{"calls on a stopped sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		_, runErr := sb.Run(l.ctx, smolvm.ShellCommand("true"))
		_, statsErr := sb.Stats(l.ctx)
		for _, err := range []error{runErr, statsErr, sb.Pause(l.ctx), sb.Resume(l.ctx)} {
			l.fails(err, smolvm.ErrUnavailable, `sandbox "web" is stopped`)
		}
		if info, err := sb.Wait(l.ctx); err != nil || info.State != api.StateStopped {
			l.Errorf("%+v, %v", info, err)
		}
	}},
	{"machine that ends by itself", func(l *life) {
		for command, reason := range map[string]string{"crash": "the VMM died", "panic": "kernel panic"} {
			sb := l.create(smolvm.Spec{})
			l.tell(sb, command)
			info, err := sb.Wait(l.ctx)
			if err != nil || info.State != api.StateError || !strings.Contains(info.Reason, reason) {
				l.Errorf("%s: %+v, %v", command, info, err)
			}
		}
	}},
	{"gc after a supervisor killed at each state", func(l *life) {
		for _, fault := range []string{"stall image", "stall disk", "stall kernel", "stall dial"} {
			l.faults(fault)
			created := async(func() error { _, err := l.Create(l.ctx, smolvm.Spec{}); return err })
			l.reached()
			for _, p := range testenv.Processes(l.Home) {
				syscall.Kill(p.PID, syscall.SIGKILL)
			}
			l.fails(<-created, smolvm.ErrInternal, "supervisor died")
			os.Remove(filepath.Join(l.Home, "reached"))
			if got := testenv.Files(l.Home); !slices.Equal(got, []string{faultsFile}) {
				l.Errorf("%s: %v is left", fault, got)
			}
		}
	}},
	{"gc keeps what holds work", func(l *life) {
		running, stopped, paused, dead := l.create(smolvm.Spec{}), l.create(smolvm.Spec{}), l.create(smolvm.Spec{}), l.create(smolvm.Spec{})
		l.ok(stopped.Stop(l.ctx, smolvm.StopOptions{}))
		l.ok(paused.Pause(l.ctx))
		info, err := dead.Info(l.ctx)
		l.ok(err)
		l.ok(syscall.Kill(info.SupervisorPID, syscall.SIGKILL))
		c, err := l.GC(l.ctx, false)
		if err != nil || len(c.Sandboxes)+len(c.Names)+len(c.Temporary) > 0 {
			l.Errorf("%+v, %v", c, err)
		}
		l.is(running, api.StateRunning, "")
	}},
	{"gc dry run touches nothing", func(l *life) {
		sb := l.create(smolvm.Spec{Ephemeral: true, Name: "web"})
		l.kill(sb)
		l.ok(os.Symlink("nowhere", filepath.Join(l.Home, "names/stale")))
		l.ok(os.Mkdir(filepath.Join(l.Home, "tmp/create-dead"), 0o700))
		for _, dry := range []bool{true, true, false} {
			c, err := l.GC(l.ctx, dry)
			want := []string{sb.ID(), "stale", "create-dead"}
			if got := slices.Concat(c.Sandboxes, c.Names, c.Temporary); err != nil || !slices.Equal(got, want) || c.DryRun != dry {
				l.Errorf("dry %v: %v, %v", dry, got, err)
			}
		}
	}},
	{"damaged state", func(l *life) {
		for _, text := range []string{"", "{", `{"state":"no such"}`, `{"state":"running","new field":1}`} {
			sb := l.create(smolvm.Spec{})
			l.kill(sb)
			l.ok(os.WriteFile(l.path(sb, "state.json"), []byte(text), 0o600))
			l.is(sb, api.StateError, "")
			if c, err := l.GC(l.ctx, false); err != nil || len(c.Sandboxes) > 0 && text != `{"state":"no such"}` {
				l.Errorf("gc after %q: %+v, %v", text, c, err)
				continue
			}
			if _, err := sb.Info(l.ctx); err != nil {
				continue
			}
			l.ok(sb.Start(l.ctx)) // its record and disk are good
			l.says(sb, "echo up", "up")
			l.ok(sb.Remove(l.ctx))
		}
	}},
	{"damaged record", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.kill(sb)
		l.ok(os.WriteFile(l.path(sb, "spec.json"), []byte("{"), 0o600))
		l.is(sb, api.StateError, "cannot be read")
		l.fails(sb.Start(l.ctx), smolvm.ErrInternal, "start sandbox")
		if list, err := l.List(l.ctx, smolvm.ListOptions{}); err != nil || len(list) != 1 {
			l.Errorf("%v, %v", list, err)
		}
		l.ok(sb.Remove(l.ctx))
		l.create(smolvm.Spec{Name: "web"}) // its name is free
	}},
	{"guest that talks too much", func(l *life) {
		l.faults("talk")
		sb := l.create(smolvm.Spec{})
		st, err := os.Stat(l.path(sb, "state.json"))
		if err != nil || st.Size() > 64<<10 {
			l.Errorf("the state has %d bytes, %v", st.Size(), err)
		}
		if b, _ := json.Marshal(l.is(sb, api.StateRunning, "").Timings.Boot); bytes.Contains(b, []byte("u001b")) {
			l.Error("control characters came through")
		}
	}},
	{"calls with a context that has ended", func(l *life) {
		sb := l.create(smolvm.Spec{})
		ctx, cancel := context.WithCancel(l.ctx)
		cancel()
		for range 50 {
			_, waitErr := sb.Wait(ctx)
			_, runErr := sb.Run(ctx, smolvm.ShellCommand("true"))
			_, infoErr := sb.Info(ctx)
			for _, err := range []error{waitErr, runErr, infoErr, sb.Pause(ctx), sb.Stop(ctx, smolvm.StopOptions{}), sb.Remove(ctx)} {
				if !errors.Is(err, context.Canceled) {
					l.Fatalf("%v", err)
				}
			}
		}
		l.is(sb, api.StateRunning, "")
	}},
	{"cancel at the end of create", func(l *life) {
		// Whatever moment it hits: a sandbox that lives, or none.
		for i := range 10 {
			ctx, cancel := context.WithCancel(l.ctx)
			c := l.Client
			c.Progress = func(step string, _, _ int64) {
				if step == "boot" {
					time.AfterFunc(time.Duration(i)*2*time.Millisecond, cancel)
				}
			}
			sb, err := c.Create(ctx, smolvm.Spec{NoTemplate: true})
			cancel()
			if err == nil {
				l.is(sb, api.StateRunning, "")
				l.ok(sb.Remove(l.ctx))
			}
			l.eventually("nothing lives", func() bool { return len(testenv.Processes(l.Home)) == 0 })
			if got, _ := filepath.Glob(filepath.Join(l.Home, "sandboxes/*")); len(got) > 0 {
				l.Errorf("%v is left", got)
			}
		}
	}},
}

func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

func TestLaws(t *testing.T) { hold(t, laws) }

func hold(t *testing.T, laws []law) {
	t.Helper()
	for _, law := range laws {
		t.Run(law.name, func(t *testing.T) {
			t.Parallel()
			law.law(newLife(t))
		})
	}
}

// TestNothingPilesUp lives through many sandboxes, as a program does that uses the
// SDK for days: it keeps neither descriptors nor goroutines.
func TestNothingPilesUp(t *testing.T) {
	l := newLife(t)
	const rounds = 15
	base := 0
	for i := range rounds {
		sb := l.create(smolvm.Spec{Ephemeral: i%2 == 0})
		l.says(sb, "echo up", "up")
		ctx, cancel := context.WithTimeout(l.ctx, time.Millisecond)
		sb.Wait(ctx)
		sb.Console(ctx, new(bytes.Buffer), smolvm.ConsoleOptions{Follow: true})
		cancel()
		if i%3 == 0 {
			l.ok(sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}))
		}
		l.ok(sb.Remove(l.ctx))
		if i == 2 {
			base = descriptors()
		}
	}
	l.eventually("descriptors are given back", func() bool { return descriptors() <= base })
	l.eventually("goroutines end", func() bool { return runtime.NumGoroutine() < 30 })
}
