package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/undo"
)

type runOptions struct {
	specFlags
	commandFlags
	keep, verbose bool
}

// runData is the data of run.
type runData struct {
	*commandData
	Sandbox smolvm.Info `json:"sandbox"`
}

func (a *app) newRun() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [--] [COMMAND [ARG...]]",
		Short: "Run one command in a sandbox of its own",
		Long: `Make a sandbox, run one command in it, and remove it, however the command or
smolvm ends. The exit status is the command's. Without a command the image's own
is run. Flags end where the command begins.

Standard input is passed on where it is a pipe or a file, and with -i. With
--keep the sandbox stays; its name is printed on standard error.`,
		Example: `  smolvm run -- python3 -c 'print(6 * 7)'
  smolvm run python3 - < script.py
  smolvm run -it -- bash
  smolvm run --memory 2G --timeout 5m -- make test
  smolvm run --min-isolation hardware --json -- ./untrusted`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              a.do(func(ctx context.Context, args []string) (outcome, error) { return a.run(ctx, &o, args) }),
	}
	o.specFlags.register(a, cmd)
	o.commandFlags.register(cmd)
	cmd.Flags().BoolVar(&o.keep, "keep", false, "keep the sandbox")
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "say on standard error how the sandbox ran and where the time went")
	return cmd
}

func (a *app) run(ctx context.Context, o *runOptions, argv []string) (outcome, error) {
	begin := time.Now()
	spec, err := o.spec()
	if err != nil {
		return outcome{}, notOurs(err)
	}
	o.interactive = o.interactive || a.InPiped
	c, err := a.command(&o.commandFlags, argv)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	a.leaveStderr()
	spec.Ephemeral = !o.keep
	sb, err := a.client().Create(ctx, spec)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	if !o.keep {
		defer a.discard(ctx, sb)
	}
	info, err := sb.Info(ctx)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	a.progress.clear()
	data, err := a.execute(ctx, sb, c)
	if o.keep {
		a.note("kept %s", clean(info.Name))
	}
	if data == nil {
		return outcome{}, err
	}
	if o.verbose {
		a.sayHow(info, data, time.Since(begin))
	}
	return outcome{data: runData{data, info}}, err
}

// discard removes the sandbox of a run, also where ctx has ended. What cannot be
// removed now is by gc: the supervisor sees that its client is gone.
func (a *app) discard(ctx context.Context, sb *smolvm.Sandbox) {
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	if err := sb.Remove(ctx); err != nil {
		a.note("smolvm: %s", cleanText(err.Error()))
		a.note("next: smolvm gc")
	}
}

// sayHow says how a run was isolated and what took how long.
func (a *app) sayHow(s smolvm.Info, d *commandData, total time.Duration) {
	a.note("sandbox %s: image %s, isolation %s (%s, %s)", clean(s.Name), clean(s.Image), s.Isolation, s.VMM, s.Accel)
	a.note("start %s", timings(s.Timings))
	a.note("command %.0f ms, all %d ms", d.WallMS, total.Milliseconds())
}
