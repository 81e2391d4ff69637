package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type copyData struct {
	smolvm.Copied
	Seconds float64 `json:"seconds"`
}

func (a *app) newCopy() *cobra.Command {
	var o smolvm.CopyOptions
	cmd := &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy files into or out of a sandbox",
		Long: `Copy a file or a whole directory into or out of a running sandbox, with symbolic
links and permissions. One of the two is SANDBOX:PATH. As with cp -a, a
destination that is an existing directory receives the source under its own name,
and a source that ends in /. gives its contents.

- stands for a tar stream on standard input or output. A path here that has a
colon in it is written with ./ in front.`,
		Example: `  smolvm cp project web:/srv
  smolvm cp project/. web:/srv/project
  smolvm cp web:/srv/result.json .
  tar -c . | smolvm cp - web:/srv
  smolvm cp web:/var/log - | tar -t`,
		Args: cobra.ExactArgs(2),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) { return a.copy(ctx, o, args[0], args[1]) }),
	}
	cmd.Flags().StringVar(&o.Owner, "owner", "", "`USER[:GROUP]` that gets everything that is copied in (default: numbers are kept)")
	return cmd
}

// place is one end of a copy.
type place struct{ sandbox, path string }

// parsePlace reads SANDBOX:PATH, or a path of the host.
func parsePlace(s string) place {
	ref, path, ok := strings.Cut(s, ":")
	if !ok || ref == "" || strings.Contains(ref, "/") {
		return place{path: s}
	}
	return place{ref, path}
}

func (a *app) copy(ctx context.Context, o smolvm.CopyOptions, src, dst string) (outcome, error) {
	from, to := parsePlace(src), parsePlace(dst)
	if err := checkPlaces(from, to); err != nil {
		return outcome{}, err
	}
	if a.json && to.path == "-" {
		return outcome{}, usagef("--json and a tar stream on standard output exclude each other")
	}
	sb, err := a.sandbox(ctx, from.sandbox+to.sandbox)
	if err != nil {
		return outcome{}, err
	}
	begin := time.Now()
	o.Progress = func(done int64) { a.progress.tell("copy", done, 0) }
	n, err := a.transfer(ctx, sb, o, from, to)
	if err != nil {
		return outcome{}, err
	}
	took := time.Since(begin)
	a.progress.clear()
	if a.ErrTerm && to.path != "-" {
		a.note("%d files, %s in %s", n.Files, size(n.Bytes), took.Round(time.Millisecond))
	}
	return outcome{data: copyData{n, took.Seconds()}}, nil
}

func checkPlaces(from, to place) error {
	switch {
	case from.sandbox != "" && to.sandbox != "":
		return api.Errorf(api.Invalid, "copy from sandbox to sandbox is not supported").
			WithRecovery("Pipe: smolvm cp A:PATH - | smolvm cp - B:DIRECTORY.")
	case from.sandbox == "" && to.sandbox == "":
		return usagef("neither %.80q nor %.80q is SANDBOX:PATH", from.path, to.path)
	case from.path == "" || to.path == "":
		return usagef("a path is empty")
	}
	return nil
}

func (a *app) transfer(ctx context.Context, sb *smolvm.Sandbox, o smolvm.CopyOptions, from, to place) (smolvm.Copied, error) {
	switch {
	case from.sandbox == "" && from.path == "-":
		return sb.TarIn(ctx, to.path, a.In, o)
	case from.sandbox == "":
		return sb.CopyIn(ctx, from.path, to.path, o)
	case to.path != "-":
		return sb.CopyOut(ctx, from.path, to.path, o)
	}
	dir, name := splitGuest(from.path)
	r, err := sb.TarOut(ctx, dir, name...)
	if err != nil {
		return smolvm.Copied{}, err
	}
	defer r.Close()
	n, err := io.Copy(a.Out, r)
	if err != nil {
		err = fmt.Errorf("copy %q: %w", from.path, err)
	}
	return smolvm.Copied{Bytes: n}, err
}

// splitGuest splits a guest path into the directory and the name that a tar
// stream of it holds; no name means the contents of the directory.
func splitGuest(path string) (dir string, names []string) {
	if path == "/" || strings.HasSuffix(path, "/.") {
		return strings.TrimSuffix(path, "."), nil
	}
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return ".", []string{path}
	}
	return path[:i+1], []string{path[i+1:]}
}
