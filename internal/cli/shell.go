package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

// loginLine starts the user's own shell, which the agent names in SHELL, as a
// login shell that reads commands.
const loginLine = `exec "${SHELL:-/bin/sh}" -l`

func (a *app) newShell() *cobra.Command {
	var dir, user string
	cmd := &cobra.Command{
		Use:   "shell SANDBOX",
		Short: "Open a shell in a sandbox",
		Long: `Open the user's own login shell in a running sandbox and exit with its status. If
standard input is no terminal, the shell reads its commands from it.`,
		Example: `  smolvm shell web
  smolvm shell -u agent web
  echo 'uname -a' | smolvm shell web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.shell(ctx, args[0], dir, user)
		}),
	}
	cmd.Flags().StringVarP(&dir, "cwd", "w", "", "working directory (default: the image's, else the user's home)")
	cmd.Flags().StringVarP(&user, "user", "u", "", "`USER[:GROUP]`, by name or number (default: the image's, else root)")
	return cmd
}

func (a *app) shell(ctx context.Context, ref, dir, user string) (outcome, error) {
	f := commandFlags{dir: dir, user: user, shell: string(smolvm.RawShell), interactive: true, tty: a.Keyboard != nil}
	c, err := a.command(&f, []string{loginLine})
	if err != nil {
		return outcome{}, err
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	data, err := a.execute(ctx, sb, c)
	return commandOutcome(data), err
}
