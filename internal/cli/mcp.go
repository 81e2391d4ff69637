package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/mcpserver"
)

type mcpFlags struct {
	specFlags
	all, allowApprove, verbose bool
}

func (a *app) newMCP() *cobra.Command {
	var o mcpFlags
	cmd := &cobra.Command{
		Use:   "mcp",
		Short: "Give sandboxes to a model by the Model Context Protocol",
		Long: `Serve one client of the Model Context Protocol on standard input and output.
Clients such as Claude Code start this themselves; smolvm mcp install tells them.

The model gets tools to make sandboxes, run commands and code in them, read and
write their files, expose their ports, save them and go back. The first tool
that needs a sandbox makes one. Sandboxes end with the client, however it ends,
but those that the model asks to be kept.

Flags say what sandboxes are made of where the model does not say. What they
reach and what folders they see is up to these flags alone: a model can ask for
less. With SMOLVM_URL set, the sandboxes are those behind that gateway.`,
		Example: `  smolvm mcp install claude --write
  smolvm mcp --memory 2G --allow @pypi --allow github.com
  smolvm mcp --network none --mount .:/project:ro`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) { return outcome{}, a.mcp(ctx, &o) }),
	}
	o.registerUnnamed(a, cmd)
	fs := cmd.Flags()
	fs.BoolVar(&o.all, "all", false, "let the model use every sandbox of yours, not only those that were made this way")
	fs.BoolVar(&o.allowApprove, "allow-approve", false, "let the model approve in your place what its sandboxes ask for")
	fs.BoolVar(&o.verbose, "verbose", false, "log on standard error")
	cmd.AddCommand(a.newMCPInstall())
	return cmd
}

func (a *app) mcp(ctx context.Context, o *mcpFlags) error {
	if a.json {
		return usagef("mcp has no --json: standard output is the client's")
	}
	spec, err := o.spec()
	if err != nil {
		return err
	}
	client := a.client()
	client.Progress = nil // calls tell their own client
	if a.Keyboard != nil {
		fmt.Fprintln(a.Err, "This speaks the Model Context Protocol; clients start it. See: smolvm mcp install --help")
	}
	level := slog.LevelError
	if o.verbose {
		level = slog.LevelInfo
	}
	s := mcpserver.New(mcpserver.Options{
		Client: client, Version: a.build.version(), Spec: spec, All: o.all, AllowApprove: o.allowApprove,
		Log: slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: level})),
	})
	defer s.Close()
	return s.Serve(ctx, io.NopCloser(a.In), nopCloser{a.Out})
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
