package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newRename() *cobra.Command {
	return &cobra.Command{
		Use:               "rename SANDBOX NAME",
		Short:             "Give a sandbox another name",
		Long:              `Give a sandbox another name. Its id does not change.`,
		Example:           `  smolvm rename brave-otter web`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			if err := sb.Rename(ctx, args[1]); err != nil {
				return outcome{}, err
			}
			return describe(ctx, sb)
		}),
	}
}
