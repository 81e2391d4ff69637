package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

type stepData struct {
	Step smolvm.Step `json:"step"`
}

func (a *app) newCheckpoint() *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint SANDBOX [LABEL]",
		Short: "Record a sandbox as a step of its history",
		Long: `Record a sandbox as it is now, memory, processes and disk, as a step of its
history, and print the step's number. rewind goes back to it, fork --at makes a
sandbox of it. create --checkpoint each-command records one after each command by
itself.`,
		Example: `  smolvm checkpoint web
  smolvm checkpoint web "before the upgrade"`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			var o smolvm.Checkpoint
			if len(args) == 2 {
				o.Label = args[1]
			}
			return a.checkpoint(ctx, o, args[0])
		}),
	}
}

func (a *app) checkpoint(ctx context.Context, o smolvm.Checkpoint, ref string) (outcome, error) {
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	s, err := sb.Checkpoint(ctx, o)
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: stepData{s}, text: func(w io.Writer) { fmt.Fprintln(w, s.Step) }}, nil
}
