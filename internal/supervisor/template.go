package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guestmem"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
	"github.com/smolvm/smolvm/internal/vmm"
)

// templateKey is all that a template depends on. What is not in it must not
// matter to a sandbox that continues one.
type templateKey struct {
	Match  point.Match
	Kernel string // paths that are named by their content
	Initrd string // holds the agent
	Image  string // digest
}

func (k templateKey) String() string {
	b, _ := json.Marshal(k) // of strings and numbers
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// templates makes and finds templates.
type templates struct {
	parts  Parts
	key    seal.Key
	budget int64 // bytes
	tell   func(control.Progress)
}

// get has the template for sandboxes of spec used, made where it is not there or not
// as it was saved. Of many that come at once, one makes it. While it is used nobody
// removes it.
func (t *templates) get(ctx context.Context, spec api.Spec, img control.Image, match point.Match, use func(*point.Point) error) (*point.Point, error) {
	kernel, initrd, err := t.parts.Provider.Kernel(ctx)
	if err != nil {
		return nil, err
	}
	key := templateKey{Match: match, Kernel: kernel, Initrd: initrd, Image: img.ID}
	dir := t.parts.Store.Template(key.String())
	// Others hold it for a millisecond while they use the template, and for as long as a
	// boot takes while they make it.
	making := func() { t.tell(control.Progress{Step: "make the template"}) }
	l, err := store.AwaitLock(ctx, dir.Lock(), making)
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	p, err := t.open(dir)
	if err != nil {
		if api.ClassOf(err) != api.NotFound {
			slog.Warn("make a template anew", "template", dir, "err", err)
		}
		making()
		b := build{templates: t, spec: spec, img: img, match: match, kernel: kernel, initrd: initrd}
		if err := b.run(ctx, dir); err != nil {
			return nil, api.Errorf(api.ClassOf(err), "make the template of image %q: %w", spec.Image, err)
		}
		t.evict(dir)
		if p, err = t.open(dir); err != nil {
			return nil, err
		}
	}
	return p, use(p)
}

func (t *templates) open(dir store.PointDir) (*point.Point, error) {
	p, err := point.Open(t.key, dir.Manifest(), dir.Parts())
	if err == nil {
		now := time.Now()
		os.Chtimes(string(dir), now, now) // for evict; who fails to say so loses a template early
	}
	return p, err
}

// evict removes the templates that were not used for longest until the rest is
// within the budget. The newest stays whatever its size.
func (t *templates) evict(newest store.PointDir) {
	type entry struct {
		dir   store.PointDir
		used  time.Time
		bytes int64
	}
	var list []entry
	var sum int64
	for _, dir := range t.parts.Store.ListTemplates() {
		fi, err := os.Stat(string(dir))
		m, merr := point.Read(t.key, dir.Manifest())
		if err != nil || merr != nil {
			continue
		}
		e := entry{dir, fi.ModTime(), m.Bytes()}
		sum += e.bytes
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int { return a.used.Compare(b.used) })
	for _, e := range list {
		if sum <= t.budget {
			return
		}
		if e.dir == newest {
			continue
		}
		l, err := store.TryLock(e.dir.Lock())
		if err != nil {
			continue // it is in use
		}
		err = point.Remove(e.dir.Manifest(), string(e.dir))
		l.Unlock()
		if err != nil {
			slog.Warn("remove a template", "err", err)
			continue
		}
		sum -= e.bytes
	}
}

// build is the making of one template.
type build struct {
	*templates
	spec           api.Spec
	img            control.Image
	match          point.Match
	kernel, initrd string

	dir store.PointDir // half made, in tmp/
	vm  vmm.Machine
	ses *guest.Session
	m   point.Manifest
}

// run boots a machine, waits until it is ready and quiet, saves it and publishes
// it as dir: all or nothing.
func (b *build) run(ctx context.Context, dir store.PointDir) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, api.Errorf(api.Timeout, "it was not ready in %v", bootTime))
	defer cancel()
	scratch, err := b.parts.Store.Scratch("template")
	if err != nil {
		return err
	}
	defer scratch.Close()
	b.dir = store.PointDir(scratch.Path("point"))
	if err := os.MkdirAll(b.dir.Parts(), 0o700); err != nil {
		return err
	}
	b.m = point.Manifest{
		Image: b.img, Ref: b.spec.Image, Created: time.Now().UTC().Round(time.Millisecond), Match: b.match,
		Devices: point.NewPart(partDevices), Memory: []string{point.NewPart(partBase)}, Disk: []string{point.NewPart(partRaw)},
	}
	if err := b.boot(ctx, scratch.Path()); err != nil {
		return err
	}
	err = b.ready(ctx)
	if err == nil {
		err = b.save(ctx)
	}
	words := ""
	if err != nil {
		words = lastWords(b.vm)
	}
	if b.ses != nil {
		b.ses.Close()
	}
	b.vm.Kill() // also before its files are read
	if err != nil {
		return fmt.Errorf("%w%s", err, words)
	}
	if err := point.Write(b.key, b.dir.Manifest(), b.dir.Parts(), &b.m, point.Checked); err != nil {
		return err
	}
	// What may be there is damaged, or the rest of a removal that was cut short.
	if err := point.Remove(dir.Manifest(), string(dir)); err != nil {
		return err
	}
	return os.Rename(string(b.dir), string(dir))
}

