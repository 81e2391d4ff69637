package cli

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/netlog"
)

type harOptions struct {
	output, since, host string
}

type harData struct {
	Output   string `json:"output"`
	Requests int    `json:"requests"`
}

func (a *app) newNetworkHar() *cobra.Command {
	var o harOptions
	cmd := &cobra.Command{
		Use:   "har SANDBOX",
		Short: "Export the HTTP requests of a sandbox",
		Long: `Export the HTTP requests in a sandbox's network record as an HTTP Archive (HAR
1.2), which the developer tools of browsers load. It works in every state of the
sandbox.

Requests in clear are in it where a rule is about names, and those within TLS where
TLS was opened: for hosts with rules about methods or paths, for hosts of secrets,
and with --network-log http for all. Times, sizes, status and types are there,
other headers and bodies are not. A URL holds what the sandbox wrote: of a secret,
the placeholder.

Without --output the archive goes to standard output; with --json it is the data.`,
		Example: `  smolvm network har web -o web.har
  smolvm network har web --since 10m --host api.example.com`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE:              a.do(func(ctx context.Context, args []string) (outcome, error) { return a.networkHar(ctx, &o, args[0]) }),
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.output, "output", "o", "", "`FILE` to write (default: standard output)")
	fs.StringVar(&o.since, "since", "", "from this `TIME` on, or this long ago: 10m, 2026-12-31T23:59:59Z")
	fs.StringVar(&o.host, "host", "", "an address, or a `NAME` with all names below it")
	return cmd
}

func (a *app) networkHar(ctx context.Context, o *harOptions, ref string) (outcome, error) {
	since, err := pastTime(o.since, time.Now())
	if err != nil {
		return outcome{}, err
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	var entries []smolvm.NetworkEntry
	err = sb.NetworkLog(ctx, smolvm.NetworkLogOptions{Since: since, Host: o.host}, func(e smolvm.NetworkEntry) error {
		if e.Kind == api.EventHTTP {
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return outcome{}, err
	}
	har := netlog.HAROf(entries, a.build.version())
	if o.output == "" || o.output == "-" {
		return outcome{data: har, text: func(w io.Writer) { writeHAR(w, har) }}, nil
	}
	// URLs may hold what is nobody else's business.
	if err := writeWhole(o.output, 0o600, func(f *os.File) error { return writeHAR(f, har) }); err != nil {
		return outcome{}, err
	}
	a.note("%d requests in %s", len(har.Log.Entries), clean(o.output))
	return outcome{data: harData{o.output, len(har.Log.Entries)}}, nil
}

func writeHAR(w io.Writer, har netlog.HAR) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	return enc.Encode(har)
}
