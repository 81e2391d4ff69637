package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// networkData is the data of commands about one sandbox's network.
type networkData struct {
	ID      string      `json:"vm_id"`
	Network api.Network `json:"network"`
}

func (a *app) newNetworkShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show SANDBOX",
		Short: "Show what a sandbox may reach",
		Long: `Show what a sandbox may reach: its mode, its bounds, and its policy with the rules
that answers have put first. As --json the policy can be edited and given to
network set.`,
		Example: `  smolvm network show web
  smolvm network show web --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			n, err := sb.Network(ctx)
			if err != nil {
				return outcome{}, err
			}
			return networkOutcome(args[0], n), nil
		}),
	}
}

func (a *app) newNetworkSet() *cobra.Command {
	var f policyFlags
	var add bool
	cmd := &cobra.Command{
		Use:   "set SANDBOX [POLICY]",
		Short: "Change what a sandbox may reach",
		Long: `Change what a sandbox may reach, at once. The policy in a file, or what the flags
say, takes the place of the one that there was; with --add the rules of --allow
and --deny are put in front of it instead. Connections that are not allowed any
more end. A sandbox that does not run begins with it when it starts.`,
		Example: `  smolvm network set web policy.yaml
  smolvm network set web --allow pypi.org:443 --allow @github
  smolvm network set web --add --deny telemetry.example.com
  smolvm network set web --network none`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			if len(args) == 2 {
				if f.file != "" {
					return outcome{}, usagef("a policy is named twice")
				}
				f.file = args[1]
			}
			change, err := f.change(add)
			if err != nil {
				return outcome{}, err
			}
			sb, err := a.sandbox(ctx, args[0])
			if err != nil {
				return outcome{}, err
			}
			n, err := sb.SetNetwork(ctx, change)
			if err != nil {
				return outcome{}, err
			}
			return networkOutcome(args[0], n), nil
		}),
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&add, "add", false, "put the rules in front of the policy that there is")
	return cmd
}

// change is what the flags ask for.
func (f *policyFlags) change(add bool) (c smolvm.NetworkChange, err error) {
	if !f.said() {
		return c, usagef("nothing is to be changed: name a policy, or use --network, --allow or --deny")
	}
	if !add {
		c.Mode, c.Policy, err = f.parse()
		return c, err
	}
	if f.mode != "" || f.file != "" {
		return c, usagef("--add takes --allow and --deny alone")
	}
	c.Add, err = flagRules(f.deny, f.allow)
	return c, err
}

func networkOutcome(ref string, n api.Network) outcome {
	return outcome{data: networkData{ref, n}, text: func(w io.Writer) { printNetwork(w, n) }}
}

// printNetwork prints a network: what is not the default, and the policy as one
// writes it.
func printNetwork(w io.Writer, n api.Network) {
	printFields(w, [][]string{
		{"network", networkMode(n)},
		{"record", n.Log},
		{"name servers", clean(strings.Join(n.DNS, " "))},
		{"ask timeout", idle(n.AskSeconds)},
		{"rate", rate(n.RateKiB)},
		{"connections", positive(n.Conns)},
		{"quota", quota(n.QuotaMiB)},
	})
	if n.Policy == nil {
		return
	}
	var b bytes.Buffer
	out := yaml.NewEncoder(&b)
	out.SetIndent(2)
	if err := out.Encode(n.Policy); err != nil {
		return // it came as JSON: that cannot be
	}
	fmt.Fprintln(w)
	for line := range strings.Lines(b.String()) {
		fmt.Fprintln(w, clean(strings.TrimSuffix(line, "\n")))
	}
}

// networkMode says a mode in words.
func networkMode(n api.Network) string {
	switch {
	case n.Mode == api.NetworkNone:
		return "none: nothing can be reached"
	case n.Mode == api.NetworkOpen:
		return "open: the public internet, and the networks around this host"
	case n.Policy == nil:
		return "the public internet"
	}
	return fmt.Sprintf("policy of %d rules, default %s", len(n.Policy.Rules), cmp.Or(n.Policy.Default, api.PolicyDeny))
}

func positive(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func rate(kib int) string {
	if kib == 0 {
		return ""
	}
	f := kibFlag(kib)
	return f.String() + " a second each way"
}

func quota(mibs int64) string {
	if mibs == 0 {
		return ""
	}
	return mib(int(mibs))
}
