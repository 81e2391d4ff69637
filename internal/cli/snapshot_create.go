package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newSnapshotCreate() *cobra.Command {
	var o smolvm.TakeSnapshot
	cmd := &cobra.Command{
		Use:   "create SANDBOX [NAME]",
		Short: "Save a sandbox under a name",
		Long: `Save a sandbox as it is now and print the snapshot's name. A running one goes on;
it stands still only while memory is copied. With --disk-only memory and processes
are left out: such a snapshot boots, on any machine that has the image. A stopped
sandbox has only a disk to be saved.`,
		Example: `  smolvm snapshot create web ready
  smolvm snapshot create --disk-only web installed`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			if len(args) == 2 {
				if o.Name = args[1]; o.Name == "" {
					return outcome{}, usagef("the snapshot's name is empty")
				}
			}
			return a.snapshotCreate(ctx, o, args[0])
		}),
	}
	cmd.Flags().BoolVar(&o.DiskOnly, "disk-only", false, "save the disk alone")
	return cmd
}

func (a *app) snapshotCreate(ctx context.Context, o smolvm.TakeSnapshot, ref string) (outcome, error) {
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	a.progress.tell("save the sandbox", 0, 0)
	s, err := sb.TakeSnapshot(ctx, o)
	if err != nil {
		return outcome{}, err
	}
	return oneSnapshot(s), nil
}
