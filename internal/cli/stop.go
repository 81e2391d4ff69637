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
	var hibernate bool
	cmd := &cobra.Command{
		Use:   "stop SANDBOX...",
		Short: "Stop sandboxes; their disks are kept",
		Long: `End the processes of a sandbox, write its disk out and power it off. The disk is
kept for start. A stopped sandbox is left as it is.

With --hibernate nothing ends: memory and processes are written to disk and take
no memory of this machine then. start, and any command, continues them.

With several names the data of --json is a list, and one that cannot be stopped
does not keep the others running.`,
		Example: `  smolvm stop web
  smolvm stop --timeout 30s database
  smolvm stop --hibernate web database`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 0),
	}
	stop := a.onEach(func(ctx context.Context, sb *smolvm.Sandbox) error { return sb.Stop(ctx, o.stop()) })
	asleep := a.onEach(hibernateOne)
	cmd.RunE = func(cmd *cobra.Command, refs []string) error {
		switch {
		case !hibernate:
			return stop(cmd, refs)
		case cmd.Flags().Changed("timeout"):
			return usagef("--timeout and --hibernate exclude each other: no process has to end")
		}
		return asleep(cmd, refs)
	}
	o.register(cmd)
	cmd.Flags().BoolVar(&hibernate, "hibernate", false, "save memory and processes instead of ending them")
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
