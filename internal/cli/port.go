package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func (a *app) newPort() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "port",
		Short: "Reach servers in a sandbox",
		Long: `Lead ports of this host into a sandbox, also one without a network. Servers that
listen on the sandbox's loopback are reached too. A port is bound to 127.0.0.1
unless an address is said, as long as the sandbox runs, and again when it starts
again.`,
		Example: `  smolvm create --name web --port 8080:80
  smolvm port add web 0:5432 5353:53/udp
  smolvm port ls web
  smolvm port rm web 8080`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newPortAdd(), a.newPortRemove(), a.newPortList())
	return cmd
}

type portsData struct {
	Ports []smolvm.Port `json:"ports"`
}

func portsOutcome(list []smolvm.Port) outcome {
	return outcome{data: portsData{nonNil(list)}, text: func(w io.Writer) {
		for _, p := range list {
			fmt.Fprintln(w, shownPort(p))
		}
	}}
}

// shownPort shows where a port leads, such as 127.0.0.1:8080 -> 80/tcp.
func shownPort(p smolvm.Port) string {
	p = p.WithDefaults()
	host := net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort))
	if p.HostPort == 0 {
		host = "(picked at start)"
	}
	return fmt.Sprintf("%s -> %d/%s", host, p.GuestPort, p.Proto)
}

func shownPorts(list []smolvm.Port) string {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = shownPort(p)
	}
	return strings.Join(words, ", ")
}

func (a *app) newPortAdd() *cobra.Command {
	return &cobra.Command{
		Use:   "add SANDBOX PORT...",
		Short: "Lead ports of this host into a sandbox",
		Long: `Lead ports of this host into a sandbox. A port is written [IP:][HOST:]GUEST[/udp]:
GUEST is where the server listens in the sandbox, HOST the port of this host, the
same if it is left out, and any that is free for 0. Where each is bound is printed.

With an IP such as 0.0.0.0 others than this host reach the server too.`,
		Example: `  smolvm port add web 8080:80
  smolvm port add web 0:5432
  smolvm port add web 5353:53/udp
  smolvm port add web 0.0.0.0:8443:443`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.portAdd(ctx, args[0], args[1:])
		}),
	}
}

// portAdd adds all ports or none.
func (a *app) portAdd(ctx context.Context, ref string, words []string) (outcome, error) {
	ports, err := parsePorts(words)
	if err != nil {
		return outcome{}, err
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	var added []smolvm.Port
	for _, p := range ports {
		bound, err := sb.Expose(ctx, p)
		if err != nil {
			for _, p := range added {
				_, undone := sb.Unexpose(ctx, p)
				err = errors.Join(err, undone)
			}
			return outcome{}, err
		}
		added = append(added, bound)
	}
	return portsOutcome(added), nil
}

func (a *app) newPortRemove() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "rm SANDBOX [[IP:]PORT[/udp]...]",
		Aliases: []string{"remove"},
		Short:   "End ports of this host",
		Long: `End ports that lead into a sandbox, with the connections that use them. PORT is
the one of this host. Without /tcp or /udp both are meant, without an address all.`,
		Example: `  smolvm port rm web 8080
  smolvm port rm web 5353/udp
  smolvm port rm web --all`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			if all == (len(args) > 1) {
				return outcome{}, usagef("name the ports to end, or say --all")
			}
			return a.portRemove(ctx, args[0], args[1:])
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "end all ports of the sandbox")
	return cmd
}

func (a *app) portRemove(ctx context.Context, ref string, words []string) (outcome, error) {
	which := []api.Port{{}} // all
	if len(words) > 0 {
		which = nil
	}
	for _, w := range words {
		p, err := parseHostPort(w)
		if err != nil {
			return outcome{}, err
		}
		which = append(which, p)
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	var removed []smolvm.Port
	for _, p := range which {
		list, err := sb.Unexpose(ctx, p)
		if len(words) == 0 && errors.Is(err, api.ErrNotFound) {
			err = nil // there were none
		}
		if err != nil {
			return outcome{}, err
		}
		removed = append(removed, list...)
	}
	return portsOutcome(removed), nil
}

// parseHostPort reads [IP:]PORT[/udp], a port of the host.
func parseHostPort(word string) (api.Port, error) {
	rest, proto, _ := strings.Cut(word, "/")
	ip, number := "", rest
	if strings.Contains(rest, ":") {
		var err error
		if ip, number, err = net.SplitHostPort(rest); err != nil {
			number = ""
		}
	}
	n, err := strconv.ParseUint(number, 10, 16)
	p := api.Port{Proto: proto, HostIP: ip, HostPort: int(n)}
	full := p.WithDefaults()
	full.GuestPort = 1
	if err != nil || n == 0 || full.Check() != nil {
		return p, api.Errorf(api.Invalid, "port %.80q is no port of this host", word).
			WithRecovery("Write [IP:]PORT[/udp], as the left side of smolvm port ls shows it.")
	}
	return p, nil
}

func (a *app) newPortList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls SANDBOX",
		Aliases: []string{"list"},
		Short:   "List the ports that lead into a sandbox",
		Long:    `List the ports of this host that lead into a sandbox while it runs.`,
		Example: `  smolvm port ls web
  smolvm port ls web --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			list, err := sb.Ports(ctx)
			if err != nil {
				return outcome{}, err
			}
			return portsOutcome(list), nil
		}),
	}
}
