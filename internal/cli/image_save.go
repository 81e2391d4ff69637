package cli

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"
)

type imageSaveData struct {
	Images []string `json:"images"`
	Output string   `json:"output"`
	Bytes  int64    `json:"size_bytes"`
}

func (a *app) newImageSave() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "save IMAGE...",
		Short: "Save images to an archive",
		Long: `Save images as a tar in OCI layout, which image load takes, and other tools too.
Without --output it goes to standard output. A file appears whole or not at all.`,
		Example: `  smolvm image save -o tools.tar tools
  smolvm image save base tools | ssh host smolvm image load`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeImages, 0),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.imageSave(ctx, args, output)
		}),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write (default: standard output)")
	return cmd
}

func (a *app) imageSave(ctx context.Context, refs []string, output string) (outcome, error) {
	toStdout := output == "" || output == "-"
	switch {
	case toStdout && a.json:
		return outcome{}, usagef("--json and an archive on standard output exclude each other: give a file with --output")
	case toStdout && a.OutTerm:
		return outcome{}, usagef("standard output is a terminal: give a file with --output")
	}
	im, err := a.images()
	if err != nil {
		return outcome{}, err
	}
	if toStdout {
		return outcome{}, im.Save(ctx, refs, a.Out, a.progress.report)
	}
	d := imageSaveData{Images: refs, Output: output}
	err = writeWhole(output, 0o644, func(f *os.File) error {
		if err := im.Save(ctx, refs, f, a.progress.report); err != nil {
			return err
		}
		d.Bytes, err = f.Seek(0, io.SeekCurrent)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: d}, nil
}
