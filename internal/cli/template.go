package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func (a *app) newTemplate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "List, build and remove templates",
		Long: `A template is a sandbox of one image and size that was booted once and saved.
Sandboxes that are made later continue it instead of booting. create and run make
templates by themselves where one is missing; they are removed when disk space runs
out, those that were not used for longest first.`,
		Example: `  smolvm template build --image alpine --memory 1G
  smolvm template ls
  smolvm template rm --all`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newTemplateList(), a.newTemplateBuild(), a.newTemplateRemove())
	return cmd
}

type templatesData struct {
	Templates  []smolvm.Template `json:"templates"`
	TotalBytes int64             `json:"total_size_bytes"`
}

func newTemplatesData(list []smolvm.Template) templatesData {
	d := templatesData{Templates: nonNil(list)}
	for _, t := range list {
		d.TotalBytes += t.Bytes
	}
	return d
}

type templateData struct {
	Template smolvm.Template `json:"template"`
}

func (a *app) newTemplateList() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List templates",
		Long:    "List the templates, the one used last first.",
		Example: `  smolvm template ls
  smolvm template ls --json`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) {
			list, err := a.client().Templates(ctx)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: newTemplatesData(list), text: func(w io.Writer) { printTemplates(w, list, quiet) }}, nil
		}),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print keys alone")
	return cmd
}

func printTemplates(w io.Writer, list []smolvm.Template, quiet bool) {
	now := time.Now()
	var rows [][]string
	for _, t := range list {
		if quiet {
			fmt.Fprintln(w, clean(shortDigest(t.Key)))
			continue
		}
		rows = append(rows, []string{
			shortDigest(t.Key), t.Image, fmt.Sprint(t.CPUs), mib(t.MemoryMiB), mib(t.DiskMiB), dash(string(t.Accel)),
			size(t.Bytes), age(now, t.Created), age(now, t.Used),
		})
	}
	if !quiet {
		table(w, "KEY\tIMAGE\tCPUS\tMEMORY\tDISK\tACCEL\tSIZE\tAGE\tUSED", rows)
	}
}

func (a *app) newTemplateBuild() *cobra.Command {
	var o sizeFlags
	var accel string
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Make a template now",
		Long: `Make the template for sandboxes of an image and sizes, where it is not there yet,
and print its key: so that the first create need not boot.`,
		Example: `  smolvm template build
  smolvm template build --image alpine --cpus 2 --memory 1G --disk 4G`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) {
			spec := o.spec()
			spec.Accel = api.Accel(accel)
			if err := o.check(spec); err != nil {
				return outcome{}, err
			}
			t, err := a.client().BuildTemplate(ctx, spec)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: templateData{t}, text: func(w io.Writer) {
				fmt.Fprintln(w, clean(shortDigest(t.Key)))
			}}, nil
		}),
	}
	o.register(a, cmd)
	cmd.Flags().StringVar(&o.image, "image", "", "image to use (default "+api.DefaultImage+")")
	cmd.Flags().StringVar(&accel, "accel", string(api.AccelAuto), "auto, kvm or tcg")
	fixed(cmd, "accel", string(api.AccelAuto), string(api.AccelKVM), string(api.AccelTCG))
	complete(cmd, "image", a.completeImages)
	return cmd
}

type templateRemoveData struct {
	Removed []string `json:"removed"`
}

func (a *app) newTemplateRemove() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "rm KEY...",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove templates",
		Long: `Remove templates by their keys, or unique beginnings of them. Sandboxes that were
made of them do not notice; the next create of the same makes the template anew.`,
		Example: `  smolvm template rm 3f9a2c
  smolvm template rm --all`,
		ValidArgsFunction: completeWith(a.completeTemplates, 0),
		RunE: a.do(func(ctx context.Context, keys []string) (outcome, error) {
			return a.templateRemove(ctx, keys, all)
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "every template")
	return cmd
}

func (a *app) templateRemove(ctx context.Context, keys []string, all bool) (outcome, error) {
	switch {
	case all && len(keys) > 0:
		return outcome{}, usagef("--all and keys exclude each other")
	case !all && len(keys) == 0:
		return outcome{}, usagef("no template is named")
	}
	c := a.client()
	if all {
		list, err := c.Templates(ctx)
		if err != nil {
			return outcome{}, err
		}
		for _, t := range list {
			keys = append(keys, t.Key)
		}
	}
	d := templateRemoveData{Removed: []string{}}
	var errs []error
	for _, key := range keys {
		err := c.RemoveTemplate(ctx, key)
		if all && errors.Is(err, api.ErrNotFound) {
			continue // its time had come meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.Removed = append(d.Removed, key)
	}
	return outcome{data: d, text: func(w io.Writer) {
		for _, key := range d.Removed {
			fmt.Fprintln(w, clean(shortDigest(key)))
		}
	}}, errors.Join(errs...)
}

func (a *app) completeTemplates(ctx context.Context) ([]string, error) {
	list, err := a.client().Templates(ctx)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, t := range list {
		keys = append(keys, shortDigest(t.Key))
	}
	return keys, nil
}
