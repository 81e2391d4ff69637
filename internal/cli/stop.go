package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// stopFlags say how long processes may take to end.
type stopFlags struct{ timeout durationFlag }

func (o *stopFlags) register(cmd *cobra.Command) {
	o.timeout = durationFlag(api.DefaultGrace)
	cmd.Flags().Var(&o.timeout, "timeout", "time that processes have to end before they are killed; 0 kills at once")
}

func (o *stopFlags) stop() smolvm.StopOptions {
	if o.timeout == 0 {
		return smolvm.StopOptions{GraceSeconds: -1}
	}
	return smolvm.StopOptions{GraceSeconds: time.Duration(o.timeout).Seconds()}
}

func (a *app) newStop() *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use:   "stop SANDBOX",
		Short: "Stop a sandbox; its disk is kept",
		Long: `End the processes of a sandbox, write its disk out and power it off. The disk is
kept for start. A stopped sandbox is left as it is.`,
		Example: `  smolvm stop web
  smolvm stop --timeout 30s database`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE:              a.onOne(func(ctx context.Context, sb *smolvm.Sandbox) error { return sb.Stop(ctx, o.stop()) }),
	}
	o.register(cmd)
	return cmd
}

func (a *app) newRestart() *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use:               "restart SANDBOX",
		Short:             "Stop a sandbox and start it again",
		Long:              `Stop a sandbox, as stop does, and start it again on the same disk.`,
		Example:           `  smolvm restart web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.onOne(func(ctx context.Context, sb *smolvm.Sandbox) error {
			if err := sb.Stop(ctx, o.stop()); err != nil {
				return err
			}
			return sb.Start(ctx)
		}),
	}
	o.register(cmd)
	return cmd
}
