package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type poolSetOptions struct {
	sizeFlags
	size int
	wait bool
}

func (a *app) newPoolSet() *cobra.Command {
	var o poolSetOptions
	cmd := &cobra.Command{
		Use:   "set IMAGE --size N",
		Short: "Say how many sandboxes wait",
		Long: `Say how many sandboxes of an image and sizes wait to be taken. It returns when
that is known, and the pool fills in the background; with --wait, when it is full.
Size 0 ends those that wait.

A sandbox that is created takes a waiting one where image and sizes are the same;
names, variables, labels and times are given to it then.`,
		Example: `  smolvm pool set base --size 3
  smolvm pool set alpine --size 2 --memory 1G --cpus 2 --wait
  smolvm pool set base --size 0`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeImages, 1),
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) (outcome, error) {
		if !cmd.Flags().Changed("size") {
			return outcome{}, usagef("the pool has no size: give it one with --size")
		}
		o.image = args[0]
		return a.poolSet(ctx, &o)
	})
	o.register(a, cmd)
	cmd.Flags().IntVar(&o.size, "size", 0, "`N` sandboxes wait; required")
	cmd.Flags().BoolVar(&o.wait, "wait", false, "wait until the pool is full")
	return cmd
}

func (a *app) poolSet(ctx context.Context, o *poolSetOptions) (outcome, error) {
	if o.image == "" {
		return outcome{}, usagef("no image is named")
	}
	if o.size < 0 || o.size > api.MaxPool {
		return outcome{}, api.Errorf(api.Invalid, "pool size is %d, outside 0 to %d", o.size, api.MaxPool).
			WithRecovery("For example: --size 3.")
	}
	spec := o.spec()
	if err := o.check(spec); err != nil {
		return outcome{}, err
	}
	p, err := a.client().SetPool(ctx, smolvm.Pool{
		Image: spec.Image, CPUs: spec.CPUs, MemoryMiB: spec.MemoryMiB, DiskMiB: spec.DiskMiB, Size: o.size,
	})
	if err == nil && o.wait && o.size > 0 {
		p, err = a.fillPool(ctx, p)
	}
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: poolData{p}, text: func(w io.Writer) {
		fmt.Fprintf(w, "%s: %d of %d wait\n", clean(p.Image), p.Ready, p.Size)
	}}, nil
}

// lookAtPool is how often a pool is looked at while it fills: making a member takes
// much longer, and nobody tells when one is there.
const lookAtPool = 100 * time.Millisecond

// fillPool waits until a pool is full.
func (a *app) fillPool(ctx context.Context, want smolvm.Pool) (smolvm.Pool, error) {
	tick := time.NewTicker(lookAtPool)
	defer tick.Stop()
	for {
		list, err := a.client().Pools(ctx)
		if err != nil {
			return want, err
		}
		p, ok := samePool(list, want)
		switch {
		case !ok:
			return want, api.Errorf(api.Conflict, "fill the pool of %q: it was drained meanwhile", want.Image)
		case p.Error != "":
			return p, api.Errorf(api.Unavailable, "fill the pool of %q: %s", p.Image, p.Error).
				WithRecovery("It is tried again; see: smolvm pool ls")
		case p.Ready >= p.Size:
			return p, nil
		}
		a.progress.tell(fmt.Sprintf("fill the pool: %d of %d wait", p.Ready, p.Size), 0, 0)
		select {
		case <-ctx.Done():
			return p, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// samePool finds the pool of the same image and sizes.
func samePool(list []smolvm.Pool, want smolvm.Pool) (smolvm.Pool, bool) {
	for _, p := range list {
		if p.Image == want.Image && p.CPUs == want.CPUs && p.MemoryMiB == want.MemoryMiB && p.DiskMiB == want.DiskMiB {
			return p, true
		}
	}
	return smolvm.Pool{}, false
}
