package cli

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func (a *app) newSnapshotLoad() *cobra.Command {
	var o smolvm.LoadSnapshot
	cmd := &cobra.Command{
		Use:   "load FILE",
		Short: "Take in a snapshot's file",
		Long: `Take in a file that snapshot save wrote, from standard input where it is -, and
print the snapshot's name. A file that was altered is refused, and nothing is left
of it.

For a file of another machine give the digest that snapshot save printed there:
nothing else can say that it is the right one. A machine with another VMM,
accelerator or kind of processor cannot continue its memory; with --disk-only that
is left behind, and the disk boots anywhere.`,
		Example: `  smolvm snapshot load ready.snap
  smolvm snapshot load ready.snap --name from-ci --digest sha256:...
  ssh host smolvm snapshot save ready | smolvm snapshot load - --disk-only --digest sha256:...`,
		Args: cobra.ExactArgs(1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) { return a.snapshotLoad(ctx, o, args[0]) }),
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.Name, "name", "n", "", "`NAME` of the snapshot (default: generated)")
	fs.StringVar(&o.Digest, "digest", "", "`DIGEST` that was printed where the file was made")
	fs.BoolVar(&o.DiskOnly, "disk-only", false, "leave the memory behind")
	return cmd
}

func (a *app) snapshotLoad(ctx context.Context, o smolvm.LoadSnapshot, path string) (outcome, error) {
	in := a.In
	switch {
	case path != "-":
		f, err := os.Open(path)
		if err != nil {
			return outcome{}, api.Errorf(api.Invalid, "load snapshot: %w", err)
		}
		defer f.Close()
		in = f
	case a.Keyboard != nil:
		return outcome{}, usagef("standard input is a terminal: give a file")
	}
	var n int64
	tell := &counter{io.Discard, &n, func(n int64) { a.progress.tell("load the snapshot", n, 0) }}
	s, err := a.client().LoadSnapshot(ctx, io.TeeReader(in, tell), o)
	if err != nil {
		return outcome{}, err
	}
	return oneSnapshot(s), nil
}
