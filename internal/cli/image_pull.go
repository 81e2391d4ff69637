package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image"
)

type imagePullOptions struct {
	platform string
	renew    bool
}

func (a *app) newImagePull() *cobra.Command {
	var o imagePullOptions
	cmd := &cobra.Command{
		Use:   "pull [IMAGE]",
		Short: "Get an image from a registry",
		Long: `Get an image from its registry and unpack it. What is here already is not fetched
again. Logins are those of docker login. Without a name, and for the name base,
the default image is made.`,
		Example: `  smolvm image pull docker.io/library/alpine
  smolvm image pull python:3.12 --platform linux/arm64
  smolvm image pull base --renew`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			ref := api.DefaultImage
			if len(args) > 0 {
				ref = args[0]
			}
			return a.imagePull(ctx, &o, ref)
		}),
	}
	cmd.Flags().StringVar(&o.platform, "platform", "", "such as linux/arm64 (default: this machine's)")
	cmd.Flags().BoolVar(&o.renew, "renew", false, "make the default image again where it is here")
	return cmd
}

func (a *app) imagePull(ctx context.Context, o *imagePullOptions, ref string) (outcome, error) {
	if o.renew && ref != api.DefaultImage {
		return outcome{}, usagef("--renew is for the default image; others are always looked for anew")
	}
	if o.platform != "" && ref == api.DefaultImage {
		return outcome{}, usagef("--platform is not for the default image, which is this machine's")
	}
	im, err := a.images()
	if err != nil {
		return outcome{}, err
	}
	if ref == api.DefaultImage {
		return oneImage(im.EnsureBase(ctx, image.BaseOptions{Renew: o.renew, Progress: a.progress.report}))
	}
	return oneImage(im.Pull(ctx, ref, image.PullOptions{Platform: o.platform, Progress: a.progress.report}))
}
