package cli

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

type snapshotSaveData struct {
	Snapshot smolvm.Snapshot `json:"snapshot"`
	Output   string          `json:"output"`
	Bytes    int64           `json:"size_bytes"` // of the file
}

func (a *app) newSnapshotSave() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "save SNAPSHOT",
		Short: "Write a snapshot as one file",
		Long: `Write a snapshot as one file, to be taken in elsewhere by snapshot load. Without
--output it goes to standard output. A file appears whole or not at all.

The digest is printed on standard error, and is in the data of --json. Carry it by
a way you trust: with it snapshot load on another machine knows that it got this
snapshot and no other.`,
		Example: `  smolvm snapshot save -o ready.snap ready
  smolvm snapshot save ready | ssh host smolvm snapshot load - --digest sha256:...`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSnapshots, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.snapshotSave(ctx, args[0], output)
		}),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write (default: standard output)")
	return cmd
}

func (a *app) snapshotSave(ctx context.Context, name, output string) (outcome, error) {
	toStdout := output == "" || output == "-"
	switch {
	case toStdout && a.json:
		return outcome{}, usagef("--json and a snapshot on standard output exclude each other: give a file with --output")
	case toStdout && a.OutTerm:
		return outcome{}, usagef("standard output is a terminal: give a file with --output")
	}
	c := a.client()
	s, err := c.GetSnapshot(ctx, name)
	if err != nil {
		return outcome{}, err
	}
	d := snapshotSaveData{Snapshot: s, Output: output}
	save := func(w io.Writer) error {
		return c.SaveSnapshot(ctx, name, &counter{w, &d.Bytes, func(n int64) { a.progress.tell("save the snapshot", n, 0) }})
	}
	if toStdout {
		err = save(a.Out)
	} else {
		// Memory holds what the sandbox knew: for its owner alone.
		err = writeWhole(output, 0o600, func(f *os.File) error { return save(f) })
	}
	if err != nil {
		return outcome{}, err
	}
	a.note("digest %s", clean(s.Digest))
	if toStdout {
		return outcome{}, nil
	}
	return outcome{data: d}, nil
}

// counter counts what is written, and tells of it.
type counter struct {
	w    io.Writer
	n    *int64
	tell func(n int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	*c.n += int64(n)
	c.tell(*c.n)
	return n, err
}
