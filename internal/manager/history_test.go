package manager_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

func (l *life) fork(sb *smolvm.Sandbox, o smolvm.ForkOptions) []*smolvm.Sandbox {
	l.Helper()
	children, err := sb.Fork(l.ctx, o)
	l.ok(err)
	return children
}

// alone checks that there are no sandboxes but those given, and nothing half made.
func (l *life) alone(want ...*smolvm.Sandbox) {
	l.Helper()
	list, err := l.List(l.ctx, smolvm.ListOptions{})
	if err != nil || len(list) != len(want) {
		l.Errorf("%d sandboxes, want %d: %v, %v", len(list), len(want), list, err)
	}
	l.eventually("nothing half made is left", func() bool {
		tmp, _ := filepath.Glob(filepath.Join(l.Home, "tmp/*"))
		return len(tmp) == 0
	})
}

var forkLaws = []law{
	{"children continue, each for itself", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web", MemoryMiB: 256, Env: map[string]string{"A": "1"}, Labels: map[string]string{"k": "v"}})
		l.counted(sb, 1)
		l.says(sb, "note remembered", "10")
		l.says(sb, "put parent", "<nil>")
		children := l.fork(sb, smolvm.ForkOptions{N: 3, Name: "kid"})
		var who []string
		for i, c := range children {
			info := l.is(c, api.StateRunning, "")
			if info.Name != fmt.Sprintf("kid-%d", i+1) || info.Origin != "fork "+sb.ID() || info.MemoryMiB != 256 || info.Labels["k"] != "v" {
				l.Errorf("%+v", info)
			}
			l.counted(c, 2)
			l.says(c, "noted", "remembered")
			l.says(c, "got", "parent")
			l.says(c, fmt.Sprintf("put child%d", i), "<nil>")
			l.says(c, "echo $A", "1")
			r, err := c.Run(l.ctx, smolvm.Command{Argv: []string{"who"}})
			l.ok(err)
			told := strings.Fields(string(r.Stdout))
			if len(told) != 5 || told[0] != info.Name || told[3] != "resumed=true" || told[4] != "copy=true" {
				l.Errorf("it was told %q", told)
			}
			for _, w := range who {
				if strings.Contains(w, told[1]) || strings.Contains(w, told[2]) {
					l.Errorf("%q and %q", w, told)
				}
			}
			who = append(who, string(r.Stdout))
		}
		l.counted(sb, 2)
		l.says(sb, "got", "parent")
		for i, c := range children {
			l.says(c, "got", fmt.Sprintf("child%d", i))
		}
		grandchild := l.fork(children[1], smolvm.ForkOptions{Name: "grandkid"})[0]
		l.ok(children[1].Remove(l.ctx))
		l.ok(sb.Remove(l.ctx))
		l.counted(grandchild, 3)
		l.says(grandchild, "got", "child1")
		l.alone(children[0], children[2], grandchild)
	}},
	{"of a paused sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.ok(sb.Pause(l.ctx))
		l.counted(l.fork(sb, smolvm.ForkOptions{})[0], 2)
		l.is(sb, api.StatePaused, "")
	}},
	{"of a hibernated sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.hibernate(sb)
		for _, c := range l.fork(sb, smolvm.ForkOptions{N: 2}) {
			l.counted(c, 2)
		}
		l.is(sb, api.StateHibernated, "")
		l.counted(sb, 2)
	}},
	{"of one that does not run", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		_, err := sb.Fork(l.ctx, smolvm.ForkOptions{})
		l.refused(err, smolvm.ErrConflict, "not_running", "Start it first", `"web"`)
		l.alone(sb)
		l.ok(sb.Remove(l.ctx))
		_, err = sb.Fork(l.ctx, smolvm.ForkOptions{})
		l.fails(err, smolvm.ErrNotFound, "find sandbox")
	}},
	{"numbers and names that cannot be", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for _, o := range []smolvm.ForkOptions{{N: -1}, {N: api.MaxFork + 1}, {Name: "../x"}, {Name: strings.Repeat("a", 62), N: 2}} {
			_, err := sb.Fork(l.ctx, o)
			l.fails(err, smolvm.ErrInvalid)
		}
		l.alone(sb)
	}},
	{"all or none", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		taken := l.create(smolvm.Spec{Name: "kid-3"})
		_, err := sb.Fork(l.ctx, smolvm.ForkOptions{N: 4, Name: "kid"})
		l.refused(err, smolvm.ErrConflict, "", "smolvm rm kid-3", `name "kid-3" is taken`)
		l.alone(sb, taken)
		for _, fault := range []string{"fail load", "fail start", "panic at boot", "fail setup"} {
			l.faults(fault)
			if _, err := sb.Fork(l.ctx, smolvm.ForkOptions{N: 3}); err == nil {
				l.Fatalf("%s: they came up", fault)
			}
			l.faults()
			l.alone(sb, taken)
		}
		l.counted(sb, 2)
		l.counted(l.fork(sb, smolvm.ForkOptions{})[0], 3)
	}},
	{"a failing save leaves nothing", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for _, fault := range []string{"save", "region", "overlay", "layer"} {
			l.says(sb, "put something", "<nil>")
			l.faults("fail " + fault)
			_, err := sb.Fork(l.ctx, smolvm.ForkOptions{N: 2})
			l.fails(err, smolvm.ErrInternal, "told to fail "+fault)
			l.faults()
			l.alone(sb)
			l.says(sb, "echo up", "up")
		}
	}},
	{"ephemeral children end with their client", func(l *life) {
		sb := l.create(smolvm.Spec{IdleTimeoutSeconds: 1000, IdleAction: api.IdleHibernate})
		child := l.fork(sb, smolvm.ForkOptions{Ephemeral: true})[0]
		if info := l.is(child, api.StateRunning, ""); !info.Ephemeral {
			l.Errorf("%+v", info)
		}
		l.ok(child.Stop(l.ctx, smolvm.StopOptions{}))
		l.gone(child)
		l.alone(sb)
	}},
	{"many forks at once", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				children, err := sb.Fork(l.ctx, smolvm.ForkOptions{N: 2})
				if err != nil {
					l.Error(err)
					return
				}
				for _, c := range children {
					l.counted(c, 2)
				}
			})
		}
		wg.Wait()
		l.counted(sb, 2)
	}},
	{"a client that is killed leaves nothing half", func(l *life) {
		// The supervisors of the children see their client go: see the laws of create.
		sb := l.create(smolvm.Spec{})
		for _, fault := range []string{"stall load", "stall setup"} {
			os.Remove(filepath.Join(l.Home, "reached"))
			before := map[string]bool{}
			for _, p := range processIDs(l) {
				before[p] = true
			}
			l.faults(fault)
			forked := async(func() error { _, err := sb.Fork(l.ctx, smolvm.ForkOptions{N: 2}); return err })
			l.reached()
			killNew(l, before)
			l.fails(<-forked, smolvm.ErrInternal, "supervisor died")
			l.faults()
			l.eventually("the others are gone", func() bool {
				_, err := l.GC(l.ctx, false)
				list, _ := l.List(l.ctx, smolvm.ListOptions{})
				return err == nil && len(list) == 1
			})
			l.alone(sb)
		}
	}},
	{"the source is killed while it is saved", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.says(sb, "put kept", "<nil>")
		os.Remove(filepath.Join(l.Home, "reached"))
		l.faults("stall save")
		forked := async(func() error { _, err := sb.Fork(l.ctx, smolvm.ForkOptions{N: 2}); return err })
		l.reached()
		l.kill(sb)
		l.faults()
		if err := <-forked; err == nil {
			l.Error("it was forked")
		}
		l.alone(sb)
		l.ok(sb.Start(l.ctx))
		l.says(sb, "got", "kept")
	}},
}

