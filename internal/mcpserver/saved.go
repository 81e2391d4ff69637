package mcpserver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/apikey"
)

func (s *Server) addSaved() {
	add(s, tool[checkpointIn, stepOut]{
		name: "checkpoint", title: "Record a checkpoint", scope: apikey.Manage,
		about: "Record a sandbox as it is (memory, processes and disk) as a step of its history, to go back to with rewind.",
		call:  (*call).checkpoint,
	})
	add(s, tool[where, historyOut]{
		name: "history", title: "Show the history", scope: apikey.Read,
		about: "List the steps of a sandbox that were recorded.",
		hints: hints{readOnly: true, idempotent: true},
		call:  (*call).history,
	})
	add(s, tool[rewindIn, stepOut]{
		name: "rewind", title: "Go back to a step", scope: apikey.Manage,
		about: "Make a sandbox what it was at a step: memory, processes and disk. What it is now is recorded as a step first.",
		hints: hints{destructive: true},
		call:  (*call).rewind,
	})
	add(s, tool[diffIn, diffOut]{
		name: "diff", title: "Show what changed", scope: apikey.Run,
		about: "List the files of a sandbox that differ between two steps, by default between its image and now.",
		hints: hints{readOnly: true, idempotent: true},
		call:  (*call).diff,
	})
	add(s, tool[snapshotIn, snapshotOut]{
		name: "snapshot", title: "Take a snapshot", scope: apikey.Manage,
		about: "Save a sandbox under a name. Snapshots stay when the session ends; create_sandbox with from_snapshot continues one.",
		call:  (*call).snapshot,
	})
	add(s, tool[struct{}, snapshotsOut]{
		name: "list_snapshots", title: "List snapshots", scope: apikey.Read,
		about: "List the snapshots that sandboxes can be made of.",
		hints: hints{readOnly: true, idempotent: true},
		call:  (*call).snapshots,
	})
	add(s, tool[forkIn, forkOut]{
		name: "fork", title: "Fork a sandbox", scope: apikey.Manage,
		about: "Make copies of a sandbox with its memory, processes and disk, to try several things from one state. The original goes on.",
		call:  (*call).fork,
	})
}

type checkpointIn struct {
	where
	Label string `json:"label,omitempty" jsonschema:"what to call the step"`
}

type stepOut struct {
	ran
	Step  int    `json:"step"`
	Label string `json:"label"`
}

func (o stepOut) text() string {
	return fmt.Sprintf("%s%s is at step %d: %s", o.said(), o.Sandbox, o.Step, o.Label)
}

func (c *call) checkpoint(ctx context.Context, in checkpointIn) (stepOut, error) {
	sb, r, err := c.running(ctx, in.Sandbox)
	if err != nil {
		return stepOut{}, err
	}
	step, err := sb.Checkpoint(ctx, smolvm.Checkpoint{Label: in.Label})
	return stepOut{r, step.Step, step.Label}, err
}

type listedStep struct {
	Step   int    `json:"step"`
	Parent *int   `json:"parent,omitempty" jsonschema:"the step before"`
	Label  string `json:"label" jsonschema:"the command, or what was said"`
	Exit   *int   `json:"exit_code,omitempty" jsonschema:"of the command"`
	At     string `json:"at" jsonschema:"RFC 3339"`
}

type historyOut struct {
	ran
	Head  int          `json:"head" jsonschema:"the step that the sandbox continues; -1: none"`
	Steps []listedStep `json:"steps"`
}

