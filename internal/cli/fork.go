package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type forkOptions struct {
	smolvm.ForkOptions
	step int
}

func (a *app) newFork() *cobra.Command {
	var o forkOptions
	cmd := &cobra.Command{
		Use:   "fork SANDBOX",
		Short: "Make running copies of a sandbox",
		Long: `Make children of a running sandbox and print their names. Each has its memory,
processes and disk as they are now, or with --at as they were at a step of its
history, and an identity of its own: name, machine id, SSH host keys, random
numbers. The sandbox goes on. All children come up or none.

Several children of the name N are called N-1, N-2 and so on.`,
		Example: `  smolvm fork web
  smolvm fork -n 8 --name try web
  smolvm fork --at 3 web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) (outcome, error) {
		if cmd.Flags().Changed("at") {
			o.At = &o.step
		}
		return a.fork(ctx, o.ForkOptions, args[0])
	})
	fs := cmd.Flags()
	fs.IntVarP(&o.N, "number", "n", 1, "`N` children")
	fs.StringVar(&o.Name, "name", "", "`NAME` of the child, or the beginning of theirs (default: generated)")
	fs.IntVar(&o.step, "at", 0, "as the sandbox was at this `STEP` of its history (default: as it is now)")
	must(cmd.RegisterFlagCompletionFunc("at", a.completeSteps(0)))
	return cmd
}

func (a *app) fork(ctx context.Context, o smolvm.ForkOptions, ref string) (outcome, error) {
	if o.N < 1 || o.N > api.MaxFork {
		return outcome{}, api.Errorf(api.Invalid, "fork into %d children: not within 1 to %d", o.N, api.MaxFork).
			WithRecovery("For example: -n 2.")
	}
	if o.At != nil {
		if err := checkStep(*o.At); err != nil {
			return outcome{}, err
		}
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	a.progress.tell(fmt.Sprintf("fork into %d", o.N), 0, 0)
	children, err := sb.Fork(ctx, o)
	if err != nil {
		return outcome{}, err
	}
	list := make([]smolvm.Info, len(children))
	for i, child := range children {
		if list[i], err = child.Info(ctx); err != nil {
			return outcome{}, err
		}
	}
	return listed(list), nil
}
