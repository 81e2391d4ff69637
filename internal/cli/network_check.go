package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
)

// Exit statuses of network check, which programs can tell from errors.
const (
	exitDenied = 3
	exitAsk    = 4
)

// modePrefix names a mode where a policy is wanted.
const modePrefix = "mode:"

type policyOptions struct {
	address string
	at      string
}

// policyData is what a policy says.
type policyData struct {
	Policy   []string       `json:"policy"` // in words
	Requests []policyAnswer `json:"requests"`
}

type policyAnswer struct {
	Request string           `json:"request"`
	Action  api.PolicyAction `json:"action"`
	Rule    string           `json:"rule,omitempty"`
	Code    egress.Code      `json:"code"`
	Why     string           `json:"why"`
	Assumed string           `json:"assumed_address,omitempty"` // where its name was taken to lead
	Steps   []policyStep     `json:"steps"`
}

// policyStep is one question of a request. The last may not be the one that decides.
type policyStep struct {
	Step   string           `json:"step"`
	Action api.PolicyAction `json:"action"` // "more" where the next step decides
	Rule   string           `json:"rule,omitempty"`
	Code   egress.Code      `json:"code"`
	Why    string           `json:"why"`
}

func (a *app) newNetworkCheck() *cobra.Command {
	var o policyOptions
	cmd := &cobra.Command{
		Use:   "check POLICY [REQUEST...]",
		Short: "Explain what a policy does with requests, without a sandbox",
		Long: `Read a policy and say what it does, in words. With requests, say for each what
would be decided, by which rule and why, step by step: the question for the name,
the flow, what the client says first, the HTTP request.

POLICY is a file, - for standard input, or mode:policy, mode:open, mode:none. Write
a request in one of these forms:

  https://HOST/PATH   http://...   POST https://...    an HTTP request
  HOST   HOST:PORT   tcp://HOST:PORT   tls://HOST      a connection
  udp://HOST:PORT   icmp://HOST   dns:NAME   dns:TYPE:NAME

Nothing is sent. A name is taken to lead to some public address unless --address
says where.

The exit status is 0 if all requests are allowed, 3 if one is denied, 4 if none is
denied and one would be asked about; 1 if the policy or a request cannot be read.`,
		Example: `  smolvm network check policy.yaml
  smolvm network check policy.yaml https://pypi.org/simple/ POST https://api.example.com/v1
  smolvm network check mode:policy http://169.254.169.254/latest/meta-data/
  smolvm network check policy.yaml git.corp.example.com:22 --address 10.1.2.3`,
		Args: cobra.MinimumNArgs(1),
		RunE: a.do(func(_ context.Context, args []string) (outcome, error) { return a.networkCheck(&o, args[0], args[1:]) }),
	}
	cmd.Flags().StringVar(&o.address, "address", "", "`ADDRESS` that the names of the requests lead to")
	cmd.Flags().StringVar(&o.at, "at", "", "`TIME` of the requests, for rules that expire (default: now)")
	return cmd
}

func (a *app) networkCheck(o *policyOptions, policy string, words []string) (outcome, error) {
	now := time.Now()
	at, err := o.when(now)
	if err != nil {
		return outcome{}, err
	}
	p, err := a.readPolicyOrMode(policy, now)
	if err != nil {
		return outcome{}, err
	}
	var addr netip.Addr
	if o.address != "" {
		if addr, err = netip.ParseAddr(o.address); err != nil {
			return outcome{}, api.Errorf(api.Invalid, "address %.80q is none", o.address)
		}
	}
	d := policyData{Policy: p.Explain(at), Requests: []policyAnswer{}}
	host, err := thisHost()
	if err != nil {
		return outcome{}, err
	}
	for _, text := range joinMethods(words) {
		trip, err := egress.ParseTrip(text)
		if err != nil {
			return outcome{}, err
		}
		trip.Addr = addr
		d.Requests = append(d.Requests, answerOne(text, trip, egress.Trace(p, host, trip, at)))
	}
	return outcome{data: d, text: d.printer(a.colour()), exit: d.exit()}, nil
}

func (o *policyOptions) when(now time.Time) (time.Time, error) {
	if o.at == "" {
		return now, nil
	}
	at, err := time.Parse(time.RFC3339, o.at)
	if err != nil {
		return at, api.Errorf(api.Invalid, "time %.80q: write one such as 2026-12-31T23:59:59Z", o.at)
	}
	return at, nil
}

// readPolicyOrMode reads a policy from where a word says.
func (a *app) readPolicyOrMode(word string, now time.Time) (*egress.Policy, error) {
	if mode, ok := strings.CutPrefix(word, modePrefix); ok {
		return egress.Mode(mode)
	}
	return readPolicyFile(word, a.In, now)
}

// readPolicyFile reads a policy from a file, or from in if the file is called "-".
func readPolicyFile(path string, in io.Reader, now time.Time) (*egress.Policy, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, api.Errorf(api.Invalid, "read network policy: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, egress.MaxBytes+1))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "read network policy: %w", err)
	}
	return egress.Parse(text, now)
}

// thisHost knows the addresses that sandboxes of this host do not reach.
func thisHost() (*egress.Host, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "list the addresses of this host: %w", err)
	}
	h := &egress.Host{}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			h.Addrs = append(h.Addrs, p.Addr().Unmap())
		}
	}
	return h, nil
}

// joinMethods joins METHOD URL where a shell has made two words of it.
func joinMethods(words []string) []string {
	var out []string
	for i := 0; i < len(words); i++ {
		if egress.IsMethod(words[i]) && i+1 < len(words) {
			out = append(out, words[i]+" "+words[i+1])
			i++
			continue
		}
		out = append(out, words[i])
	}
	return out
}

func answerOne(text string, trip egress.Trip, steps []egress.Step) policyAnswer {
	v := egress.Verdict(steps)
	r := policyAnswer{Request: text, Action: v.Action, Rule: v.RuleID, Code: v.Code, Why: v.Why}
	for _, s := range steps {
		r.Steps = append(r.Steps, policyStep{s.Name, s.Action, s.RuleID, s.Code, s.Why})
	}
	if len(steps) > 1 && steps[0].Name == egress.DNS && !trip.Addr.IsValid() {
		r.Assumed = egress.StandIn.String()
	}
	return r
}

func (d policyData) exit() int {
	code := exitOK
	for _, r := range d.Requests {
		switch r.Action {
		case egress.Deny:
			return exitDenied
		case egress.Ask:
			code = exitAsk
		}
	}
	return code
}

// verdictColours are the colours of what was decided.
var verdictColours = map[api.PolicyAction]string{egress.Allow: green, egress.Deny: red, egress.Ask: amber}

func (d policyData) printer(colour bool) func(io.Writer) {
	return func(w io.Writer) {
		if len(d.Requests) == 0 {
			for _, s := range d.Policy {
				fmt.Fprintln(w, clean(s))
			}
		}
		for _, r := range d.Requests {
			fmt.Fprintf(w, "%s %s\n", painted(fmt.Sprintf("%-5s", r.Action), verdictColours[r.Action], colour), clean(r.Request))
			for _, s := range r.Steps {
				fmt.Fprintf(w, "      %-7s %-5s %s\n", s.Step, s.Action, clean(s.Why))
			}
			if r.Assumed != "" && r.Code == egress.CodeAddress {
				fmt.Fprintf(w, "      Where the name leads was not looked up: say it with --address.\n")
			}
		}
	}
}

// painted gives text a colour where there are to be some.
func painted(text, colour string, on bool) string {
	if !on || colour == "" {
		return text
	}
	return colour + text + plain
}