func (o historyOut) text() string {
	if len(o.Steps) == 0 {
		return "No step is recorded yet: use checkpoint, run_command with checkpoint, or create_sandbox with checkpoint_each_command."
	}
	var b strings.Builder
	for _, s := range o.Steps {
		fmt.Fprintf(&b, "step %d", s.Step)
		if s.Parent != nil {
			fmt.Fprintf(&b, " (after %d)", *s.Parent)
		}
		fmt.Fprintf(&b, ": %s", s.Label)
		if s.Exit != nil {
			fmt.Fprintf(&b, " [exit code %d]", *s.Exit)
		}
		if s.Step == o.Head {
			b.WriteString(" <- here")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// maxSteps bounds the steps that a result lists: the last ones.
const maxSteps = 100

func (c *call) history(ctx context.Context, in where) (historyOut, error) {
	sb, info, err := c.look(ctx, in.Sandbox)
	if err != nil {
		return historyOut{}, err
	}
	h, err := sb.History(ctx)
	o := historyOut{ran: ran{Sandbox: info.Name}, Head: h.Head, Steps: []listedStep{}}
	for _, s := range h.Steps[max(0, len(h.Steps)-maxSteps):] {
		o.Steps = append(o.Steps, listedStep{s.Step, s.Parent, s.Label, s.Exit, s.Created.Format(time.RFC3339)})
	}
	return o, err
}

type rewindIn struct {
	where
	Step int `json:"step" jsonschema:"of history"`
}

func (c *call) rewind(ctx context.Context, in rewindIn) (stepOut, error) {
	sb, info, err := c.look(ctx, in.Sandbox)
	if err != nil {
		return stepOut{}, err
	}
	c.tell("rewinding %s to step %d", info.Name, in.Step)
	if err := sb.Rewind(ctx, in.Step); err != nil {
		return stepOut{}, err
	}
	return stepOut{ran{Sandbox: info.Name}, in.Step, "gone back to; what was before is a step of its own"}, nil
}

type diffIn struct {
	where
	From  int  `json:"from,omitempty" jsonschema:"step to compare with; -1: the image"`
	To    int  `json:"to,omitempty" jsonschema:"step to compare; -1: as it is now"`
	Patch bool `json:"patch,omitempty" jsonschema:"true: with the changes of text files as a unified diff"`
}

type changedFile struct {
	Path string `json:"path"`
	What string `json:"what" jsonschema:"added, changed or deleted"`
	Type string `json:"type"`
	Size int64  `json:"size" jsonschema:"bytes, afterwards"`
}

type diffOut struct {
	ran
	Changes  []changedFile `json:"changes"`
	Total    int           `json:"total" jsonschema:"files that differ; changes lists the first of them"`
	Patch    string        `json:"patch,omitempty"`
	OutputID string        `json:"output_id,omitempty" jsonschema:"for read_output, where the patch was cut"`
}

// maxChanges bounds the files that a result lists.
const maxChanges = 200

func (o diffOut) text() string {
	if o.Total == 0 {
		return "no file differs"
	}
	var b strings.Builder
	for _, f := range o.Changes {
		fmt.Fprintf(&b, "%s %s\n", f.What, f.Path)
	}
	if o.Total > len(o.Changes) {
		fmt.Fprintf(&b, "[%d files in all]\n", o.Total)
	}
	return b.String() + o.Patch
}

func (c *call) diff(ctx context.Context, in diffIn) (diffOut, error) {
	sb, info, err := c.look(ctx, in.Sandbox)
	if err != nil {
		return diffOut{}, err
	}
	o := smolvm.DiffOptions{From: stepOrNil(in.From), To: stepOrNil(in.To), Patch: in.Patch}
	c.tell("comparing files of %s", info.Name)
	list, err := sb.Diff(ctx, o)
	if err != nil {
		return diffOut{}, err
	}
	out := diffOut{ran: ran{Sandbox: info.Name}, Changes: []changedFile{}, Total: len(list)}
	patch := new(capture)
	for i, f := range list {
		if i < maxChanges {
			out.Changes = append(out.Changes, changedFile{f.Path, f.What, f.Type, f.Size})
		}
		patch.Write([]byte(f.Patch))
	}
	id := c.outputs.next()
	var cut bool
	if out.Patch, cut = patch.show(outputLimit, id, streamOut); cut {
		out.OutputID = id
		c.outputs.keep(id, patch, new(capture))
	}
	return out, nil
}

func stepOrNil(n int) *int {
	if n < 0 {
		return nil
	}
	return &n
}

type snapshotIn struct {
	where
	Name string `json:"name,omitempty" jsonschema:"default: generated"`
}

type snapshotOut struct {
	ran
	Snapshot string `json:"snapshot" jsonschema:"its name"`
}

func (o snapshotOut) text() string {
	return fmt.Sprintf("%ssaved %s as snapshot %s", o.said(), o.Sandbox, o.Snapshot)
}

func (c *call) snapshot(ctx context.Context, in snapshotIn) (snapshotOut, error) {
	sb, info, err := c.look(ctx, in.Sandbox)
	if err != nil {
		return snapshotOut{}, err
	}
	c.tell("saving %s", info.Name)
	s, err := sb.TakeSnapshot(ctx, smolvm.TakeSnapshot{Name: in.Name})
	return snapshotOut{ran{Sandbox: info.Name}, s.Name}, err
}

type listedSnapshot struct {
	Name    string `json:"name"`
	Kind    string `json:"kind" jsonschema:"full with memory and processes, or disk"`
	Image   string `json:"image"`
	Created string `json:"created" jsonschema:"RFC 3339"`
}

type snapshotsOut struct {
	Snapshots []listedSnapshot `json:"snapshots"`
}

func (o snapshotsOut) text() string {
	if len(o.Snapshots) == 0 {
		return "There is no snapshot."
	}
	var b strings.Builder
	for _, s := range o.Snapshots {
		fmt.Fprintf(&b, "%s: %s, image %s, %s\n", s.Name, s.Kind, s.Image, s.Created)
	}
	return b.String()
}

func (c *call) snapshots(ctx context.Context, _ struct{}) (snapshotsOut, error) {
	list, err := c.s.o.Client.Snapshots(ctx)
	o := snapshotsOut{Snapshots: []listedSnapshot{}}
	for _, s := range list {
		o.Snapshots = append(o.Snapshots, listedSnapshot{s.Name, string(s.Kind), s.Image, s.Created.Format(time.RFC3339)})
	}
	return o, err
}

type forkIn struct {
	where
	Count int    `json:"count,omitempty" jsonschema:"how many copies"`
	Step  int    `json:"step,omitempty" jsonschema:"of history, to copy it as it was then; -1: as it is now"`
	Name  string `json:"name,omitempty" jsonschema:"of the copy; of several, NAME-1, NAME-2 and so on; default: generated"`
	Keep  bool   `json:"keep,omitempty" jsonschema:"true: they stay when the session ends"`
}

type forkOut struct {
	ran
	Children []described `json:"children"`
}

func (o forkOut) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%sforked %s:\n", o.said(), o.Sandbox)
	for _, d := range o.Children {
		b.WriteString(d.text() + "\n")
	}
	return b.String()
}

func (c *call) fork(ctx context.Context, in forkIn) (forkOut, error) {
	sb, r, err := c.running(ctx, in.Sandbox)
	if err != nil {
		return forkOut{}, err
	}
	release, err := c.reserve(in.Count)
	if err != nil {
		return forkOut{}, err
	}
	defer release()
	c.tell("forking %s", r.Sandbox)
	children, err := sb.Fork(ctx, smolvm.ForkOptions{N: in.Count, At: stepOrNil(in.Step), Name: in.Name, Ephemeral: !in.Keep})
	if err != nil {
		return forkOut{}, err
	}
	if err := c.adopt(ctx, in.Keep, children...); err != nil {
		return forkOut{}, err
	}
	out := forkOut{ran: r, Children: []described{}}
	for _, child := range children {
		info, err := child.Info(ctx)
		if err != nil {
			return forkOut{}, err
		}
		out.Children = append(out.Children, c.describe(info))
	}
	return out, nil
}
