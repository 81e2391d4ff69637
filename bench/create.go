package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// createSamples is how often what takes half a second is measured.
const createSamples = 20

// most is by how much a create may be above the floor.
const most = 1.4

// creates measures a create from a template to the end of its first command, where
// its time goes, and the same by the program.
func creates(ctx context.Context, b *suite) error {
	if _, err := b.client.BuildTemplate(ctx, b.spec); err != nil {
		return err
	}
	var l laps
	// In turns with what it is the floor of: the same kind of guest, our agent in it,
	// continued by QEMU alone.
	same := b.floor
	same.Agent = true
	t, err := same.Continue(ctx, b.spec, createSamples, func() error { return b.createOnce(ctx, &l) })
	if err != nil {
		return err
	}
	bare, err := b.floor.Continue(ctx, b.spec, createSamples, nil)
	if err != nil {
		return err
	}
	floor := sorted(t.First)
	report("floor: QEMU answers", sorted(t.Greeted), nil)
	report("floor: memory and devices are loaded", sorted(t.Loaded), nil)
	report("floor: first command ended", floor, nil)
	report("floor: second command alone", sorted(t.Second), nil)
	report("bare guest: first command ended", sorted(bare.First), nil)
	report("bare guest: second command alone", sorted(bare.Second), nil)
	whole := l.take("all")
	reportBelow("create from a template, first command ended", whole, floor, most)
	report("  the same, beside the bare guest", whole, sorted(bare.First))
	l.report()
	run, err := collect(createSamples, 2, func() error { return b.run(ctx) })
	if err != nil {
		return err
	}
	report("smolvm run -- true, from a template", run, floor)
	return nil
}

// run runs `true` in a sandbox of the benchmark's sizes, by the program.
func (b *suite) run(ctx context.Context) error {
	return b.cli(ctx, "run", "--memory", fmt.Sprint(memoryMiB), "--", "true")
}

func (b *suite) createOnce(ctx context.Context, l *laps) error {
	begin := time.Now()
	sb, err := b.client.Create(ctx, b.spec)
	if err != nil {
		return err
	}
	created := time.Since(begin)
	defer sb.Remove(context.WithoutCancel(ctx))
	if err := nothing(ctx, sb); err != nil {
		return err
	}
	all := time.Since(begin)
	if err := nothing(ctx, sb); err != nil {
		return err
	}
	second := time.Since(begin) - all
	info, err := sb.Info(ctx)
	if err != nil {
		return err
	}
	l.add("all", all)
	l.start("the supervisor's start, and what is not below", created, info.Timings)
	l.add("its first command alone", all-created)
	l.add("its second command alone", second)
	return nil
}

// nothing runs a command that does nothing.
func nothing(ctx context.Context, sb *smolvm.Sandbox) error {
	r, err := sb.Run(ctx, smolvm.Command{Argv: []string{"true"}})
	if err == nil && !r.OK() {
		err = fmt.Errorf("true in sandbox %s: status %d", sb.ID(), r.ExitCode)
	}
	return err
}

func inMS(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// laps are samples by the names of parts of something, in the order in which they
// came.
type laps struct {
	names   []string
	samples map[string]sample
}

func (l *laps) add(name string, d time.Duration) {
	if l.samples == nil {
		l.samples = map[string]sample{}
	}
	if l.samples[name] == nil {
		l.names = append(l.names, name)
	}
	l.samples[name] = append(l.samples[name], d)
}

// take returns the samples of a name, which is then not reported.
func (l *laps) take(name string) sample {
	l.names = slices.DeleteFunc(l.names, func(n string) bool { return n == name })
	return sorted(l.samples[name])
}

// start adds the parts of a start that took the caller as long as took. What of it the
// supervisor does not account for is called rest.
func (l *laps) start(rest string, took time.Duration, t api.Timings) {
	l.add(rest, took-inMS(t.TotalMS))
	l.add("prepared: image, template, disk, directory", inMS(t.PrepareMS))
	l.add("the VMM has the machine", inMS(t.VMMMS))
	l.add("its agent answers", inMS(t.GuestMS))
	l.add("it has its identity", inMS(t.SetupMS))
	l.add("the supervisor's rest", inMS(t.TotalMS-t.PrepareMS-t.VMMMS-t.GuestMS-t.SetupMS))
}

func (l *laps) report() {
	for _, name := range l.names {
		report("  "+name, sorted(l.samples[name]), nil)
	}
}

// poolSize is how many sandboxes wait while the pool is measured.
const poolSize = 3

// poolTarget is what a whole run may take where a sandbox waits.
const poolTarget = 80 * time.Millisecond

// pools measures the same where sandboxes wait in a pool.
func pools(ctx context.Context, b *suite) error {
	pool := smolvm.Pool{Image: b.spec.Image, MemoryMiB: b.spec.MemoryMiB, Size: poolSize}
	before, err := b.client.Pools(ctx)
	if err != nil {
		return err
	}
	if len(before) > 0 {
		return fmt.Errorf("there are pools already; drain them: smolvm pool drain")
	}
	if _, err := b.client.SetPool(ctx, pool); err != nil {
		return err
	}
	defer b.client.DrainPools(context.WithoutCancel(ctx), "")
	var whole sample
	var l laps
	for range createSamples {
		if err := b.filled(ctx); err != nil {
			return err
		}
		t := time.Now()
		if err := b.run(ctx); err != nil {
			return err
		}
		whole = append(whole, time.Since(t))
		if err := b.filled(ctx); err != nil {
			return err
		}
		if err := b.claimOnce(ctx, &l); err != nil {
			return err
		}
	}
	reportWithin("smolvm run -- true, from a pool", sorted(whole), poolTarget)
	report("SDK: claim, run, remove", l.take("all"), nil)
	l.report()
	return nil
}

func (b *suite) claimOnce(ctx context.Context, l *laps) error {
	spec := b.spec
	spec.Accel = ""
	begin := time.Now()
	sb, err := b.client.Create(ctx, spec)
	if err != nil {
		return err
	}
	created := time.Since(begin)
	err = nothing(ctx, sb)
	ran := time.Since(begin)
	info, ierr := sb.Info(ctx)
	told := time.Since(begin)
	if rerr := sb.Remove(context.WithoutCancel(ctx)); err == nil {
		err = rerr
	}
	removed := time.Since(begin)
	if err != nil || ierr != nil {
		return fmt.Errorf("claim, run and remove: %w", cmp.Or(err, ierr))
	}
	if info.Origin != "pool" {
		return fmt.Errorf("sandbox %s came from %q, not from the pool", info.ID, info.Origin)
	}
	l.add("all", removed-(told-ran))
	l.add("claimed", created)
	l.add("of that in the supervisor", inMS(info.Timings.TotalMS))
	l.add("its first command alone", ran-created)
	l.add("removed", removed-told)
	return nil
}

// filled waits until the pool is full and the host has settled.
func (b *suite) filled(ctx context.Context) error {
	for {
		list, err := b.client.Pools(ctx)
		if err != nil {
			return err
		}
		if len(list) == 1 && list[0].Error != "" {
			return fmt.Errorf("the pool: %s", list[0].Error)
		}
		if len(list) == 1 && list[0].Ready >= poolSize {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
