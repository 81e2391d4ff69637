package cli

import (
	"context"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func (a *app) exportDiff(ctx context.Context, o *diffOptions, ref string) (outcome, error) {
	if err := o.checkExport(a); err != nil {
		return outcome{}, err
	}
	format, err := o.form()
	if err != nil {
		return outcome{}, err
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	d := exportData{Output: o.export, Format: format}
	write := func(w io.Writer) error {
		w = &counter{w, &d.Bytes, func(n int64) { a.progress.tell("export the changes", n, 0) }}
		skipped, err := sb.ExportDiff(ctx, w, o.path, format, o.DiffOptions)
		d.Skipped = skipped
		if err == nil && d.Bytes <= emptyBytes[format] {
			a.note("nothing changed below %s", clean(o.path)) // perhaps it is not there
		}
		for _, p := range skipped {
			a.note("left out, it cannot stand in a %s: %s", format, clean(p))
		}
		return err
	}
	if o.export == exportHere {
		return outcome{}, write(a.Out)
	}
	if err := writeWhole(o.export, 0o644, func(f *os.File) error { return write(f) }); err != nil {
		return outcome{}, err
	}
	return outcome{data: d}, nil
}

// emptyBytes is how long an export of nothing is: a tar has an end.
var emptyBytes = map[smolvm.DiffFormat]int64{smolvm.DiffTar: 1024, smolvm.DiffPatch: 0}

func (o *diffOptions) checkExport(a *app) error {
	switch {
	case o.export == "":
		return usagef("the file for --export has no name")
	case o.Patch:
		return usagef("--patch and --export exclude each other: use --format patch")
	case o.export == exportHere && a.json:
		return usagef("--json and an export on standard output exclude each other: give a file with --export")
	case o.export == exportHere && a.OutTerm:
		return usagef("standard output is a terminal: give a file with --export, or look at the changes with -p")
	case !path.IsAbs(o.path):
		return api.Errorf(api.Invalid, "path %.80q is not absolute", o.path).
			WithRecovery("Give a directory of the sandbox, such as /workspace.")
	}
	return checkFormat(o.format)
}

// form returns the form of the export: as said, else as the file is called, else
// what is of use here.
func (o *diffOptions) form() (smolvm.DiffFormat, error) {
	switch ext := filepath.Ext(o.export); {
	case o.format != "":
		return smolvm.DiffFormat(o.format), nil
	case ext == ".tar":
		return smolvm.DiffTar, nil
	case ext == ".patch" || ext == ".diff":
		return smolvm.DiffPatch, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", api.Errorf(api.Unavailable, "find out where this is: %w", err)
	}
	if inWorkTree(dir) {
		return smolvm.DiffPatch, nil
	}
	return smolvm.DiffTar, nil
}

// inWorkTree reports whether a directory is in a work tree of git: it, or one above,
// has a .git, which is a file in linked work trees.
func inWorkTree(dir string) bool {
	for {
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil {
			return true
		}
		up := filepath.Dir(dir)
		if up == dir {
			return false
		}
		dir = up
	}
}
