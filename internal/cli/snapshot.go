package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newSnapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save sandboxes under a name",
		Long: `A snapshot is a sandbox as it was at one moment: memory, processes and disk, or the
disk alone. Any number of sandboxes can be made of it, each with an identity of its
own, and it can be carried to another machine as one file.`,
		Example: `  smolvm snapshot create web ready
  smolvm create --from-snapshot ready
  smolvm snapshot save ready -o ready.snap`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newSnapshotCreate(), a.newSnapshotList(), a.newSnapshotInspect(), a.newSnapshotRemove(),
		a.newSnapshotSave(), a.newSnapshotLoad())
	return cmd
}

type snapshotData struct {
	Snapshot smolvm.Snapshot `json:"snapshot"`
}

type snapshotsData struct {
	Snapshots []smolvm.Snapshot `json:"snapshots"`
}

// oneSnapshot gives a snapshot; to people, its name.
func oneSnapshot(s smolvm.Snapshot) outcome {
	return outcome{data: snapshotData{s}, text: func(w io.Writer) { fmt.Fprintln(w, clean(s.Name)) }}
}

func (a *app) newSnapshotList() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List snapshots",
		Long: `List the snapshots, oldest first. Files that a snapshot shares with templates,
sandboxes and other snapshots count in the size of each.`,
		Example: `  smolvm snapshot ls
  smolvm snapshot rm $(smolvm snapshot ls -q)`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) {
			list, err := a.client().Snapshots(ctx)
			if err != nil {
				return outcome{}, err
			}
			return outcome{
				data: snapshotsData{nonNil(list)},
				text: func(w io.Writer) { printSnapshots(w, list, quiet) },
			}, nil
		}),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names alone")
	return cmd
}

func printSnapshots(w io.Writer, list []smolvm.Snapshot, quiet bool) {
	now := time.Now()
	var rows [][]string
	for _, s := range list {
		if quiet {
			fmt.Fprintln(w, clean(s.Name))
			continue
		}
		rows = append(rows, []string{
			s.Name, string(s.Kind), dash(s.Source), s.Image, fmt.Sprint(s.CPUs), mib(s.MemoryMiB), mib(s.DiskMiB),
			dash(string(s.Accel)), size(s.Bytes), age(now, s.Created),
		})
	}
	if !quiet {
		table(w, "NAME\tKIND\tSANDBOX\tIMAGE\tCPUS\tMEMORY\tDISK\tACCEL\tSIZE\tAGE", rows)
	}
}

func (a *app) newSnapshotInspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect SNAPSHOT",
		Short: "Verify and describe a snapshot",
		Long: `Verify all of a snapshot and describe it. Its digest is what snapshot load wants on
another machine.`,
		Example:           `  smolvm snapshot inspect ready`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSnapshots, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			s, err := a.client().GetSnapshot(ctx, args[0])
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: snapshotData{s}, text: func(w io.Writer) { printSnapshot(w, s) }}, nil
		}),
	}
}

func printSnapshot(w io.Writer, s smolvm.Snapshot) {
	pause := ""
	if s.PauseMS > 0 {
		pause = milliseconds(s.PauseMS)
	}
	printFields(w, [][]string{
		{"name", s.Name},
		{"kind", string(s.Kind)},
		{"digest", s.Digest},
		{"taken of", s.Source},
		{"created", moment(s.Created)},
		{"image", s.Image},
		{"image id", s.ImageID},
		{"cpus", fmt.Sprint(s.CPUs)},
		{"memory", mib(s.MemoryMiB)},
		{"disk", mib(s.DiskMiB)},
		{"accelerator", string(s.Accel)},
		{"vmm", s.VMM},
		{"size", size(s.Bytes)},
		{"source paused", pause},
	})
}

type snapshotRemoveData struct {
	Removed []string `json:"removed"`
}

func (a *app) newSnapshotRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "rm SNAPSHOT...",
		Aliases:           []string{"delete", "remove"},
		Short:             "Remove snapshots",
		Long:              `Remove snapshots. Sandboxes that were made of them do not notice.`,
		Example:           `  smolvm snapshot rm ready`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeSnapshots, 0),
		RunE: a.do(func(ctx context.Context, names []string) (outcome, error) {
			d := snapshotRemoveData{Removed: []string{}}
			var errs []error
			for _, name := range names {
				if err := a.client().RemoveSnapshot(ctx, name); err != nil {
					errs = append(errs, err)
					continue
				}
				d.Removed = append(d.Removed, name)
			}
			return outcome{data: d, text: func(w io.Writer) {
				for _, name := range d.Removed {
					fmt.Fprintln(w, clean(name))
				}
			}}, errors.Join(errs...)
		}),
	}
}

func (a *app) completeSnapshots(ctx context.Context) ([]string, error) {
	list, err := a.client().Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, nil
}
