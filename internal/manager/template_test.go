package manager_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv"
)

// madeOf checks what a sandbox was made of.
func (l *life) madeOf(sb *smolvm.Sandbox, origin string) {
	l.Helper()
	if info := l.is(sb, api.StateRunning, ""); info.Origin != origin {
		l.Errorf("it was made of %q, want %q", info.Origin, origin)
	}
}

// templates are the templates' directories.
func (l *life) templates() []string {
	list, _ := filepath.Glob(filepath.Join(l.Home, "templates", "*", "point.json"))
	for i := range list {
		list[i] = filepath.Dir(list[i])
	}
	return list
}

// counted counts in the guest's memory, which only what continues it remembers.
func (l *life) counted(sb *smolvm.Sandbox, want int) {
	l.Helper()
	l.says(sb, "count", fmt.Sprint(want))
}

// flip changes a bit of a file without a trace in its size.
func flip(l *life, path string, at int64) {
	l.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	l.ok(err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	l.ok(err)
	b[0] ^= 1
	_, err = f.WriteAt(b, at)
	l.ok(err)
}

// damage is what can happen to a point on disk. The function gets its directory.
type damage struct {
	name string
	do   func(l *life, dir string)
}

// onPart damages the parts of one kind.
func onPart(kind string, do func(l *life, path string)) func(*life, string) {
	return func(l *life, dir string) {
		l.Helper()
		parts, _ := filepath.Glob(filepath.Join(dir, "parts", kind+"-*"))
		if len(parts) == 0 {
			l.Fatalf("no part %s in %s", kind, dir)
		}
		for _, p := range parts {
			do(l, p)
		}
	}
}

func flipFirst(l *life, path string) { flip(l, path, 0) }

func flipLast(l *life, path string) {
	fi, err := os.Stat(path)
	l.ok(err)
	flip(l, path, fi.Size()-1)
}

func truncate(l *life, path string) {
	fi, err := os.Stat(path)
	l.ok(err)
	l.ok(os.Truncate(path, fi.Size()/2))
}

func unlink(l *life, path string) { l.ok(os.Remove(path)) }

func onManifest(do func(l *life, path string)) func(*life, string) {
	return func(l *life, dir string) { do(l, filepath.Join(dir, "point.json")) }
}

// damages of every point, and of the parts of the kinds given.
func damages(kinds ...string) []damage {
	list := []damage{
		{"manifest: mark", onManifest(flipFirst)},
		{"manifest: last byte", onManifest(flipLast)},
		{"manifest: cut off", onManifest(truncate)},
		{"manifest: empty", onManifest(func(l *life, path string) { l.ok(os.Truncate(path, 0)) })},
		{"manifest: signed by nobody", onManifest(func(l *life, path string) { l.ok(os.WriteFile(path, []byte("{}"), 0o600)) })},
		{"manifest: far too large", onManifest(func(l *life, path string) { l.ok(os.Truncate(path, 1<<30)) })},
	}
	for _, k := range kinds {
		list = append(list,
			damage{k + ": first bit", onPart(k, flipFirst)},
			damage{k + ": last bit", onPart(k, flipLast)},
			damage{k + ": cut off", onPart(k, truncate)},
			damage{k + ": gone", onPart(k, unlink)},
			damage{k + ": longer", onPart(k, func(l *life, path string) {
				fi, err := os.Stat(path)
				l.ok(err)
				l.ok(os.Truncate(path, fi.Size()+4096))
			})},
		)
	}
	return list
}

var templateLaws = []law{
	{"a template is built once and then used", func(l *life) {
		l.counted(l.create(smolvm.Spec{}), 1)
		before := l.templates()
		sb := l.create(smolvm.Spec{})
		l.madeOf(sb, "template")
		l.counted(sb, 1) // of its own memory
		l.counted(sb, 2)
		if after := l.templates(); len(before) != 1 || len(after) != 1 || before[0] != after[0] {
			l.Errorf("templates %v, then %v", before, after)
		}
		list, err := l.Templates(l.ctx)
		if err != nil || len(list) != 1 {
			l.Fatalf("%v, %v", list, err)
		}
		tpl := list[0]
		if tpl.Key != filepath.Base(before[0]) || tpl.Image != "base" || tpl.ImageID != "sha256:base" || tpl.Bytes == 0 ||
			tpl.CPUs != api.DefaultCPUs || tpl.MemoryMiB != api.DefaultMemoryMiB || tpl.VMM == "" || tpl.Used.Before(tpl.Created.Truncate(time.Second)) {
			l.Errorf("%+v", tpl)
		}
	}},
	{"what a clone is told of itself", func(l *life) {
		var seen []string
		for i := range 3 {
			sb := l.create(smolvm.Spec{Name: fmt.Sprintf("clone%d", i)})
			r, err := sb.Run(l.ctx, smolvm.Command{Argv: []string{"who"}})
			l.ok(err)
			who := strings.Fields(string(r.Stdout))
			if len(who) != 5 || who[0] != fmt.Sprintf("clone%d", i) || len(who[1]) != len("machine=")+32 || len(who[2]) < 64 ||
				who[3] != "resumed=true" || who[4] != "copy=true" {
				l.Errorf("it was told %q", who)
			}
			for _, other := range seen {
				if strings.Contains(other, who[1]) || strings.Contains(other, who[2]) {
					l.Errorf("%s, and before %s", who, other)
				}
			}
			seen = append(seen, string(r.Stdout))
		}
	}},
	{"many first users build one template", func(l *life) {
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				sb, err := l.Create(l.ctx, smolvm.Spec{})
				if err != nil {
					l.Error(err)
					return
				}
				l.madeOf(sb, "template")
			})
		}
		wg.Wait()
		if n := l.booted(); n != 1 || len(l.templates()) != 1 {
			l.Errorf("%d machines booted for the templates %v", n, l.templates())
		}
	}},
	{"each size has a template of its own", func(l *life) {
		for _, s := range []smolvm.Spec{{}, {MemoryMiB: 256}, {CPUs: 2}, {DiskMiB: 512}, {Image: "other"}, {Accel: api.AccelTCG}} {
			l.madeOf(l.create(s), "template")
		}
		// What is given to a clone, and what the driver does not tell apart, needs none.
		l.create(smolvm.Spec{Env: map[string]string{"A": "1"}, TTLSeconds: 1000})
		if list := l.templates(); len(list) != 5 {
			l.Errorf("%v", list)
		}
	}},
	{"a template of another VMM or image is not used", func(l *life) {
		l.create(smolvm.Spec{})
		for i, other := range []string{"other VMM", "other image"} {
			l.faults(other)
			l.madeOf(l.create(smolvm.Spec{}), "template")
			if list := l.templates(); len(list) != i+2 {
				l.Errorf("%s: %v", other, list)
			}
		}
	}},
	{"no template", func(l *life) {
		sb := l.create(smolvm.Spec{NoTemplate: true})
		l.madeOf(sb, "boot")
		l.counted(sb, 1)
		if list := l.templates(); len(list) != 0 {
			l.Errorf("%v", list)
		}
	}},
	{"a failing build leaves nothing and is tried again", func(l *life) {
		for _, fault := range []string{"fail disk", "fail kernel", "fail start", "fail save", "panic at boot"} {
			l.faults(fault)
			_, err := l.Create(l.ctx, smolvm.Spec{})
			if err == nil {
				l.Fatalf("%s: it was created", fault)
			}
			if fault != "fail kernel" && !strings.Contains(err.Error(), `make the template of image "base"`) {
				l.Errorf("%s: %v", fault, err)
			}
			if list := l.templates(); len(list) != 0 {
				l.Errorf("%s: %v", fault, list)
			}
			os.Remove(filepath.Join(l.Home, "reached"))
			if got := testenv.Files(l.Home); len(got) != 1 {
				l.Errorf("%s: %v is left", fault, got)
			}
		}
		l.faults()
		l.madeOf(l.create(smolvm.Spec{}), "template")
	}},
	{"a builder that is killed leaves nothing, and another builds", func(l *life) {
		for _, fault := range []string{"stall disk", "stall start", "stall dial", "stall setup", "stall save"} {
			l.faults(fault)
			made := async(func() error { _, err := l.Create(l.ctx, smolvm.Spec{}); return err })
			l.reached()
			builder := testenv.Processes(l.Home)
			l.faults()
			waiting := async(func() error { _, err := l.Create(l.ctx, smolvm.Spec{}); return err })
			for _, p := range builder {
				syscall.Kill(p.PID, syscall.SIGKILL)
			}
			l.fails(<-made, smolvm.ErrInternal, "supervisor died")
			l.ok(<-waiting)
			if _, err := l.GC(l.ctx, false); err != nil {
				l.Error(err)
			}
			if tmp, _ := filepath.Glob(filepath.Join(l.Home, "tmp/*")); len(tmp) != 0 {
				l.Errorf("%s: %v is left", fault, tmp)
			}
			l.madeOf(l.create(smolvm.Spec{}), "template")
			for _, dir := range l.templates() {
				l.ok(l.RemoveTemplate(l.ctx, filepath.Base(dir)))
			}
			os.Remove(filepath.Join(l.Home, "reached"))
		}
	}},
	{"a waiting user is cancelled while another builds", func(l *life) {
		l.faults("stall dial")
		built := async(func() error { _, err := l.Create(l.ctx, smolvm.Spec{}); return err })
		l.reached()
		ctx, cancel := context.WithTimeout(l.ctx, 100*time.Millisecond)
		defer cancel()
		_, err := l.Create(ctx, smolvm.Spec{})
		l.fails(err, smolvm.ErrTimeout, "create sandbox")
		l.killAll()
		<-built
	}},
	{"rm while a sandbox uses it", func(l *life) {
		sb := l.create(smolvm.Spec{})
		l.counted(sb, 1)
		list, err := l.Templates(l.ctx)
		l.ok(err)
		l.ok(l.RemoveTemplate(l.ctx, list[0].Key[:6]))
		l.counted(sb, 2)
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true}))
		l.counted(sb, 3)
		if list := l.templates(); len(list) != 0 {
			l.Errorf("%v", list)
		}
		l.fails(l.RemoveTemplate(l.ctx, list[0].Key), smolvm.ErrNotFound, "find template")
		for _, key := range []string{"", "..", "/", "../sandboxes"} {
			l.fails(l.RemoveTemplate(l.ctx, key), smolvm.ErrNotFound)
		}
	}},
	{"an ambiguous beginning of a key", func(l *life) {
		for _, name := range []string{"abcd1", "abcd2"} {
			l.ok(os.MkdirAll(filepath.Join(l.Home, "templates", name, "parts"), 0o700))
		}
		l.fails(l.RemoveTemplate(l.ctx, "abcd"), smolvm.ErrInvalid, "2 templates")
		l.ok(l.RemoveTemplate(l.ctx, "abcd1"))
		l.ok(l.RemoveTemplate(l.ctx, "abcd"))
	}},
	{"a directory without a manifest is no template and not in the way", func(l *life) {
		l.create(smolvm.Spec{})
		dir := l.templates()[0]
		l.ok(os.Remove(filepath.Join(dir, "point.json"))) // as of a removal that was cut short
		l.madeOf(l.create(smolvm.Spec{}), "template")
		if list := l.templates(); len(list) != 1 {
			l.Errorf("%v", list)
		}
	}},
	{"removing templates disturbs no create", func(l *life) {
		done := make(chan struct{})
		removed := async(func() error {
			tick := time.NewTicker(30 * time.Millisecond)
			defer tick.Stop()
			for n := 0; ; <-tick.C {
				select {
				case <-done:
					if n == 0 {
						return fmt.Errorf("no template was removed")
					}
					return nil
				default:
				}
				for _, dir := range l.templates() {
					if err := l.RemoveTemplate(l.ctx, filepath.Base(dir)); err == nil {
						n++
					}
				}
			}
		})
		for range 8 {
			l.madeOf(l.create(smolvm.Spec{}), "template")
		}
		close(done)
		l.ok(<-removed)
	}},
	{"the budget removes what was not used for longest", func(l *life) {
		l.faults("large disks") // of nearly 1 MiB
		l.TemplateBudgetMiB = 2
		key := func(cpus int) string {
			tpl, err := l.BuildTemplate(l.ctx, smolvm.Spec{CPUs: cpus})
			l.ok(err)
			return filepath.Join(l.Home, "templates", tpl.Key)
		}
		a, b := key(1), key(2)
		if again := key(1); again != a {
			l.Errorf("%s was built again as %s", a, again)
		}
		if list := l.templates(); len(list) != 2 {
			l.Fatalf("%v", list)
		}
		c := key(3)
		list := l.templates()
		if len(list) != 2 || slices.Contains(list, b) || !slices.Contains(list, a) || !slices.Contains(list, c) {
			l.Errorf("%v are left of %s, %s, %s", list, a, b, c)
		}
		l.TemplateBudgetMiB = 1 // less than two: the newest stays
		d := key(4)
		if list := l.templates(); !slices.Equal(list, []string{d}) {
			l.Errorf("%v are left, want %s", list, d)
		}
	}},
	{"build of a template that is there builds nothing", func(l *life) {
		one, err := l.BuildTemplate(l.ctx, smolvm.Spec{})
		l.ok(err)
		two, err := l.BuildTemplate(l.ctx, smolvm.Spec{})
		if err != nil || one.Key != two.Key || !one.Created.Equal(two.Created) || l.booted() != 1 {
			l.Errorf("%+v, then %+v, %v", one, two, err)
		}
		_, err = l.BuildTemplate(l.ctx, smolvm.Spec{CPUs: 1000})
		l.fails(err, smolvm.ErrInvalid)
	}},
}

