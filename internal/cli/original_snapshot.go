package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// oldSnapshot is a snapshot in the original's data. Where its files are is nobody's
// business here; snapshot save makes one that can be carried.
type oldSnapshot struct {
	ID         string       `json:"snapshot_id"`
	VM         string       `json:"vm_id"`
	Backend    string       `json:"backend"`
	Type       string       `json:"snapshot_type"`
	Restored   bool         `json:"restored"`
	RestoredVM *string      `json:"restored_vm_id"`
	Created    time.Time    `json:"created_at"`
	Artifacts  oldArtifacts `json:"artifacts"`
}

type oldArtifacts struct {
	State  *string `json:"state_path"`
	Memory *string `json:"memory_path"`
	Disk   *string `json:"disk_path"`
}

type oldSnapshotData struct {
	Snapshot oldSnapshot `json:"snapshot"`
}

type oldRestoreData struct {
	Snapshot oldSnapshot `json:"snapshot"`
	VM       oldListedVM `json:"vm"`
}

type oldSnapshotListData struct {
	Filters   oldSnapshotFilters `json:"filters"`
	Snapshots []oldSnapshot      `json:"snapshots"`
}

type oldSnapshotFilters struct {
	VM *string `json:"vm_id"`
}

func newOldSnapshot(s smolvm.Snapshot) oldSnapshot {
	return oldSnapshot{ID: s.Name, VM: s.Source, Backend: "qemu", Type: string(s.Kind), Created: s.Created}
}

func oneOldSnapshot(s smolvm.Snapshot) outcome {
	return outcome{
		data: oldSnapshotData{newOldSnapshot(s)},
		text: func(w io.Writer) { fmt.Fprintln(w, clean(s.Name)) },
	}
}

func (a *app) newOldSnapshots() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save sandboxes under a name",
		Long: `Save sandboxes under a name and make sandboxes of what was saved. smolvm snapshot
says more, and carries snapshots to other machines.`,
		Example: `  smolvm sandbox snapshot create web --snapshot-id ready --resume-source
  smolvm sandbox snapshot restore ready --resume`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newOldSnapshotCreate(), a.newOldSnapshotRestore(), a.newOldSnapshotList(), a.newOldSnapshotRemove())
	return cmd
}

type oldSnapshotOptions struct {
	id, kind, flush  string
	resume, liveOnly bool
}

func (a *app) newOldSnapshotCreate() *cobra.Command {
	var o oldSnapshotOptions
	cmd := &cobra.Command{
		Use:   "create VM",
		Short: "Save a sandbox under a name",
		Long: `Save a sandbox under a name, and leave it paused unless told otherwise. Only what
differs from what it was made of is written, so that full and diff are the same.`,
		Example:           `  smolvm sandbox snapshot create web --snapshot-id ready --resume-source`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.oldSnapshotCreate(ctx, &o, args[0])
		}),
	}
	fs := cmd.Flags()
	fs.StringVar(&o.id, "snapshot-id", "", "`NAME` of the snapshot (default: generated)")
	fs.StringVar(&o.kind, "snapshot-type", "full", "full, diff or disk")
	fs.BoolVar(&o.resume, "resume-source", false, "let the sandbox go on")
	fs.BoolVar(&o.liveOnly, "live-only", false, "refuse to halt the sandbox: it cannot be had")
	fs.StringVar(&o.flush, "flush-policy", "required", "accepted, without effect: what is saved is whole")
	must(fs.MarkHidden("flush-policy"))
	fixed(cmd, "snapshot-type", "full", "diff", "disk")
	return cmd
}

