package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

// completionTime bounds what the Tab key waits for.
const completionTime = 2 * time.Second

func (a *app) newCompletion() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a completion script for a shell",
		Long: `Print a script that teaches bash, zsh or fish to complete commands, flags and the
names of sandboxes and images.`,
		Example: `  source <(smolvm completion bash)
  smolvm completion zsh > "${fpath[1]}/_smolvm"
  smolvm completion fish > ~/.config/fish/completions/smolvm.fish`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			}
			return fmt.Errorf("shell %q", args[0]) // ValidArgs lets nothing else through
		},
	}
}

// completer lists what a word can be.
type completer func(ctx context.Context) ([]string, error)

// complete completes a flag's value.
func complete(cmd *cobra.Command, flag string, list completer) {
	must(cmd.RegisterFlagCompletionFunc(flag, completeWith(list, 0)))
}

// fixed completes a flag that has few values.
func fixed(cmd *cobra.Command, flag string, values ...string) {
	must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

// completeWith completes the first n arguments; zero: all.
func completeWith(list completer, n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if n > 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		words, err := list(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) completeSandboxes(ctx context.Context) ([]string, error) {
	list, err := a.client().List(ctx, smolvm.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, nil
}

// must is for mistakes in this package that every run of it would show.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
