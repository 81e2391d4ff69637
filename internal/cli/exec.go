package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type execOptions struct {
	commandFlags
	env, envFile []string
	detach       bool
	tag          string
}

// processData is the data of exec --detach.
type processData struct {
	Process api.Process `json:"process"`
}

func (a *app) newExec() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec SANDBOX [--] COMMAND [ARG...]",
		Short: "Run a command in a sandbox",
		Long: `Run a command in a sandbox that runs, or is hibernated and continues now, and exit
with its status. Flags end where the command begins.

Standard input is passed on with -i only, so that exec can be used in a loop
that reads. With --detach the command goes on in the background: its name is
printed, and ps, attach, wait and kill take it; with -i it waits for input that
attach -i sends.`,
		Example: `  smolvm exec web -- ls -l /srv
  smolvm exec web -w /srv -u agent -e MODE=test -- ./run
  smolvm exec -i web -- tar -x < files.tar
  smolvm exec -it web -- python3
  smolvm exec --shell raw web 'ps | wc -l'
  smolvm exec -d --tag server web -- python3 -m http.server
  smolvm exec --timeout 30 --json web -- make test`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) (outcome, error) {
		argv, err := againFlags(cmd, args[1:])
		if err != nil {
			return outcome{}, err
		}
		return a.exec(ctx, &o, args[0], argv)
	})
	o.register(cmd)
	fs := cmd.Flags()
	fs.StringArrayVarP(&o.env, "env", "e", nil, "environment variable `KEY=VALUE`; KEY alone takes the value from here")
	fs.StringArrayVar(&o.envFile, "env-file", nil, "`FILE` of KEY=VALUE lines")
	fs.BoolVarP(&o.detach, "detach", "d", false, "run in the background and print the process's name")
	fs.StringVar(&o.tag, "tag", "", "`TEXT` that ps shows for a background process")
	return cmd
}

func (a *app) exec(ctx context.Context, o *execOptions, ref string, argv []string) (outcome, error) {
	if len(argv) == 0 {
		return outcome{}, usagef("no command is given")
	}
	c, err := a.command(&o.commandFlags, argv)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	if c.Env, err = environment(o.envFile, o.env); err != nil {
		return outcome{}, notOurs(err)
	}
	c.Tag = o.tag
	if o.detach && o.tty {
		return outcome{}, usagef("--detach and --tty exclude each other")
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	if o.detach {
		return a.background(ctx, sb, c)
	}
	data, err := a.execute(ctx, sb, c)
	return commandOutcome(data), err
}

func (a *app) background(ctx context.Context, sb *smolvm.Sandbox, c smolvm.Command) (outcome, error) {
	a.leaveStderr()
	c.KeepStdin, c.Stdin = c.Stdin != nil, nil
	p, err := sb.Background(ctx, c)
	if err != nil {
		return outcome{}, cannotRun(err)
	}
	return outcome{
		data: processData{p},
		text: func(w io.Writer) { fmt.Fprintln(w, clean(p.ID)) },
	}, nil
}

// commandOutcome is the outcome of a command whose output went through already,
// or is its data. It takes nil for a command that never ran.
func commandOutcome(d *commandData) outcome {
	if d == nil {
		return outcome{}
	}
	return outcome{data: d}
}
