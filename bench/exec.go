package main

import (
	"context"
	"fmt"

	"github.com/smolvm/smolvm"
)

// memoryMiB is the guests' memory; the floor's and the sandbox's alike.
const memoryMiB = 512

// boots measures create without a template, and the program's own start.
func boots(ctx context.Context, b *suite) error {
	version, err := collect(30, 3, func() error { return b.cli(ctx, "version") })
	if err != nil {
		return err
	}
	report("smolvm version", version, nil)
	run, err := collect(5, 1, func() error {
		return b.cli(ctx, "run", "--no-template", "--memory", fmt.Sprint(memoryMiB), "--", "true")
	})
	if err != nil {
		return err
	}
	report("smolvm run -- true, booted", run, nil)
	return nil
}

// execs measures the round trip of `true` against the floor.
func execs(ctx context.Context, b *suite) error {
	floor, err := b.floor.Commands(ctx, smolvm.Spec{MemoryMiB: memoryMiB}, 50, 300)
	if err != nil {
		return err
	}
	report("floor: fork and exec over the bare port", sorted(floor), nil)
	sb, err := b.client.Create(ctx, smolvm.Spec{MemoryMiB: memoryMiB, Ephemeral: true})
	if err != nil {
		return err
	}
	defer sb.Remove(context.WithoutCancel(ctx))
	sdk, err := collect(300, 50, func() error {
		_, err := sb.Run(ctx, smolvm.Command{Argv: []string{"/bin/true"}})
		return err
	})
	if err != nil {
		return err
	}
	report("SDK: Run(true)", sdk, sorted(floor))
	cli, err := collect(50, 5, func() error { return b.cli(ctx, "exec", sb.ID(), "--", "true") })
	if err != nil {
		return err
	}
	report("smolvm exec ID -- true, whole process", cli, sorted(floor))
	return nil
}
