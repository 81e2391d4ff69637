package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// Words for what is no step.
const (
	diffImage = "image" // what the sandbox was made of
	diffNow   = "now"   // the sandbox as it is
)

// exportHere is what --export without a file means.
const exportHere = "-"

type diffOptions struct {
	smolvm.DiffOptions
	export, format, path string
}

type diffData struct {
	Changes []smolvm.Change `json:"changes"`
}

type exportData struct {
	Output string            `json:"output"`
	Format smolvm.DiffFormat `json:"format"`
	Bytes  int64             `json:"size_bytes"`
	// Skipped are the paths that the format cannot carry.
	Skipped []string `json:"skipped,omitempty"`
}

func (a *app) newDiff() *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   "diff SANDBOX [STEP [STEP]]",
		Short: "Show what files changed, and take the changes home",
		Long: `List the files that were added (A), changed (C) and deleted (D): since the image,
or since a step of the history, until now or until another step. The words image
and now stand for the two ends. With -p the changes of text files are shown too.

--export writes the changes below --path instead, to a file, or to standard output
where it is - or left out. The form is that of --format, else of the file's name
(.tar, .patch or .diff), else a patch in a git work tree and a tar elsewhere.
Names in it are relative to --path, so give the directory that corresponds to
yours. In a tar, a deleted file is an empty one whose name begins with .wh., as in
image layers.`,
		Example: `  smolvm diff web
  smolvm diff web 3
  smolvm diff -p web 3 5
  smolvm diff web image 5 --export changes.tar
  smolvm diff web --export - --format patch --path /workspace/repo | git apply`,
		Args:              cobra.RangeArgs(1, 3),
		ValidArgsFunction: a.completeSteps(2),
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) (outcome, error) {
		if err := o.steps(args[1:]); err != nil {
			return outcome{}, err
		}
		if cmd.Flags().Changed("export") {
			return a.exportDiff(ctx, &o, args[0])
		}
		if cmd.Flags().Changed("format") || cmd.Flags().Changed("path") {
			return outcome{}, usagef("--format and --path do nothing without --export")
		}
		return a.diff(ctx, &o, args[0])
	})
	fs := cmd.Flags()
	fs.BoolVarP(&o.Patch, "patch", "p", false, "show the changes of text files")
	fs.StringVar(&o.export, "export", "", "write the changes to this `FILE`, or standard output (-)")
	fs.StringVar(&o.format, "format", "", "what --export writes: tar or patch")
	fs.StringVar(&o.path, "path", "/", "`DIRECTORY` of the sandbox whose changes --export writes")
	fixed(cmd, "format", string(smolvm.DiffTar), string(smolvm.DiffPatch))
	return cmd
}

// withExportFile gives --export of diff the file that may be left out, which flags
// here cannot have: it is left out where nothing, or a flag, follows.
func withExportFile(args []string) []string {
	for i, word := range args {
		if !strings.HasPrefix(word, "-") && word != "diff" {
			return args // of another command, or an argument before diff
		}
		if word == "diff" {
			return append(args[:i+1:i+1], exportFile(args[i+1:])...)
		}
	}
	return args
}

func exportFile(args []string) []string {
	var out []string
	for i, word := range args {
		last := i+1 == len(args)
		if word == "--export" && (last || args[i+1] != exportHere && strings.HasPrefix(args[i+1], "-")) {
			word += "=" + exportHere
		}
		out = append(out, word)
	}
	return out
}

// steps reads what to compare.
func (o *diffOptions) steps(words []string) (err error) {
	if len(words) > 0 && words[0] != diffImage {
		if o.From, err = stepPointer(words[0]); err != nil {
			return err
		}
	}
	if len(words) > 1 && words[1] != diffNow {
		o.To, err = stepPointer(words[1])
	}
	return err
}

func stepPointer(word string) (*int, error) {
	n, err := parseStep(word)
	if err != nil {
		return nil, err
	}
	return &n, nil
}

func (a *app) diff(ctx context.Context, o *diffOptions, ref string) (outcome, error) {
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	a.progress.tell("compare", 0, 0)
	list, err := sb.Diff(ctx, o.DiffOptions)
	if err != nil {
		return outcome{}, err
	}
	p := diffPrinter{patch: o.Patch, term: a.OutTerm, colour: a.colour()}
	return outcome{data: diffData{nonNil(list)}, text: p.printer(list)}, nil
}

// checkFormat refuses a format that does not exist.
func checkFormat(word string) error {
	switch smolvm.DiffFormat(word) {
	case "", smolvm.DiffTar, smolvm.DiffPatch:
		return nil
	}
	return api.Errorf(api.Invalid, "format %.80q is not known", word).
		WithRecovery("Use %s or %s.", smolvm.DiffTar, smolvm.DiffPatch)
}