func (a *app) oldSnapshotCreate(ctx context.Context, o *oldSnapshotOptions, ref string) (outcome, error) {
	if !slices.Contains([]string{"full", "diff", "disk"}, o.kind) {
		return outcome{}, api.Errorf(api.Invalid, "snapshot type %.80q is not known", o.kind).WithRecovery("Use full, diff or disk.")
	}
	if o.liveOnly {
		return outcome{}, api.Errorf(api.Invalid, "a sandbox cannot be saved without halting it for a moment").
			WithRecovery("Leave --live-only out; it is for milliseconds.")
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	info, err := sb.Info(ctx)
	if err != nil {
		return outcome{}, err
	}
	s, err := sb.TakeSnapshot(ctx, smolvm.TakeSnapshot{Name: o.id, DiskOnly: o.kind == "disk"})
	if err == nil && info.State == api.StateRunning && !o.resume {
		err = sb.Pause(ctx)
	}
	if err != nil {
		return outcome{}, err
	}
	return oneOldSnapshot(s), nil
}

func (a *app) newOldSnapshotRestore() *cobra.Command {
	var resume bool
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Make a sandbox of a snapshot",
		Long: `Make a sandbox of a snapshot, with an identity of its own, and leave it paused
unless told otherwise. The same as: smolvm create --from-snapshot.`,
		Example:           `  smolvm sandbox snapshot restore ready --resume`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSnapshots, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.oldSnapshotRestore(ctx, args[0], resume)
		}),
	}
	fs := cmd.Flags()
	fs.BoolVar(&resume, "resume", false, "let the sandbox run")
	fs.Bool("force", false, "accepted, without effect: a snapshot can be restored again and again")
	must(fs.MarkHidden("force"))
	return cmd
}

func (a *app) oldSnapshotRestore(ctx context.Context, name string, resume bool) (outcome, error) {
	if name == "" {
		return outcome{}, usagef("no snapshot is named")
	}
	c := a.client()
	s, err := c.GetSnapshot(ctx, name)
	if err != nil {
		return outcome{}, err
	}
	sb, err := c.Create(ctx, smolvm.Spec{FromSnapshot: name})
	if err != nil {
		return outcome{}, err
	}
	if !resume {
		if err := sb.Pause(ctx); err != nil {
			return outcome{}, err
		}
	}
	info, err := sb.Info(ctx)
	if err != nil {
		return outcome{}, err
	}
	d := oldRestoreData{newOldSnapshot(s), newOldListedVM(info)}
	d.Snapshot.Restored, d.Snapshot.RestoredVM = true, &info.Name
	return outcome{data: d, text: func(w io.Writer) { fmt.Fprintln(w, clean(info.Name)) }}, nil
}

func (a *app) newOldSnapshotList() *cobra.Command {
	var vm string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List snapshots",
		Long:    "List the snapshots, or those of one sandbox.",
		Example: `  smolvm sandbox snapshot list --vm-id web`,
		Args:    cobra.NoArgs,
		RunE:    a.do(func(ctx context.Context, _ []string) (outcome, error) { return a.oldSnapshotList(ctx, vm) }),
	}
	cmd.Flags().StringVar(&vm, "vm-id", "", "only snapshots of this `VM`")
	complete(cmd, "vm-id", a.completeSandboxes)
	return cmd
}

func (a *app) oldSnapshotList(ctx context.Context, vm string) (outcome, error) {
	c := a.client()
	list, err := c.Snapshots(ctx)
	if err != nil {
		return outcome{}, err
	}
	d := oldSnapshotListData{Snapshots: []oldSnapshot{}}
	if vm != "" {
		d.Filters.VM = &vm
		id := vm // of one that was removed: its snapshots stay
		if sb, err := c.Get(ctx, vm); err == nil {
			id = sb.ID()
		}
		list = slices.DeleteFunc(list, func(s smolvm.Snapshot) bool { return s.Source != id })
	}
	for _, s := range list {
		d.Snapshots = append(d.Snapshots, newOldSnapshot(s))
	}
	return outcome{data: d, text: func(w io.Writer) { printSnapshots(w, list, false) }}, nil
}

func (a *app) newOldSnapshotRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "delete SNAPSHOT",
		Short:             "Remove a snapshot",
		Long:              "Remove a snapshot. The same as: smolvm snapshot rm.",
		Example:           `  smolvm sandbox snapshot delete ready`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSnapshots, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			c := a.client()
			list, err := c.Snapshots(ctx)
			if err != nil {
				return outcome{}, err
			}
			// Not GetSnapshot: one that was altered must be removable.
			s := smolvm.Snapshot{Name: args[0]}
			if i := slices.IndexFunc(list, func(s smolvm.Snapshot) bool { return s.Name == args[0] }); i >= 0 {
				s = list[i]
			}
			if err := c.RemoveSnapshot(ctx, args[0]); err != nil {
				return outcome{}, err
			}
			return oneOldSnapshot(s), nil
		}),
	}
}