func (b *build) part(name string) string { return filepath.Join(b.dir.Parts(), name) }

func (b *build) boot(ctx context.Context, scratch string) error {
	vmDir := filepath.Join(scratch, "vm")
	if err := os.Mkdir(vmDir, 0o700); err != nil {
		return err
	}
	spec := b.spec
	spec.Name = "template"
	c := shape(spec, vmDir)
	c.Kernel, c.Initrd = b.kernel, b.initrd
	c.Disks = disks(filepath.Join(b.parts.Store.Root(), b.img.RootFS), b.dir.Parts(), b.m.Disk)
	c.Memory = &vmm.Memory{Path: b.part(b.m.Memory[0]), Shared: true}
	if err := guestmem.BaseFile(c.Memory.Path, c.MemoryMiB); err != nil {
		return err
	}
	if err := b.parts.Provider.Disk(ctx, b.part(b.m.Disk[0]), spec.DiskMiB); err != nil {
		return err
	}
	card, wire, err := plugged()
	if err != nil {
		return err
	}
	defer card.Wire.Close()
	wire.Close() // nobody is to hear it
	c.Network = card
	b.vm, err = b.parts.Driver.Start(ctx, c)
	return err
}

// ready greets the agent and has it do once what each sandbox has to do first, so
// that the files and the memory it needs for that are there in every copy.
func (b *build) ready(ctx context.Context) error {
	var err error
	if b.ses, err = reach(ctx, b.vm); err != nil {
		return err
	}
	c := guest.Client{Opener: b.ses}
	// The name is short because a file that becomes longer is written faster than
	// one that becomes shorter.
	id := identity("x")
	id.Network = guestNetwork(api.Network{}) // up, as most copies will want it
	if err := c.Setup(ctx, id); err != nil {
		return err
	}
	if err := warmUp(ctx, c); err != nil {
		return err
	}
	// Once more, as each copy will have to do it.
	id.Resumed, id.Copy, id.TimeNS = true, true, time.Now().UnixNano()
	if err := c.Setup(ctx, id); err != nil {
		return err
	}
	b.m.Match.VMM, b.m.Accel = b.vm.Info().Version, b.vm.Info().Accel
	return b.quiet(ctx)
}

// warmUp runs what clients run first. An image may have neither of these
// programs; the agent's own paths are exercised all the same.
func warmUp(ctx context.Context, c guest.Client) error {
	for range 2 { // the first pages programs in, the second runs them as they will be
		for _, argv := range [][]string{{"true"}, {"/bin/sh", "-c", "true"}} {
			_, err := c.Run(ctx, guest.Exec{Argv: argv, TimeoutMS: 10_000})
			if err != nil && ctx.Err() != nil {
				return err
			}
		}
	}
	return nil
}

// A machine is quiet when its VMM has used little of a processor for a while.
const (
	quietLook  = 200 * time.Millisecond
	quietUse   = 10 // milliseconds of a processor in quietLook: one tick of the kernel's accounting
	quietLooks = 50 // 10 s; some images are never quiet
)

func (b *build) quiet(ctx context.Context) error {
	pid := b.vm.Info().PID
	tick := time.NewTicker(quietLook)
	defer tick.Stop()
	_, _, before := usage(pid)
	for range quietLooks {
		select {
		case <-tick.C:
		case <-b.vm.Done():
			return ended(b.vm)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, _, now := usage(pid)
		if now-before <= quietUse {
			return nil
		}
		before = now
	}
	return nil
}

func (b *build) save(ctx context.Context) error {
	vm, ok := b.vm.(vmm.Saver)
	if !ok {
		return errCannotSave
	}
	if err := (guest.Client{Opener: b.ses}).Quiesce(ctx, guest.Quiesce{Freeze: true, Sync: true}); err != nil {
		return err
	}
	clean, cancel := undo.Context(ctx)
	defer cancel()
	if err := vm.Pause(clean); err != nil {
		return err
	}
	return vm.SaveDevices(clean, b.part(b.m.Devices))
}

// makeTemplate is the errand of a client that wants a template.
func (s *Supervisor) makeTemplate(ctx context.Context, b *birth) (control.Birth, error) {
	spec := s.create.Spec.WithDefaults()
	if err := spec.Check(); err != nil {
		return control.Birth{}, err
	}
	if err := s.checkHost(ctx, spec); err != nil {
		return control.Birth{}, err
	}
	img, err := s.parts.Provider.Image(ctx, spec.Image, b.progress)
	if err != nil {
		return control.Birth{}, err
	}
	s.rec = control.Record{Spec: spec, Image: img}
	p, err := s.template(ctx, b, func(*point.Point) error { return nil })
	if err != nil {
		return control.Birth{}, err
	}
	t := p.Template(p.Dir())
	return control.Birth{Template: &t}, nil
}
