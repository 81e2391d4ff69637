package cli

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/agents"
)

type agentOptions struct {
	specFlags
	project, version     string
	rw, keep, applyPatch bool
	timeout              durationFlag

	keys []string // names of the secrets that are the agent's keys
}

func (a *app) newAgent() *cobra.Command {
	var o agentOptions
	cmd := &cobra.Command{
		Use:   "agent " + strings.Join(agents.Names(), "|") + " [--] [ARG...]",
		Short: "Run a coding agent on a copy of this folder",
		Long: `Make a sandbox with a coding agent and a copy of the project, run the agent on this
terminal, and show what it changed. The changes are written to a patch file, or
with --apply-patch applied; then the sandbox is removed. The exit status is the
agent's. Flags end where the agent's own arguments begin.

The agent's key is taken from the environment here, or with --secret-file from a
file. The sandbox has a placeholder; the key itself is put into requests to the
provider's hosts, which with what --allow says are all that can be reached. The
agent works as an unprivileged user and does not ask before it acts: the sandbox is
the fence. Nothing of your home but the project goes in.

The first time an image with the agent is made of its npm package, which npm on
this host fetches; no script of a package is run here.`,
		Example: `  smolvm agent claude
  smolvm agent claude -- -p 'fix the failing test'
  smolvm agent codex --allow @pypi --apply-patch -- exec 'add a command line'
  smolvm agent pi --secret-file ANTHROPIC_API_KEY=key.txt
  smolvm agent opencode --rw --keep --project ~/site
  git diff | smolvm agent claude -- -p 'review this'`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeAgents,
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) (outcome, error) {
		argv, err := againFlags(cmd, args[1:])
		if err != nil {
			return outcome{}, err
		}
		return a.agent(ctx, &o, args[0], argv)
	})
	o.register(a, cmd)
	return cmd
}

func (o *agentOptions) register(a *app, cmd *cobra.Command) {
	o.specFlags.register(a, cmd)
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	o.memory, o.cpus = agents.MemoryMiB, agents.CPUs
	fs.Lookup("memory").DefValue = o.memory.String()
	fs.Lookup("cpus").DefValue = "2"
	fs.Lookup("image").Usage = "image that has the agent's program (default: made of its npm package)"
	fs.Lookup("network").Usage = "none, policy, or open: what is around the host too (default policy: the agent's provider)"
	fs.Lookup("allow").Usage = "allow `HOST|CIDR|@GROUP[:PORT]` beside the agent's provider"
	fs.StringVar(&o.project, "project", ".", "`FOLDER` that the agent works on; it has the same path in the sandbox")
	fs.StringVar(&o.version, "agent-version", "", "version of the agent's npm package (default: one that is known to work)")
	fs.BoolVar(&o.rw, "rw", false, "give the agent the folder itself instead of a copy")
	fs.BoolVar(&o.keep, "keep", false, "keep the sandbox")
	fs.BoolVar(&o.applyPatch, "apply-patch", false, "apply the changes to the folder when the agent has ended")
	fs.Var(&o.timeout, "timeout", "end the agent after this time, such as 30 (seconds) or 5m (default: never)")
	for _, name := range []string{"from-snapshot", "checkpoint", "no-template"} {
		fs.Lookup(name).Hidden = true // of no use here
	}
	cmd.MarkFlagsMutuallyExclusive("rw", "apply-patch")
}

func completeAgents(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return agents.Names(), cobra.ShellCompDirectiveNoFileComp
}

// prepare returns the sandbox that is asked for, but for its image, and completes
// the options.
func (o *agentOptions) prepare(p agents.Preset) (smolvm.Spec, error) {
	if err := (agents.Recipe{Preset: p, Version: o.version}).Check(); err != nil {
		return smolvm.Spec{}, err
	}
	if o.snapshot != "" || o.image != "" && o.version != "" {
		return smolvm.Spec{}, usagef("--agent-version and --image exclude each other, and agent takes no --from-snapshot")
	}
	if err := o.findProject(); err != nil {
		return smolvm.Spec{}, err
	}
	if err := o.findKeys(p); err != nil {
		return smolvm.Spec{}, err
	}
	s, err := o.spec()
	if err != nil {
		return s, err
	}
	s.Ephemeral = !o.keep
	s.Network.Policy = o.policy(s.Network, p.Hosts(o.keys))
	if o.rw {
		s.Mounts = append(s.Mounts, api.Mount{Host: o.project, Writable: true})
	}
	return s, s.WithDefaults().Check()
}

// findProject makes the project's path whole, and refuses what is more than one.
func (o *agentOptions) findProject() error {
	dir, err := filepath.Abs(o.project)
	if err != nil {
		return api.Errorf(api.Unavailable, "find out where this is: %w", err)
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return api.Errorf(api.Invalid, "project %q: %s is no folder of this host", o.project, dir)
	}
	o.project = dir
	if home, err := os.UserHomeDir(); dir == "/" || err == nil && (dir == filepath.Clean(home) || strings.HasPrefix(home, dir+"/")) {
		return api.Errorf(api.Invalid, "project %q is, or holds, a whole home", dir).
			WithRecovery("Go to the project's own folder, or name it with --project.")
	}
	return nil
}

// findKeys makes a secret of each of the agent's keys that is here. Without any the
// agent could do nothing.
func (o *agentOptions) findKeys(p agents.Preset) error {
	for _, k := range p.Keys {
		inFile := slices.ContainsFunc(o.secret.files, func(w string) bool { return strings.HasPrefix(w, k.Name+"=") })
		said := slices.ContainsFunc(o.secret.secrets, func(w string) bool { return strings.HasPrefix(w, k.Name+"=") })
		if said || os.Getenv(k.Name) == "" && !inFile {
			continue
		}
		o.secret.secrets = append(o.secret.secrets, k.Name+"="+strings.Join(k.Hosts, ","))
		o.keys = append(o.keys, k.Name)
	}
	if len(o.keys) > 0 || len(o.secret.secrets) > 0 {
		return nil
	}
	names := strings.Join(p.KeyNames(), " or ")
	return api.Errorf(api.Invalid, "%s has no key: %s is not set here", p.Name, names).
		WithRecovery("Set it, or take it from a file with --secret-file %s=FILE.", p.Keys[0].Name)
}

// policy allows the agent's provider beside what flags and policy file say. Other
// than elsewhere, what nobody speaks of is denied.
func (o *agentOptions) policy(n api.Network, hosts []string) *api.Policy {
	if n.Mode == api.NetworkNone || n.Mode == api.NetworkOpen {
		return n.Policy
	}
	p := api.Policy{Version: 1, Default: api.PolicyDeny}
	if n.Policy != nil {
		p.Rules = n.Policy.Rules
		if o.network.file != "" {
			p.Default = n.Policy.Default
		}
	}
	if len(hosts) > 0 {
		p.Rules = append(p.Rules, api.Rule{
			ID: "agent", Action: api.PolicyAllow, Domains: hosts, Ports: []string{"443"}, Note: "the agent's provider",
		})
	}
	return &p
}
