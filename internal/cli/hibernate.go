package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newHibernate() *cobra.Command {
	return &cobra.Command{
		Use:   "hibernate SANDBOX...",
		Short: "Write sandboxes to disk, processes included",
		Long: `Write the memory and the processes of a sandbox to disk and give its memory back
to this machine. start continues it where it was, and so does the next command that
is run in it. The same as: smolvm stop --hibernate.`,
		Example: `  smolvm hibernate web
  smolvm exec web -- uptime   # continues it first`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 0),
		RunE:              a.onEach(hibernateOne),
	}
}

func hibernateOne(ctx context.Context, sb *smolvm.Sandbox) error {
	return sb.Stop(ctx, smolvm.StopOptions{Hibernate: true})
}
