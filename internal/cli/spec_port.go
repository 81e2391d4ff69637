package cli

import (
	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
)

// portHelp says how ports are written.
const portHelp = "[IP:][HOST:]GUEST[/udp]"

// portFlags are the ports of the host that lead into a sandbox.
type portFlags struct{ ports []string }

func (f *portFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.ports, "port", "p", nil,
		"lead a port of this host into the sandbox, `"+portHelp+"` (default: the same port of 127.0.0.1; 0 picks one)")
}

func (f *portFlags) parse() ([]api.Port, error) { return parsePorts(f.ports) }

func parsePorts(words []string) ([]api.Port, error) {
	var out []api.Port
	for _, w := range words {
		p, err := api.ParsePort(w)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}
