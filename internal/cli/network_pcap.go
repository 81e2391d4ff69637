package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type pcapOptions struct {
	output string
	time   durationFlag
}

type pcapData struct {
	Output string `json:"output"`
	Bytes  int64  `json:"size_bytes"`
}

func (a *app) newNetworkPcap() *cobra.Command {
	var o pcapOptions
	cmd := &cobra.Command{
		Use:   "pcap SANDBOX",
		Short: "Capture the packets of a sandbox",
		Long: `Capture the packets of a sandbox's network card in the pcapng format, from now on,
until interrupted, until --for is over, or until the sandbox stops. They are what
the sandbox sent and was sent, also what was then denied. TLS stays as it was on
the card: network har shows requests where TLS is opened.

Without --output the capture goes to standard output, for a program that shows it.
Where packets come faster than they are written some are left out, and the last
block says how many. There is one capture of a sandbox at a time.`,
		Example: `  smolvm network pcap web -o web.pcapng --for 30s
  smolvm network pcap web | wireshark -k -i -`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE:              a.do(func(ctx context.Context, args []string) (outcome, error) { return a.networkPcap(ctx, &o, args[0]) }),
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "`FILE` to write (default: standard output)")
	cmd.Flags().Var(&o.time, "for", "how long, such as 30s (default: until interrupted)")
	return cmd
}

func (a *app) networkPcap(ctx context.Context, o *pcapOptions, ref string) (outcome, error) {
	toStdout := o.output == "" || o.output == "-"
	switch {
	case toStdout && a.json:
		return outcome{}, usagef("--json and a capture on standard output exclude each other: give a file with --output")
	case toStdout && a.OutTerm:
		return outcome{}, usagef("standard output is a terminal: give a file with --output")
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	if o.time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(o.time))
		defer cancel()
	}
	d := pcapData{Output: o.output}
	if toStdout {
		return outcome{}, a.capture(ctx, sb, a.Out, &d.Bytes)
	}
	// Packets hold what the sandbox said: for the owner alone.
	f, err := os.OpenFile(o.output, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return outcome{}, api.Errorf(api.Invalid, "write capture: %w", err)
	}
	err = errors.Join(a.capture(ctx, sb, f, &d.Bytes), f.Close())
	if err != nil {
		return outcome{}, err
	}
	a.note("%s in %s", size(d.Bytes), clean(o.output))
	return outcome{data: d}, nil
}

func (a *app) capture(ctx context.Context, sb *smolvm.Sandbox, w io.Writer, bytes *int64) error {
	return sb.CapturePackets(ctx, &counter{w, bytes, func(n int64) { a.progress.tell("capture packets", n, 0) }})
}
