package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image"
)

func (a *app) newImageImport() *cobra.Command {
	var o image.ImportOptions
	var env []string
	cmd := &cobra.Command{
		Use:   "import PATH",
		Short: "Make an image of a file",
		Long: `Make an image of an OCI layout (a directory or a tar), of a tar from docker save,
or of a tar of a root file system. A tar may be compressed; - reads it from
standard input. A root file system needs a name; --env, --cwd and --user describe
it.`,
		Example: `  smolvm image import layout/
  smolvm image import -t mine rootfs.tar.zst
  docker save app | smolvm image import -`,
		Args: cobra.ExactArgs(1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			o.Config.Env = env
			return a.imageImport(ctx, o, args[0])
		}),
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.Name, "tag", "t", "", "`NAME` of the image (default: the one in the file)")
	fs.StringVar(&o.Platform, "platform", "", "such as linux/arm64 (default: this machine's)")
	fs.StringArrayVarP(&env, "env", "e", nil, "environment variable `KEY=VALUE` of a root file system")
	fs.StringVarP(&o.Config.WorkingDir, "cwd", "w", "", "working directory of a root file system")
	fs.StringVarP(&o.Config.User, "user", "u", "", "user of a root file system")
	return cmd
}

func (a *app) imageImport(ctx context.Context, o image.ImportOptions, path string) (outcome, error) {
	if _, err := keyValues("environment variable", o.Config.Env); err != nil {
		return outcome{}, err
	}
	im, err := a.images()
	if err != nil {
		return outcome{}, err
	}
	o.Progress = a.progress.report
	if path == "-" {
		return oneImage(im.ImportReader(ctx, a.In, o))
	}
	return oneImage(im.Import(ctx, path, o))
}

func (a *app) newImageLoad() *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Load images from an archive",
		Long: `Load all images of an archive that image save or docker save wrote, under the names
that they have in it. Without --input it is read from standard input.`,
		Example: `  smolvm image load -i images.tar
  smolvm image load < images.tar`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) { return a.imageLoad(ctx, input) }),
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "`FILE` to read (default: standard input)")
	return cmd
}

func (a *app) imageLoad(ctx context.Context, input string) (outcome, error) {
	in := a.In
	switch {
	case input != "" && input != "-":
		f, err := os.Open(input)
		if err != nil {
			return outcome{}, api.Errorf(api.Invalid, "load images: %w", err)
		}
		defer f.Close()
		in = f
	case a.Keyboard != nil:
		return outcome{}, usagef("standard input is a terminal: give a file with --input")
	}
	im, err := a.images()
	if err != nil {
		return outcome{}, err
	}
	list, err := im.Load(ctx, in, image.ImportOptions{Progress: a.progress.report})
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: newImagesData(list), text: func(w io.Writer) {
		for _, i := range list {
			fmt.Fprintln(w, clean(imageName(i)))
		}
	}}, nil
}
