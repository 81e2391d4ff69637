package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm"
)

const (
	dirtyMiB    = 200 // what a sandbox has in memory of its own when it is forked
	forkSamples = 8
	forkMany    = 8 // children at once
	forkPause   = 250 * time.Millisecond
	forkFirst   = 1.5 // by how much the first command in a child may be above a template create
)

// forks measures forks of a sandbox that runs and has memory of its own.
func forks(ctx context.Context, b *suite) error {
	var l laps
	for range forkSamples {
		if err := b.createOnce(ctx, &l); err != nil {
			return err
		}
	}
	create := l.take("all")
	l = laps{}
	report("create from a template, first command ended", create, nil)
	sb, err := b.client.Create(ctx, b.spec)
	if err != nil {
		return err
	}
	defer sb.Remove(context.WithoutCancel(ctx))
	if err := shell(ctx, sb, fmt.Sprintf("head -c %dM /dev/urandom > /dev/shm/dirty", dirtyMiB)); err != nil {
		return err
	}
	for range forkSamples {
		if err := forkOnce(ctx, sb, &l); err != nil {
			return err
		}
	}
	reportWithin(fmt.Sprintf("source stands still, %d MiB dirty", dirtyMiB), l.take("pause"), forkPause)
	first := l.take("all")
	report("fork, first command in the child ended", first, nil)
	target(float64(first.at(50)) <= forkFirst*float64(create.at(50)), fmt.Sprintf("p50 at most %.1fx a create", forkFirst))
	l.report()
	return b.forkMany(ctx, sb)
}

