package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newGC() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what no live sandbox owns",
		Long: `Remove what a crash or a power cut left: sandboxes whose creation was never
finished, ephemeral ones whose client died, and half-made files.`,
		Example: `  smolvm gc --dry-run
  smolvm gc`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) {
			c, err := a.client().GC(ctx, dryRun)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: c, text: func(w io.Writer) { printCollected(w, c) }}, nil
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	return cmd
}

func printCollected(w io.Writer, c smolvm.Collected) {
	verb := "removed"
	if c.DryRun {
		verb = "would remove"
	}
	for _, kind := range []struct {
		what string
		list []string
	}{{"sandbox", c.Sandboxes}, {"name", c.Names}, {"temporary", c.Temporary}} {
		for _, s := range kind.list {
			fmt.Fprintln(w, verb, kind.what, clean(s))
		}
	}
}
