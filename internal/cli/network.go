package cli

import "github.com/spf13/cobra"

func (a *app) newNetwork() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "network",
		Aliases: []string{"net"},
		Short:   "Say what sandboxes may reach, and see what they did",
		Long: `A sandbox reaches what its policy allows, and nothing that lies around its host
unless the policy names it. All that it tries is recorded, with what was decided
and why.`,
		Example: `  smolvm network check policy.yaml https://pypi.org/simple/
  smolvm network groups`,
	}
	cmd.RunE = group(cmd)
	// One line each, so that parts of the network can be added side by side.
	cmd.AddCommand(a.newNetworkCheck())
	cmd.AddCommand(a.newNetworkGroups())
	cmd.AddCommand(a.newNetworkShow())
	cmd.AddCommand(a.newNetworkSet())
	cmd.AddCommand(a.newNetworkHar())
	cmd.AddCommand(a.newNetworkLog())
	cmd.AddCommand(a.newNetworkPcap())
	cmd.AddCommand(a.newNetworkPending())
	cmd.AddCommand(a.newNetworkApprove())
	cmd.AddCommand(a.newNetworkDeny())
	cmd.AddCommand(a.newNetworkExport())
	return cmd
}