func forkOnce(ctx context.Context, sb *smolvm.Sandbox, l *laps) error {
	t := time.Now()
	children, err := sb.Fork(ctx, smolvm.ForkOptions{Ephemeral: true})
	if err != nil {
		return err
	}
	forked := time.Since(t)
	err = nothing(ctx, children[0])
	all := time.Since(t)
	info, ierr := children[0].Info(ctx)
	if err := errors.Join(err, ierr, children[0].Remove(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	l.add("all", all)
	l.add("pause", inMS(info.Timings.PauseMS))
	l.start("saved, and the child's supervisor started", forked, info.Timings)
	l.add("its first command alone", all-forked)
	return nil
}

func (b *suite) forkMany(ctx context.Context, sb *smolvm.Sandbox) error {
	t := time.Now()
	children, err := sb.Fork(ctx, smolvm.ForkOptions{N: forkMany, Ephemeral: true})
	if err != nil {
		return err
	}
	up := time.Since(t)
	err = each(children, func(c *smolvm.Sandbox) error { return nothing(ctx, c) })
	all := time.Since(t)
	err = errors.Join(err, each(children, func(c *smolvm.Sandbox) error { return c.Remove(context.WithoutCancel(ctx)) }))
	if err == nil {
		fmt.Printf("  %d children at once: up after %.0f ms, all answered after %.0f ms\n", forkMany, ms(up), ms(all))
	}
	return err
}

// each calls f for all sandboxes at once.
func each(all []*smolvm.Sandbox, f func(*smolvm.Sandbox) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, sb := range all {
		wg.Go(func() { errs[i] = f(sb) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func shell(ctx context.Context, sb *smolvm.Sandbox, line string) error {
	r, err := sb.Run(ctx, smolvm.Command{Argv: []string{"/bin/sh", "-c", line}})
	if err == nil && !r.OK() {
		err = fmt.Errorf("%s: status %d: %s", line, r.ExitCode, r.Stderr)
	}
	return err
}

const (
	checkpointSamples = 20
	checkpointPause   = 150 * time.Millisecond
	checkpointMiB     = 5
)

// checkpoints measures checkpoints after commands that change 1 MiB.
func checkpoints(ctx context.Context, b *suite) error {
	spec := b.spec
	spec.Ephemeral = false // the state directory is looked at, which Remove empties anyhow
	sb, err := b.client.Create(ctx, spec)
	if err != nil {
		return err
	}
	defer sb.Remove(context.WithoutCancel(ctx))
	var pauses, whole sample
	var sizes, grew []int64
	for i := range checkpointSamples {
		if err := shell(ctx, sb, fmt.Sprintf("head -c 1M /dev/urandom > /root/f%d", i)); err != nil {
			return err
		}
		before, err := onDisk(b.dir(sb))
		if err != nil {
			return err
		}
		t := time.Now()
		step, err := sb.Checkpoint(ctx, smolvm.Checkpoint{Label: "bench"})
		if err != nil {
			return err
		}
		whole = append(whole, time.Since(t))
		pauses = append(pauses, inMS(step.PauseMS))
		after, err := onDisk(b.dir(sb))
		if err != nil {
			return err
		}
		if i > 0 { // the first holds what differs from the template, and that is more
			sizes, grew = append(sizes, step.Bytes), append(grew, after-before)
		}
	}
	reportWithin("sandbox stands still", sorted(pauses), checkpointPause)
	report("checkpoint, whole call", sorted(whole), nil)
	reportMiB("size, as it is told", sizes, checkpointMiB)
	reportMiB("size, as the directory grows", grew, checkpointMiB)
	return nil
}

func (b *suite) dir(sb *smolvm.Sandbox) string { return string(b.floor.Store.Sandbox(sb.ID())) }

// onDisk is what the files of a directory take on disk, in bytes.
func onDisk(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		sum += fi.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	return sum, err
}

func reportMiB(what string, bytes []int64, most float64) {
	var s sample // durations are numbers too
	for _, b := range bytes {
		s = append(s, time.Duration(b))
	}
	s = sorted(s)
	mib := func(percent int) float64 { return float64(s.at(percent)) / (1 << 20) }
	fmt.Printf("  %-44s p50 %8.2f MiB  p95 %8.2f MiB  n %d\n", what, mib(50), mib(95), len(s))
	target(mib(50) <= most, fmt.Sprintf("p50 at most %.0f MiB", most))
}

const (
	idleMiB    = 256
	idleMany   = 100
	idleAtOnce = 4 // that come up at once; more would only wait for processors
	idleSettle = 10 * time.Second
	idleTarget = 65 // MiB
)

// idlers measures what sandboxes cost that do nothing, many of them at once.
func idlers(ctx context.Context, b *suite) error {
	spec := b.spec
	spec.MemoryMiB = idleMiB
	if _, err := b.client.BuildTemplate(ctx, spec); err != nil {
		return err
	}
	free := available()
	var all []*smolvm.Sandbox
	defer func() { each(all, func(s *smolvm.Sandbox) error { return s.Remove(context.WithoutCancel(ctx)) }) }()
	t := time.Now()
	if err := b.many(ctx, spec, &all); err != nil {
		return err
	}
	fmt.Printf("  %d sandboxes of %d MiB came up in %.1f s, %d at a time\n", len(all), idleMiB, time.Since(t).Seconds(), idleAtOnce)
	select {
	case <-time.After(idleSettle):
	case <-ctx.Done():
		return ctx.Err()
	}
	var sizes []int64
	var pids []int
	for _, sb := range all {
		info, err := sb.Info(ctx)
		if err != nil {
			return err
		}
		n, err := pss(info.SupervisorPID, info.VMMPID)
		if err != nil {
			return err
		}
		sizes, pids = append(sizes, n), append(pids, info.SupervisorPID, info.VMMPID)
	}
	reportMiB("PSS of supervisor and VMM of one of them", sizes, idleTarget)
	fmt.Printf("  together: the host has %.1f GiB less available\n", float64(free-available())/(1<<30))
	before, t := busy(pids), time.Now()
	select {
	case <-time.After(idleSettle):
	case <-ctx.Done():
		return ctx.Err()
	}
	fmt.Printf("  together: they use %.1f %% of a processor\n", 100*(busy(pids)-before).Seconds()/time.Since(t).Seconds())
	t = time.Now()
	for _, sb := range all {
		if err := nothing(ctx, sb); err != nil {
			return err
		}
	}
	fmt.Printf("  all %d answered, one after the other, in %.1f s\n", len(all), time.Since(t).Seconds())
	return nil
}

// many makes sandboxes, a few at a time.
func (b *suite) many(ctx context.Context, spec smolvm.Spec, all *[]*smolvm.Sandbox) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, idleAtOnce)
	for range idleMany {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			sb, err := b.client.Create(ctx, spec)
			if err == nil {
				err = nothing(ctx, sb)
			}
			mu.Lock()
			defer mu.Unlock()
			if sb != nil {
				*all = append(*all, sb)
			}
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// pss is the memory of processes, what they share divided by how many share it, in
// bytes.
func pss(pids ...int) (sum int64, err error) {
	for _, pid := range pids {
		kib, err := number(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if err != nil {
			return 0, err
		}
		sum += kib << 10
	}
	return sum, nil
}

// available is the host's memory that programs could still get, in bytes.
func available() int64 {
	kib, _ := number("/proc/meminfo", "MemAvailable:")
	return kib << 10
}

// busy is for how long processors have worked for processes.
func busy(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 {
			continue // it has ended
		}
		for _, ticks := range f[11:13] { // of user and system
			n, _ := strconv.Atoi(ticks)
			sum += time.Duration(n) * time.Second / 100
		}
	}
	return sum
}

// number reads the number after a name in a file of lines.
func number(path, name string) (n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), name); ok {
			_, err := fmt.Sscan(rest, &n)
			return n, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
