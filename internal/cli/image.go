package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/store"
)

func (a *app) newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Pull, build and manage images",
		Long:  `Pull, import, build, list and remove the images that sandboxes are made of.`,
		Example: `  smolvm image pull docker.io/library/alpine
  smolvm image ls`,
	}
	cmd.RunE = group(cmd)
	return cmd
}

// images opens the image store.
func (a *app) images() (*image.Images, error) {
	s, err := store.Open("")
	if err != nil {
		return nil, err
	}
	return image.Open(s)
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
