package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// parseStep reads the number of a step.
func parseStep(word string) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil {
		return 0, usagef("%.80q is not a step: see smolvm history", word)
	}
	return n, checkStep(n)
}

func checkStep(n int) error {
	if n < 0 {
		return api.Errorf(api.Invalid, "step %d is negative", n).WithRecovery("List the steps with: smolvm history SANDBOX")
	}
	return nil
}

// completeSteps completes steps of the sandbox that the first argument names, up to
// n arguments after it, and the sandbox itself before that; zero: of a flag's value.
func (a *app) completeSteps(n int) cobra.CompletionFunc {
	sandboxes := completeWith(a.completeSandboxes, 1)
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) == 0 && n > 0:
			return sandboxes(cmd, args, word)
		case len(args) == 0 || n > 0 && len(args) > n:
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		h, err := a.history(ctx, args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var words []string
		for _, s := range h.Steps {
			words = append(words, fmt.Sprintf("%d\t%s", s.Step, clean(s.Label)))
		}
		return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func (a *app) history(ctx context.Context, ref string) (smolvm.History, error) {
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return smolvm.History{}, err
	}
	return sb.History(ctx)
}
