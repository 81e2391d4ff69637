package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
)

const (
	budgetFlag = "template-budget"
	budgetEnv  = "SMOLVM_TEMPLATE_BUDGET"
)

// registerBudget gives a command that can make a template the flag that bounds them.
func (a *app) registerBudget(cmd *cobra.Command) {
	a.budget = api.DefaultTemplateBudgetMiB
	cmd.Flags().Var(&a.budget, budgetFlag,
		"disk space for templates; those not used for longest make room ($"+budgetEnv+")")
}

// budgetFromEnv fills the flag from the environment where it is not given. Only
// commands that have it look there: a mistake in it must not keep ls from working.
func budgetFromEnv(cmd *cobra.Command, _ []string) error {
	f, value := cmd.Flags().Lookup(budgetFlag), os.Getenv(budgetEnv)
	if f == nil || f.Changed || value == "" {
		return nil
	}
	if err := f.Value.Set(value); err != nil {
		return &usageError{
			err:  api.Errorf(api.Invalid, "read $%s: %w", budgetEnv, err),
			hint: "Set it to a size such as 10G, or unset it.",
		}
	}
	return nil
}
