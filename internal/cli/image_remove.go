package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/image"
)

type imageRemoveData struct {
	Removed []string `json:"removed"`
	Bytes   int64    `json:"freed_bytes"`
}

func (a *app) newImageRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "rm IMAGE...",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove images",
		Long: `Take names away from images, or by digest all names of one. The files go with the
last name and the last sandbox that needs them: sandboxes are not harmed.`,
		Example:           `  smolvm image rm alpine`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeImages, 0),
		RunE:              a.do(a.imageRemove),
	}
}

func (a *app) imageRemove(ctx context.Context, refs []string) (outcome, error) {
	im, err := a.images()
	if err != nil {
		return outcome{}, err
	}
	d := imageRemoveData{Removed: []string{}}
	var errs []error
	for _, ref := range refs {
		if err := im.Remove(ctx, ref); err != nil {
			errs = append(errs, err)
			continue
		}
		d.Removed = append(d.Removed, ref)
	}
	used, err := a.usedImages(ctx)
	if err == nil {
		d.Bytes, err = im.GC(ctx, used)
	}
	return outcome{data: d, text: func(w io.Writer) {
		for _, ref := range d.Removed {
			fmt.Fprintln(w, clean(ref))
		}
	}}, errors.Join(append(errs, err)...)
}

type pruneData struct {
	image.Pruned
	DryRun bool `json:"dry_run"`
}

func (a *app) newImagePrune() *cobra.Command {
	var o image.PruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove images that nothing needs",
		Long: `Remove images without a name that no sandbox uses, and what builds keep to go
faster. With --all images with a name are removed too, but for those of sandboxes.`,
		Example: `  smolvm image prune --dry-run
  smolvm image prune --all`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) {
			im, err := a.images()
			if err != nil {
				return outcome{}, err
			}
			if o.InUse, err = a.usedImages(ctx); err != nil {
				return outcome{}, err
			}
			p, err := im.Prune(ctx, o)
			if err != nil {
				return outcome{}, err
			}
			p.Images = nonNil(p.Images)
			d := pruneData{p, o.DryRun}
			return outcome{data: d, text: d.print}, nil
		}),
	}
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "images with a name too")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be removed")
	return cmd
}

func (d pruneData) print(w io.Writer) {
	verb := "removed"
	if d.DryRun {
		verb = "would remove"
	}
	for _, ref := range d.Images {
		fmt.Fprintln(w, verb, clean(ref))
	}
	fmt.Fprintln(w, verb, size(d.Bytes))
}
