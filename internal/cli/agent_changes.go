package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// maxShownChanges keeps a summary on the screen.
const maxShownChanges = 40

// changes shows what the agent changed in the project's copy, and applies it or
// writes it to a file.
func (r *agentRun) changes(ctx context.Context, data *agentData) error {
	r.a.progress.tell("compare", 0, 0)
	o := smolvm.DiffOptions{From: &r.step}
	list, err := r.sb.Diff(ctx, o)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Path != r.o.project && strings.HasPrefix(c.Path, strings.TrimSuffix(r.o.project, "/")+"/") {
			data.Changes = append(data.Changes, c)
		}
	}
	r.a.progress.clear()
	if len(data.Changes) == 0 {
		r.a.note("no changes in %s", clean(r.o.project))
		return nil
	}
	r.show(data.Changes)
	if r.o.keep && !r.o.applyPatch {
		r.a.note("next: smolvm diff %s %d --path %s --format patch --export - | git -C %[3]s apply",
			clean(data.Sandbox.Name), r.step, clean(shellQuote(r.o.project)))
		return nil
	}
	return r.patch(ctx, o, data)
}

// show prints a summary, without the insides of .git, on standard error: standard
// output is the agent's.
func (r *agentRun) show(list []smolvm.Change) {
	if r.a.json {
		return
	}
	r.a.note("changes in %s:", clean(r.o.project))
	shown, git := 0, 0
	for _, c := range list {
		c.Path = strings.TrimPrefix(c.Path, strings.TrimSuffix(r.o.project, "/")+"/")
		switch {
		case c.Path == ".git" || strings.HasPrefix(c.Path, ".git/"):
			git++
		case shown < maxShownChanges:
			diffPrinter{term: r.a.ErrTerm}.print(r.a.Err, c)
			shown++
		default:
			shown++
		}
	}
	if shown > maxShownChanges {
		r.a.note("and %d more", shown-maxShownChanges)
	}
	if git > 0 {
		r.a.note("and %d in .git, which stay in the sandbox", git)
	}
}

// patch writes the changes to a file beside nobody's files, and applies it where that
// was asked for; then it is removed.
func (r *agentRun) patch(ctx context.Context, o smolvm.DiffOptions, data *agentData) error {
	f, err := os.CreateTemp("", "smolvm-"+data.Sandbox.Name+"-*.patch")
	if err != nil {
		return api.Errorf(api.Unavailable, "write the changes: %w", err)
	}
	defer f.Close()
	skipped, err := r.sb.ExportDiff(ctx, f, r.o.project, smolvm.DiffPatch, o)
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	r.sayLeftOut(skipped)
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		os.Remove(f.Name())
		return err
	}
	if !r.o.applyPatch {
		data.Patch = f.Name()
		r.a.note("next: %s", clean(applyLine(r.o.project, f.Name())))
		return nil
	}
	if err := applyPatch(ctx, r.o.project, f.Name()); err != nil {
		data.Patch = f.Name()
		return err
	}
	data.Applied = true
	r.a.note("applied")
	return os.Remove(f.Name())
}

func (r *agentRun) sayLeftOut(paths []string) {
	for _, p := range paths {
		if !strings.Contains(p+"/", "/.git/") {
			r.a.note("left out, it cannot stand in a patch: %s", clean(p))
		}
	}
}

// noRepository has git apply take the names in a patch as they are, from the folder it
// is called in: below a work tree's top it would silently leave them out.
const noRepository = "GIT_DIR=/dev/null"

// applyPatch applies a patch to a folder of this host. Git refuses paths that lead
// out of it, through links too, or into a .git.
func applyPatch(ctx context.Context, dir, file string) error {
	cmd := exec.CommandContext(ctx, "git", "apply", "--whitespace=nowarn", file)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), noRepository)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return api.Errorf(api.Conflict, "apply the changes to %s: %w: %s", dir, err, strings.TrimSpace(string(out))).
			WithRecovery("Has the folder changed meanwhile? The changes are kept: %s --reject", applyLine(dir, file))
	}
	return nil
}

// applyLine is what a person types to apply a patch.
func applyLine(dir, file string) string {
	line := shellJoin([]string{"git", "-C", dir, "apply", file})
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil && inWorkTree(dir) {
		line = noRepository + " " + line
	}
	return line
}