func TestTemplateLaws(t *testing.T) { hold(t, templateLaws) }

// TestDamagedTemplate damages a template in each way: it is never used, but made
// anew, and nobody notices.
func TestDamagedTemplate(t *testing.T) {
	for _, d := range damages("base", "raw", "devices") {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l := newLife(t)
			l.create(smolvm.Spec{})
			dir := l.templates()[0]
			d.do(l, dir)
			sb := l.create(smolvm.Spec{})
			l.madeOf(sb, "template")
			l.counted(sb, 1)
			if n := l.booted(); n != 2 {
				t.Errorf("%d machines booted", n)
			}
			l.create(smolvm.Spec{}) // and the new one is good
			if n := l.booted(); n != 2 {
				t.Errorf("%d machines booted", n)
			}
		})
	}
}

// booted is how many machines booted instead of continuing another.
func (l *life) booted() int {
	b, _ := os.ReadFile(filepath.Join(l.Home, bootsFile))
	return len(b)
}

// killAll kills every process of the state directory, as an out-of-memory killer
// might.
func (l *life) killAll() {
	l.Helper()
	for _, p := range testenv.Processes(l.Home) {
		syscall.Kill(p.PID, syscall.SIGKILL)
	}
	l.eventually("all are dead", func() bool { return len(testenv.Processes(l.Home)) == 0 })
}
