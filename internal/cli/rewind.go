package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newRewind() *cobra.Command {
	return &cobra.Command{
		Use:   "rewind SANDBOX STEP",
		Short: "Make a sandbox what it was at a step",
		Long: `Make a sandbox what it was at a step of its history: memory, processes and disk.
What it is now is recorded as a step first, so that nothing is lost. Commands that
run end with an error.`,
		Example: `  smolvm history web
  smolvm rewind web 3`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeSteps(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			step, err := parseStep(args[1])
			if err != nil {
				return err
			}
			return a.onOne(func(ctx context.Context, sb *smolvm.Sandbox) error {
				a.progress.tell(fmt.Sprintf("rewind to step %d", step), 0, 0)
				return sb.Rewind(ctx, step)
			})(cmd, args)
		},
	}
}
