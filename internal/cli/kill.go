package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

type killData struct {
	Process string `json:"process"`
	Signal  string `json:"signal"`
}

func (a *app) newKill() *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:   "kill SANDBOX [PROCESS]",
		Short: "Signal a background process, or power a sandbox off at once",
		Long: `Send a signal to a background process and all it started. Without a process the
sandbox is powered off at once, without a chance for what runs in it; what is not
yet on its disk is lost.`,
		Example: `  smolvm kill web p1
  smolvm kill --signal SIGKILL web p1
  smolvm kill web`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
	}
	powerOff := a.onOne(func(ctx context.Context, sb *smolvm.Sandbox) error {
		return sb.Stop(ctx, smolvm.StopOptions{GraceSeconds: -1})
	})
	signalOne := a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
		if err := sb.SignalProcess(ctx, args[1], signal); err != nil {
			return outcome{}, err
		}
		return outcome{data: killData{args[1], signal}}, nil
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return powerOff(cmd, args)
		}
		return signalOne(cmd, args)
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGTERM", "signal for the process")
	fixed(cmd, "signal", "SIGTERM", "SIGKILL", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
	return cmd
}
