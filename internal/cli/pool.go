package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newPool() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pool",
		Short: "Keep sandboxes waiting",
		Long: `Keep sandboxes of an image and sizes waiting, so that create and run of the same
take milliseconds. One that is taken is replaced in the background. Each takes
memory while it waits. A small process keeps the pools; it ends with the last one.`,
		Example: `  smolvm pool set base --size 3 --wait
  smolvm run -- true
  smolvm pool ls
  smolvm pool drain base`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newPoolSet(), a.newPoolList(), a.newPoolDrain())
	return cmd
}

type poolData struct {
	Pool smolvm.Pool `json:"pool"`
}

type poolsData struct {
	Pools []smolvm.Pool `json:"pools"`
}

func printPools(w io.Writer, list []smolvm.Pool) {
	var rows [][]string
	for _, p := range list {
		rows = append(rows, []string{
			p.Image, fmt.Sprint(p.CPUs), mib(p.MemoryMiB), mib(p.DiskMiB), fmt.Sprintf("%d of %d", p.Ready, p.Size), dash(p.Error),
		})
	}
	table(w, "IMAGE\tCPUS\tMEMORY\tDISK\tREADY\tERROR", rows)
}

func (a *app) newPoolList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List pools",
		Long:    "List the pools: how many sandboxes wait in each, and how many are to.",
		Example: `  smolvm pool ls
  smolvm pool ls --json`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) {
			list, err := a.client().Pools(ctx)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: poolsData{nonNil(list)}, text: func(w io.Writer) { printPools(w, list) }}, nil
		}),
	}
}

func (a *app) newPoolDrain() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "drain [IMAGE]",
		Short: "End the sandboxes that wait",
		Long: `End the waiting sandboxes of the pools of an image, of whatever sizes, or with
--all of every pool, and keep none any more. Sandboxes that were taken go on.`,
		Example: `  smolvm pool drain base
  smolvm pool drain --all`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeWith(a.completePools, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			image := ""
			switch {
			case all && len(args) > 0:
				return outcome{}, usagef("--all and an image exclude each other")
			case !all && (len(args) == 0 || args[0] == ""):
				return outcome{}, usagef("no image is named")
			case !all:
				image = args[0]
			}
			list, err := a.client().DrainPools(ctx, image)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: poolsData{nonNil(list)}, text: func(w io.Writer) {
				for _, p := range list {
					fmt.Fprintln(w, clean(p.Image))
				}
			}}, nil
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "every pool")
	return cmd
}

func (a *app) completePools(ctx context.Context) ([]string, error) {
	list, err := a.client().Pools(ctx)
	if err != nil {
		return nil, err
	}
	var images []string
	for _, p := range list {
		images = append(images, p.Image)
	}
	return images, nil
}
