package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// masked stands for a value that is not shown.
const masked = "****"

// reloadHint is part of the data of env set and env unset.
const reloadHint = "Processes started from now on see the change."

func (a *app) newEnv() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Change the environment of a sandbox",
		Long: `Change the environment variables that every new process of a sandbox sees. Those
that run already keep what they were started with.`,
		Example: `  smolvm env set web MODE=test LEVEL=3
  smolvm env ls web --show-values
  smolvm env unset web LEVEL`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newEnvSet(), a.newEnvUnset(), a.newEnvList())
	return cmd
}

type envSetData struct {
	ID        string   `json:"vm_id"`
	Requested []string `json:"requested_keys"`
	Present   []string `json:"present_keys"`
	Hint      string   `json:"reload_hint"`
}

func (a *app) newEnvSet() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "set SANDBOX KEY=VALUE...",
		Short: "Set environment variables",
		Long: `Set environment variables of a sandbox. A KEY alone takes the value from smolvm's
own environment, so that a secret need not stand on the command line.`,
		Example: `  smolvm env set web MODE=test
  smolvm env set web API_KEY
  smolvm env set web --env-file .env`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.envSet(ctx, args[0], files, args[1:])
		}),
	}
	cmd.Flags().StringArrayVar(&files, "env-file", nil, "`FILE` of KEY=VALUE lines")
	return cmd
}

func (a *app) envSet(ctx context.Context, ref string, files, words []string) (outcome, error) {
	set, err := environment(files, words)
	if err != nil {
		return outcome{}, err
	}
	if len(set) == 0 {
		return outcome{}, usagef("no variable is named")
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	if _, err := sb.ChangeEnv(ctx, api.EnvChange{Set: set}); err != nil {
		return outcome{}, err
	}
	env, err := sb.Env(ctx)
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: envSetData{ref, keys(set), keys(env), reloadHint}}, nil
}

type envUnsetData struct {
	ID        string   `json:"vm_id"`
	Requested []string `json:"requested_keys"`
	Removed   []string `json:"removed_keys"`
	Missing   []string `json:"missing_keys"`
	Hint      string   `json:"reload_hint"`
}

func (a *app) newEnvUnset() *cobra.Command {
	return &cobra.Command{
		Use:               "unset SANDBOX KEY...",
		Short:             "Remove environment variables",
		Long:              `Remove environment variables of a sandbox. One that is not there is no error.`,
		Example:           `  smolvm env unset web MODE LEVEL`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			c, err := sb.ChangeEnv(ctx, api.EnvChange{Unset: args[1:]})
			if err != nil {
				return outcome{}, err
			}
			for _, k := range c.Missing {
				a.note("%s was not set", clean(k))
			}
			return outcome{data: envUnsetData{args[0], args[1:], nonNil(c.Unset), nonNil(c.Missing), reloadHint}}, nil
		}),
	}
}

type envListData struct {
	ID        string            `json:"vm_id"`
	Masked    bool              `json:"masked"`
	Variables map[string]string `json:"variables"`
}

func (a *app) newEnvList() *cobra.Command {
	var show bool
	cmd := &cobra.Command{
		Use:     "ls SANDBOX",
		Aliases: []string{"list"},
		Short:   "List environment variables",
		Long:    `List the environment variables of a sandbox. Values are masked unless asked for.`,
		Example: `  smolvm env ls web
  smolvm env ls web --show-values`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			env, err := sb.Env(ctx)
			if err != nil {
				return outcome{}, err
			}
			return envOutcome(args[0], env, show), nil
		}),
	}
	cmd.Flags().BoolVar(&show, "show-values", false, "print the values too")
	return cmd
}

func envOutcome(ref string, env map[string]string, show bool) outcome {
	shown := make(map[string]string, len(env))
	for k, v := range env {
		if !show {
			v = masked
		}
		shown[k] = v
	}
	return outcome{
		data: envListData{ref, !show, shown},
		text: func(w io.Writer) {
			for _, line := range pairs(shown) {
				fmt.Fprintln(w, clean(line))
			}
		},
	}
}

// keys returns a map's keys, sorted.
func keys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
