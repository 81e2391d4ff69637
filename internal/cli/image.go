package cli

import (
	"context"

	"github.com/spf13/cobra"
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

func (a *app) completeImages(ctx context.Context) ([]string, error) { return nil, nil }