func TestForkLaws(t *testing.T) { hold(t, forkLaws) }

func (l *life) checkpoint(sb *smolvm.Sandbox, label string) smolvm.Step {
	l.Helper()
	s, err := sb.Checkpoint(l.ctx, smolvm.Checkpoint{Label: label})
	l.ok(err)
	return s
}

// tree is a history in short: step<parent:label, and the head.
func (l *life) tree(sb *smolvm.Sandbox) string {
	l.Helper()
	h, err := sb.History(l.ctx)
	l.ok(err)
	var b strings.Builder
	for _, s := range h.Steps {
		parent := "-"
		if s.Parent != nil {
			parent = fmt.Sprint(*s.Parent)
		}
		fmt.Fprintf(&b, "%d<%s:%s ", s.Step, parent, s.Label)
	}
	return fmt.Sprintf("%s@%d", b.String(), h.Head)
}

func (l *life) treeIs(sb *smolvm.Sandbox, want string) {
	l.Helper()
	if got := l.tree(sb); got != want {
		l.Errorf("the history is %q, want %q", got, want)
	}
}

var historyLaws = []law{
	{"none yet", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.treeIs(sb, "@-1")
		l.refused(sb.Rewind(l.ctx, 0), smolvm.ErrNotFound, "", "smolvm history web", "no step 0")
		for _, n := range []int{-1, 7, 1 << 40} {
			l.fails(sb.Rewind(l.ctx, n), smolvm.ErrNotFound)
			_, err := sb.Fork(l.ctx, smolvm.ForkOptions{At: &n})
			l.refused(err, smolvm.ErrNotFound, "", "smolvm history web", "no step")
		}
		l.alone(sb)
	}},
	{"a tree grows, and each step can be come back to", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for i := range 3 {
			l.counted(sb, i+1)
			l.says(sb, fmt.Sprintf("put disk%d", i), "<nil>")
			if s := l.checkpoint(sb, fmt.Sprintf("s%d", i)); s.Step != i || s.PauseMS <= 0 || s.Created.IsZero() {
				l.Errorf("%+v", s)
			}
		}
		l.treeIs(sb, "0<-:s0 1<0:s1 2<1:s2 @2")
		l.counted(sb, 4)
		l.ok(sb.Rewind(l.ctx, 0))
		l.treeIs(sb, "0<-:s0 1<0:s1 2<1:s2 3<2:before rewind to step 0 @0")
		l.says(sb, "got", "disk0")
		l.counted(sb, 2)
		l.says(sb, "put other", "<nil>")
		l.checkpoint(sb, "branch")
		l.treeIs(sb, "0<-:s0 1<0:s1 2<1:s2 3<2:before rewind to step 0 4<0:branch @4")
		l.ok(sb.Rewind(l.ctx, 3))
		l.counted(sb, 5)
		l.says(sb, "got", "disk2")
		l.ok(sb.Rewind(l.ctx, 4))
		l.counted(sb, 3)
		l.says(sb, "got", "other")
		for step, want := range map[int]int{0: 2, 1: 3, 2: 4, 3: 5, 4: 3} {
			l.counted(l.fork(sb, smolvm.ForkOptions{At: &step})[0], want)
		}
	}},
	{"a rewind is the sandbox itself, later", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.checkpoint(sb, "s")
		l.ok(sb.Rewind(l.ctx, 0))
		r, err := sb.Run(l.ctx, smolvm.Command{Argv: []string{"who"}})
		l.ok(err)
		who := strings.Fields(string(r.Stdout))
		if len(who) != 5 || who[0] != "web" || len(who[2]) < 64 || who[3] != "resumed=true" {
			l.Errorf("it was told %q", who)
		}
		l.is(sb, api.StateRunning, "")
	}},
	{"after each command", func(l *life) {
		sb := l.create(smolvm.Spec{Checkpoint: api.CheckpointEachCommand})
		for i := range 3 {
			l.counted(sb, i+1)
		}
		if r, err := sb.Run(l.ctx, smolvm.ShellCommand("exit 7")); err != nil || r.ExitCode != 7 {
			l.Errorf("%+v, %v", r, err)
		}
		h, err := sb.History(l.ctx)
		l.ok(err)
		if len(h.Steps) != 4 || h.Head != 3 {
			l.Fatalf("%+v", h)
		}
		if s := h.Steps[3]; s.Exit == nil || *s.Exit != 7 || !strings.Contains(s.Label, "exit 7") {
			l.Errorf("%+v", s)
		}
		if s := h.Steps[1]; s.Exit == nil || *s.Exit != 0 {
			l.Errorf("%+v", s)
		}
		l.ok(sb.Rewind(l.ctx, 1))
		l.counted(sb, 3)
	}},
	{"it costs what changed", func(l *life) {
		sb := l.create(smolvm.Spec{Checkpoint: api.CheckpointEachCommand})
		for i := range 5 {
			l.counted(sb, i+1)
		}
		h, err := sb.History(l.ctx)
		l.ok(err)
		for _, s := range h.Steps {
			if s.Bytes > 1<<20 {
				l.Errorf("step %d takes %d bytes", s.Step, s.Bytes)
			}
		}
	}},
	{"labels of hostile bytes", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for i, text := range []string{"", "a\nb\tc  d", "\x00\x1b[31m\xff\xfe", strings.Repeat("ä", 1000), "../../x", `{"a":"`, "\u2028\u202e"} {
			l.checkpoint(sb, text)
			h, err := sb.History(l.ctx)
			if err != nil || len(h.Steps) != i+1 {
				l.Fatalf("%q: %+v, %v", text, h, err)
			}
			got := h.Steps[i].Label
			if !utf8.ValidString(got) || len(got) > api.MaxLabel || strings.ContainsAny(got, "\n\r\x00\x1b\u202e\u2028") {
				l.Errorf("%q became %q", text, got)
			}
		}
	}},
	{"in every state", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		l.counted(sb, 1)
		l.checkpoint(sb, "running")
		l.ok(sb.Pause(l.ctx))
		l.checkpoint(sb, "paused")
		l.is(sb, api.StatePaused, "")
		l.ok(sb.Rewind(l.ctx, 0))
		l.counted(sb, 2)
		tree := l.tree(sb)
		l.hibernate(sb)
		l.treeIs(sb, tree)
		one := 1
		l.counted(l.fork(sb, smolvm.ForkOptions{At: &one})[0], 2)
		l.checkpoint(sb, "woken")
		l.counted(sb, 3) // what it has seen since goes on from there
		l.hibernate(sb)
		l.ok(sb.Rewind(l.ctx, 0))
		l.counted(sb, 2)
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		_, err := sb.Checkpoint(l.ctx, smolvm.Checkpoint{})
		l.refused(err, smolvm.ErrUnavailable, "not_running", "smolvm start web", "stopped")
		l.refused(sb.Rewind(l.ctx, 0), smolvm.ErrUnavailable, "not_running", "smolvm start web", "stopped")
		l.counted(l.fork(sb, smolvm.ForkOptions{At: &one})[0], 2)
		l.ok(sb.Start(l.ctx))
		l.counted(sb, 1)
		l.ok(sb.Rewind(l.ctx, 0))
		l.counted(sb, 2)
	}},
	{"a full history", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		first := l.checkpoint(sb, "first")
		// A step of so high a number that no other follows it.
		b, err := os.ReadFile(l.path(sb, "history/000000.json"))
		l.ok(err)
		l.ok(os.WriteFile(l.path(sb, "history/000299.json"), b, 0o600))
		_, err = sb.Checkpoint(l.ctx, smolvm.Checkpoint{})
		l.refused(err, smolvm.ErrExhausted, "", "fork", `"web"`, "300")
		l.says(sb, "echo up", "up")
		// What a rewind leaves has a place all the same.
		l.ok(sb.Rewind(l.ctx, first.Step))
		l.counted(sb, 1)
		l.counted(l.fork(sb, smolvm.ForkOptions{At: &first.Step})[0], 1)
	}},
	{"checkpoints and rewinds race", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.checkpoint(sb, "s")
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 4 {
					if err := sb.Rewind(l.ctx, 0); err != nil {
						l.Error(err)
					}
				}
			})
			wg.Go(func() {
				for range 6 {
					if _, err := sb.Checkpoint(l.ctx, smolvm.Checkpoint{}); err != nil && !errors.Is(err, smolvm.ErrUnavailable) {
						l.Error(err)
					}
				}
			})
		}
		wg.Wait()
		h, err := sb.History(l.ctx)
		l.ok(err)
		for _, s := range h.Steps {
			l.fork(sb, smolvm.ForkOptions{At: &s.Step}) // all of each is there
		}
		l.ok(sb.Rewind(l.ctx, 0))
		l.counted(sb, 2)
	}},
	{"a damaged step is refused, the others work", func(l *life) {
		sb := l.create(smolvm.Spec{Name: "web"})
		var deltas [3]map[string]bool
		for i := range 3 {
			l.counted(sb, i+1)
			l.checkpoint(sb, "s")
			deltas[i] = map[string]bool{}
			list, _ := filepath.Glob(l.path(sb, "parts/delta-*"))
			for _, p := range list {
				deltas[i][p] = true
			}
		}
		for p := range deltas[2] {
			if !deltas[1][p] {
				flipLast(l, p)
			}
		}
		two := 2
		err := sb.Rewind(l.ctx, two)
		l.refused(err, smolvm.ErrDenied, seal.CodeAltered, "", "not as it was saved")
		l.is(sb, api.StateRunning, "")
		_, err = sb.Fork(l.ctx, smolvm.ForkOptions{At: &two})
		l.fails(err, smolvm.ErrDenied)
		l.counted(sb, 4)
		l.ok(sb.Rewind(l.ctx, 1))
		l.counted(sb, 3)
	}},
	{"a failing checkpoint keeps it running", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for i, fault := range []string{"save", "region", "overlay", "layer"} {
			l.says(sb, "put something", "<nil>")
			l.faults("fail " + fault)
			_, err := sb.Checkpoint(l.ctx, smolvm.Checkpoint{})
			l.fails(err, smolvm.ErrInternal, "told to fail "+fault)
			l.faults()
			l.counted(sb, i+1)
			l.treeIs(sb, "@-1")
		}
		l.checkpoint(sb, "s")
		l.counted(sb, 5)
		l.ok(sb.Rewind(l.ctx, 0))
		l.counted(sb, 5)
	}},
	{"a rewind that fails before the VM is touched", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		l.checkpoint(sb, "s")
		for i, fault := range []string{"fail save", "other VMM"} {
			l.faults(fault)
			if err := sb.Rewind(l.ctx, 0); err == nil {
				l.Errorf("%s: it rewound", fault)
			}
			l.faults()
			l.is(sb, api.StateRunning, "")
			l.counted(sb, i+2)
		}
	}},
	{"a rewind that fails in the middle", func(l *life) {
		for _, fault := range []string{"fail load", "panic at boot", "fail setup"} {
			sb := l.create(smolvm.Spec{})
			l.counted(sb, 1)
			l.says(sb, "put old", "<nil>")
			l.checkpoint(sb, "s")
			l.counted(sb, 2)
			l.says(sb, "put new", "<nil>")
			l.faults(fault)
			if err := sb.Rewind(l.ctx, 0); err == nil {
				l.Fatalf("%s: it rewound", fault)
			}
			l.faults()
			l.eventually("its supervisor ends", func() bool { return len(processIDs(l)) == 0 })
			info, err := sb.Info(l.ctx)
			if err != nil || info.State != api.StateError || info.Reason == "" || strings.Contains(info.Reason, "supervisor died") {
				l.Errorf("%s: %s (%s), %v", fault, info.State, info.Reason, err)
			}
			l.treeIs(sb, "0<-:s 1<0:before rewind to step 0 @0")
			l.ok(sb.Start(l.ctx))
			l.says(sb, "got", "old") // the disk of the step
			l.ok(sb.Rewind(l.ctx, 1))
			l.counted(sb, 3) // nothing is lost
			l.says(sb, "got", "new")
			l.ok(sb.Remove(l.ctx))
		}
	}},
	{"killed in the middle of a rewind", func(l *life) {
		for _, fault := range []string{"stall load", "stall dial", "stall setup", "stall save"} {
			sb := l.create(smolvm.Spec{})
			l.counted(sb, 1)
			l.says(sb, "put old", "<nil>")
			l.checkpoint(sb, "s")
			l.counted(sb, 2)
			l.says(sb, "put new", "<nil>")
			os.Remove(filepath.Join(l.Home, "reached"))
			l.faults(fault)
			rewound := async(func() error { return sb.Rewind(l.ctx, 0) })
			if fault == "stall dial" { // set in running supervisors only when they start
				<-rewound
			} else {
				l.reached()
			}
			l.kill(sb)
			if fault != "stall dial" {
				if err := <-rewound; err == nil {
					l.Errorf("%s: it rewound", fault)
				}
			}
			l.faults()
			l.is(sb, api.StateError, "died")
			l.ok(sb.Start(l.ctx))
			want := "old"
			if fault == "stall save" {
				want = "new"
			}
			l.says(sb, "got", want)
			l.ok(sb.Rewind(l.ctx, 0))
			l.counted(sb, 2)
			l.says(sb, "got", "old")
			if fault != "stall save" {
				l.ok(sb.Rewind(l.ctx, 1))
				l.counted(sb, 3)
				l.says(sb, "got", "new")
			}
			l.ok(sb.Remove(l.ctx))
		}
	}},
	{"killed while a step is recorded", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.checkpoint(sb, "s")
		l.says(sb, "put kept", "<nil>")
		os.Remove(filepath.Join(l.Home, "reached"))
		l.faults("stall save")
		recorded := async(func() error { _, err := sb.Checkpoint(l.ctx, smolvm.Checkpoint{}); return err })
		l.reached()
		l.kill(sb)
		if err := <-recorded; err == nil {
			l.Error("it was recorded")
		}
		l.faults()
		l.treeIs(sb, "0<-:s @0")
		l.ok(sb.Start(l.ctx))
		l.says(sb, "got", "kept")
		l.checkpoint(sb, "t")
		l.treeIs(sb, "0<-:s 1<0:t @1")
	}},
	{"commands under way end with a rewind", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.checkpoint(sb, "s")
		p, err := sb.Exec(l.ctx, smolvm.ShellCommand("echo up; sleep 60"))
		l.ok(err)
		ended := async(func() error { _, err := p.Wait(); return err })
		l.ok(sb.Rewind(l.ctx, 0))
		select {
		case err := <-ended:
			l.fails(err, smolvm.ErrUnavailable)
		case <-time.After(5 * time.Second):
			l.Error("it goes on")
		}
		l.says(sb, "echo up", "up")
	}},
	{"steps go with the sandbox", func(l *life) {
		sb := l.create(smolvm.Spec{})
		for range 3 {
			l.checkpoint(sb, "s")
		}
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.ok(sb.Start(l.ctx))
		l.checkpoint(sb, "s")
		l.ok(sb.Remove(l.ctx))
		l.alone()
	}},
	{"unneeded files go", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.checkpoint(sb, "s")
		for i := range 5 {
			l.hibernate(sb)
			l.counted(sb, i+1)
		}
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.ok(sb.Start(l.ctx))
		list, _ := filepath.Glob(l.path(sb, "parts/delta-*"))
		if len(list) != 1 {
			l.Errorf("%v", list)
		}
		l.ok(sb.Rewind(l.ctx, 0))
		l.counted(sb, 1)
	}},
}

func TestHistoryLaws(t *testing.T) { hold(t, historyLaws) }
