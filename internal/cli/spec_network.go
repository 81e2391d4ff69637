package cli

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
)

// networkFlags say what a sandbox may reach, and how.
type networkFlags struct {
	policyFlags
	log   string
	dns   []string
	ask   durationFlag
	rate  kibFlag
	conns int
	quota mibFlag
}

func (f *networkFlags) register(cmd *cobra.Command) {
	f.policyFlags.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.log, "network-log", "", "what the network's record holds: flows, or http with each request, for which TLS is opened (default flows)")
	fs.StringArrayVar(&f.dns, "dns", nil, "name server to ask, `ADDRESS[:PORT]` (default: the host's)")
	fs.Var(&f.ask, "ask-timeout", "how long a flow waits for a person's answer (default 60s)")
	fs.Var(&f.rate, "net-rate", "bound each direction to so many KiB a second, or such as 512K or 10M")
	fs.IntVar(&f.conns, "net-conns", 0, "bound how many flows are open at once")
	fs.Var(&f.quota, "net-quota", "bound what the sandbox may send and receive in its life, in MiB, or such as 2G")
	fixed(cmd, "network-log", api.NetworkLogFlows, api.NetworkLogHTTP)
}

func (f *networkFlags) network() (api.Network, error) {
	mode, policy, err := f.parse()
	return api.Network{
		Mode: mode, Policy: policy, Log: f.log, DNS: f.dns, AskSeconds: f.ask.seconds(),
		RateKiB: int(f.rate), Conns: f.conns, QuotaMiB: int64(f.quota),
	}, err
}

// policyFlags say what may be reached.
type policyFlags struct {
	mode, file  string
	allow, deny []string
}

func (f *policyFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.mode, "network", "", "none, policy, or open: what is around the host too (default policy: without another one, the public internet)")
	fs.StringVar(&f.file, "network-policy", "", "policy `FILE`, - for standard input (see: smolvm network check)")
	fs.StringArrayVar(&f.allow, "allow", nil, "allow `HOST|CIDR|@GROUP[:PORT]`, and without a policy nothing else")
	fs.StringArrayVar(&f.deny, "deny", nil, "deny `HOST|CIDR|@GROUP[:PORT]`, before all that is allowed")
	fixed(cmd, "network", api.NetworkNone, api.NetworkPolicy, api.NetworkOpen)
}

// said reports whether any of the flags was used.
func (f *policyFlags) said() bool {
	return f.mode != "" || f.file != "" || len(f.allow)+len(f.deny) > 0
}

// parse returns what the flags mean: the rules of flags first, those that deny before
// those that allow, then the file's.
func (f *policyFlags) parse() (mode string, p *api.Policy, err error) {
	if f.file == "" && len(f.allow)+len(f.deny) == 0 {
		return f.mode, nil, nil
	}
	if f.mode != "" && f.mode != api.NetworkPolicy {
		return "", nil, usagef("--network %s takes no --network-policy, --allow or --deny", f.mode)
	}
	d := api.Policy{Version: 1, Default: api.PolicyAllow}
	if len(f.allow) > 0 {
		d.Default = api.PolicyDeny
	}
	if f.file != "" {
		if d, err = readPolicy(f.file); err != nil {
			return "", nil, err
		}
	}
	rules, err := flagRules(f.deny, f.allow)
	if err != nil {
		return "", nil, err
	}
	d.Rules = append(rules, d.Rules...)
	compiled, err := egress.New(d)
	if err != nil {
		return "", nil, err
	}
	d = compiled.Document() // with its rules' names
	return f.mode, &d, nil
}

// readPolicy reads a policy file.
func readPolicy(path string) (api.Policy, error) {
	p, err := readPolicyFile(path, os.Stdin, time.Now())
	if err != nil {
		return api.Policy{}, err
	}
	return p.Document(), nil
}

// flagRules makes a rule of each word.
func flagRules(deny, allow []string) ([]api.Rule, error) {
	var rules []api.Rule
	for _, l := range []struct {
		action api.PolicyAction
		words  []string
	}{{api.PolicyDeny, deny}, {api.PolicyAllow, allow}} {
		for _, w := range l.words {
			r, err := flagRule(w)
			if err != nil {
				return nil, err
			}
			r.Action = l.action
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// flagRule reads HOST|CIDR|@GROUP[:PORT]. What it names is checked with the policy.
func flagRule(word string) (r api.Rule, err error) {
	where, port, err := cutPort(word)
	switch {
	case err != nil || where == "":
		return r, usagef("%q is not HOST, CIDR or @GROUP, perhaps with :PORT", word)
	case where[0] == '@':
		r.Groups = []string{where[1:]}
	case isCIDR(where):
		r.CIDRs = []string{where}
	default:
		r.Domains = []string{where}
	}
	if port != "" {
		r.Ports = []string{port}
	}
	return r, nil
}

// cutPort cuts the port from the end. An IPv6 address with a port stands in brackets.
func cutPort(word string) (where, port string, err error) {
	if isCIDR(word) {
		return word, "", nil
	}
	if rest, ok := strings.CutPrefix(word, "["); ok {
		addr, tail, _ := strings.Cut(rest, "]")
		prefix, port, found := strings.Cut(tail, ":") // such as [fd00::]/8:443, or [fd00::/8]:443
		if where = addr + prefix; !isCIDR(where) || found && port == "" {
			return "", "", strconv.ErrSyntax
		}
		return where, port, nil
	}
	where, port, found := strings.Cut(word, ":")
	if found && port == "" {
		return "", "", strconv.ErrSyntax
	}
	return where, port, nil
}

func isCIDR(text string) bool {
	if _, err := netip.ParsePrefix(text); err == nil {
		return true
	}
	_, err := netip.ParseAddr(text)
	return err == nil
}
