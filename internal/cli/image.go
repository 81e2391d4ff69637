package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/store"
)

func (a *app) newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Pull, build and manage images",
		Long: `Pull, import, build, list and remove the images that sandboxes are made of. An
image is one read-only file that all its sandboxes share.`,
		Example: `  smolvm image pull docker.io/library/alpine
  smolvm image ls
  smolvm create --image alpine`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newImagePull(), a.newImageBuild(), a.newImageSave(), a.newImageList(), a.newImageInspect(), a.newImageRemove(), a.newImagePrune(),
		a.newImageTag(), a.newImageImport(), a.newImageLoad())
	return cmd
}

// images opens the image store.
func (a *app) images() (*image.Images, error) {
	if err := thisMachine("work with images"); err != nil {
		return nil, err
	}
	s, err := store.Open("")
	if err != nil {
		return nil, err
	}
	return image.Open(s)
}

// imageData is the data of commands about one image.
type imageData struct {
	Image image.Image `json:"image"`
}

// imagesData is the data of commands about several.
type imagesData struct {
	Images     []image.Image `json:"images"`
	TotalBytes int64         `json:"total_size_bytes"`
}

// newImagesData adds up what images take; one with several names counts once.
func newImagesData(list []image.Image) imagesData {
	d := imagesData{Images: nonNil(list)}
	seen := map[string]bool{}
	for _, i := range list {
		if !seen[i.Digest] {
			seen[i.Digest] = true
			d.TotalBytes += i.SizeBytes + i.RootFSBytes
		}
	}
	return d
}

// oneImage gives an image; to people, its name.
func oneImage(i image.Image, err error) (outcome, error) {
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: imageData{i}, text: func(w io.Writer) { fmt.Fprintln(w, clean(imageName(i))) }}, nil
}

// imageName is an image's name, or the beginning of its digest.
func imageName(i image.Image) string {
	if i.Ref != "" {
		return i.Ref
	}
	return shortDigest(i.Digest)
}

// shortDigest is as much of a digest as the image store takes for it.
func shortDigest(digest string) string {
	const digits = 12
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(digits, len(hex))]
}

func (a *app) newImageList() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List images",
		Long:    `List the images that are here. An image with several names is listed under each.`,
		Example: `  smolvm image ls
  smolvm image ls --json`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) {
			im, err := a.images()
			if err != nil {
				return outcome{}, err
			}
			list, err := im.List(ctx)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: newImagesData(list), text: func(w io.Writer) { printImages(w, list, quiet) }}, nil
		}),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names alone")
	return cmd
}

func printImages(w io.Writer, list []image.Image, quiet bool) {
	now := time.Now()
	var rows [][]string
	for _, i := range list {
		if quiet {
			fmt.Fprintln(w, clean(imageName(i)))
			continue
		}
		rows = append(rows, []string{
			dash(i.Ref), shortDigest(i.Digest), i.Platform, age(now, i.Created), size(i.SizeBytes), size(i.RootFSBytes),
		})
	}
	if !quiet {
		table(w, "NAME\tDIGEST\tPLATFORM\tAGE\tSIZE\tUNPACKED", rows)
	}
}

func (a *app) newImageInspect() *cobra.Command {
	return &cobra.Command{
		Use:     "inspect IMAGE",
		Short:   "Describe an image",
		Long:    `Describe an image: how its program is run, and what layers it is made of.`,
		Example: `  smolvm image inspect base`,
		Args:    cobra.ExactArgs(1),

		ValidArgsFunction: completeWith(a.completeImages, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			im, err := a.images()
			if err != nil {
				return outcome{}, err
			}
			i, err := im.Resolve(ctx, args[0])
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: imageData{i}, text: func(w io.Writer) { printImage(w, i) }}, nil
		}),
	}
}

func printImage(w io.Writer, i image.Image) {
	rows := [][]string{
		{"name", i.Ref},
		{"digest", i.Digest},
		{"platform", i.Platform},
		{"created", moment(i.Created)},
		{"size", size(i.SizeBytes)},
		{"unpacked", size(i.RootFSBytes)},
		{"command", strings.Join(append(append([]string{}, i.Config.Entrypoint...), i.Config.Cmd...), " ")},
		{"directory", i.Config.WorkingDir},
		{"user", i.Config.User},
		{"environment", strings.Join(i.Config.Env, " ")},
		{"labels", strings.Join(pairs(i.Config.Labels), " ")},
	}
	for _, l := range i.Layers {
		rows = append(rows, []string{"layer", fmt.Sprintf("%s  %s", shortDigest(l.Digest), size(l.Size))})
	}
	printFields(w, rows)
}

func (a *app) newImageTag() *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME",
		Short:             "Give an image another name",
		Long:              `Give an image another name. It keeps the ones it has.`,
		Example:           `  smolvm image tag alpine small`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeWith(a.completeImages, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			im, err := a.images()
			if err != nil {
				return outcome{}, err
			}
			if err := im.Tag(ctx, args[0], args[1]); err != nil {
				return outcome{}, err
			}
			return oneImage(im.Resolve(ctx, args[1]))
		}),
	}
}

func (a *app) completeImages(ctx context.Context) ([]string, error) {
	im, err := a.images()
	if err != nil {
		return nil, err
	}
	list, err := im.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range list {
		if i.Ref != "" {
			names = append(names, i.Ref)
		}
	}
	return names, nil
}

// usedImages tells the digests of the images that sandboxes and snapshots are made of.
func (a *app) usedImages(ctx context.Context) (func(digest string) bool, error) {
	list, err := a.client().List(ctx, smolvm.ListOptions{})
	if err != nil {
		return nil, err
	}
	snapshots, err := a.client().Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	return image.UsedBy(list, snapshots), nil
}
