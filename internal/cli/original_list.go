package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type oldListData struct {
	Filters oldFilters    `json:"filters"`
	VMs     []oldListedVM `json:"vms"`
}

type oldFilters struct {
	All    bool    `json:"all"`
	Status *string `json:"status"`
}

// oldListedVM has the fields of the original; a sandbox here has no address and
// no SSH port.
type oldListedVM struct {
	oldVM
	PID      *int     `json:"pid"`
	Address  *string  `json:"ip_address"`
	SSHPort  *int     `json:"ssh_port"`
	Warnings []string `json:"warnings"`
}

func newOldListedVM(s smolvm.Info) oldListedVM {
	vm := oldListedVM{oldVM: oldVM{s.Name, oldStatus(s.State)}, Warnings: []string{}}
	if s.VMMPID != 0 {
		vm.PID = &s.VMMPID
	}
	return vm
}

func (a *app) newOldList() *cobra.Command {
	var all bool
	var status string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List sandboxes",
		Long:  "List the running sandboxes, all of them, or those in one state.",
		Example: `  smolvm sandbox list --all
  smolvm sandbox list --status stopped --json`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) {
			if all && status != "" {
				return outcome{}, usagef("--all and --status exclude each other")
			}
			return a.oldList(ctx, all, status)
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "sandboxes in every state")
	cmd.Flags().StringVar(&status, "status", "", "created, running, paused, stopped or error (default: running)")
	return cmd
}

func (a *app) oldList(ctx context.Context, all bool, status string) (outcome, error) {
	d := oldListData{Filters: oldFilters{All: all}, VMs: []oldListedVM{}}
	if status == "" && !all {
		status = string(api.StateRunning)
	}
	if status != "" {
		d.Filters.Status = &status
	}
	states, err := oldStates(status)
	if err != nil {
		return outcome{}, err
	}
	list, err := a.client().List(ctx, smolvm.ListOptions{States: states})
	if err != nil {
		return outcome{}, err
	}
	for _, s := range list {
		d.VMs = append(d.VMs, newOldListedVM(s))
	}
	return outcome{data: d, text: func(w io.Writer) { printList(w, list, false) }}, nil
}

type oldInfoData struct {
	VM oldInfo `json:"vm"`
}

type oldInfo struct {
	oldVM
	Image      string  `json:"os"`
	Backend    string  `json:"backend"`
	Address    *string `json:"ip_address"`
	SSHPort    *int    `json:"ssh_port"`
	PID        *int    `json:"pid"`
	CPUs       int     `json:"vcpus"`
	MemoryMiB  int     `json:"memory"`
	MemoryUsed *int64  `json:"memory_used"` // of the host, in MiB
	DiskMiB    int     `json:"disk_size"`
	Network    string  `json:"network_mode"`
	Bridge     *string `json:"bridge"`
	Isolation  string  `json:"isolation"` // beyond the original
}

func (a *app) newOldInfo() *cobra.Command {
	return &cobra.Command{
		Use:               "info VM",
		Short:             "Describe a sandbox",
		Long:              "Describe a sandbox. smolvm inspect says more.",
		Example:           `  smolvm sandbox info web --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			info, err := sb.Info(ctx)
			if err != nil {
				return outcome{}, err
			}
			d := oldInfoData{oldInfo{
				oldVM: oldVM{info.Name, oldStatus(info.State)}, Image: info.Image, Backend: "qemu",
				CPUs: info.CPUs, MemoryMiB: info.MemoryMiB, DiskMiB: info.DiskMiB,
				Network: "none", Isolation: string(info.Isolation),
			}}
			if info.VMMPID != 0 {
				d.VM.PID = &info.VMMPID
			}
			if info.State == api.StateRunning {
				d.VM.MemoryUsed = memoryUsed(ctx, sb)
			}
			return outcome{data: d, text: func(w io.Writer) { printInfo(w, info) }}, nil
		}),
	}
}

// memoryUsed measures a sandbox's memory on the host. Nil: it stopped meanwhile.
func memoryUsed(ctx context.Context, sb *smolvm.Sandbox) *int64 {
	s, err := sb.Stats(ctx)
	if err != nil {
		return nil
	}
	n := s.HostRSSKiB >> 10
	return &n
}
