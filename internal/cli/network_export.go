package cli

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
)

type exportedPolicy struct {
	ID     string     `json:"vm_id"`
	Output string     `json:"output,omitempty"`
	Policy api.Policy `json:"policy"`
}

func (a *app) newNetworkExport() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export SANDBOX",
		Short: "Write a sandbox's policy, with what was answered, as a file",
		Long: `Write what holds for a sandbox as a policy file: its policy with the rules that
answers have put first. Rules that answers made are called approved-N and denied-N.
The file is for create --network-policy of other sandboxes, and for network check.
It works in every state of the sandbox.`,
		Example: `  smolvm network export web -o policy.yaml
  smolvm create --network-policy policy.yaml`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.networkExport(ctx, args[0], output)
		}),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write (default: standard output)")
	return cmd
}

func (a *app) networkExport(ctx context.Context, ref, output string) (outcome, error) {
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	n, err := sb.Network(ctx)
	if err != nil {
		return outcome{}, err
	}
	policy, err := policyOf(n)
	if err != nil {
		return outcome{}, err
	}
	d := exportedPolicy{ID: ref, Output: output, Policy: policy.Document()}
	if output == "" || output == "-" {
		return outcome{data: d, text: func(w io.Writer) { w.Write(policy.YAML()) }}, nil
	}
	if err := os.WriteFile(output, policy.YAML(), 0o666); err != nil {
		return outcome{}, api.Errorf(api.Invalid, "write policy: %w", err)
	}
	a.note("policy of %d rules in %s", len(d.Policy.Rules), clean(output))
	return outcome{data: d}, nil
}

// policyOf returns the policy that holds: the user's, or that of the mode.
func policyOf(n api.Network) (*egress.Policy, error) {
	if n.Policy != nil {
		return egress.New(*n.Policy)
	}
	return egress.Mode(n.Mode)
}
