package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newWait() *cobra.Command {
	return &cobra.Command{
		Use:   "wait SANDBOX [PROCESS]",
		Short: "Wait until a sandbox, or a process in it, ends",
		Long: `Wait until a sandbox has stopped, hibernated, failed or been removed, and print its
state. With the name of a background process, wait for that and exit with its
status.`,
		Example: `  smolvm wait web
  smolvm wait web p1`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			if len(args) == 2 {
				return waitProcess(ctx, sb, args[1])
			}
			info, err := sb.Wait(ctx)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: sandboxData{info}, text: func(w io.Writer) { fmt.Fprintln(w, info.State) }}, nil
		}),
	}
}
