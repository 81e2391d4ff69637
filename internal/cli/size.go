package cli

import (
	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// sizeFlags say of what image and size something is, where nothing else of a
// sandbox matters.
type sizeFlags struct {
	image        string // by a flag or an argument
	cpus         int
	memory, disk mibFlag
}

func (f *sizeFlags) register(a *app, cmd *cobra.Command) {
	fs := cmd.Flags()
	f.memory, f.disk = api.DefaultMemoryMiB, api.DefaultDiskMiB
	fs.IntVar(&f.cpus, "cpus", api.DefaultCPUs, "virtual CPUs")
	fs.Var(&f.memory, "memory", "memory in MiB, or such as 512M or 2G")
	fs.Var(&f.disk, "disk", "size of the writable disk in MiB, or such as 512M or 2G")
	a.registerBudget(cmd)
}

func (f *sizeFlags) spec() smolvm.Spec {
	return smolvm.Spec{Image: f.image, CPUs: f.cpus, MemoryMiB: int(f.memory), DiskMiB: int(f.disk)}
}

// check refuses what the SDK would take for "the default", and what it refuses.
func (f *sizeFlags) check(s smolvm.Spec) error {
	if f.cpus < 1 {
		return tooFewCPUs(f.cpus)
	}
	return s.WithDefaults().Check()
}

// tooFewCPUs is for a number that was said: to the SDK zero means the default.
func tooFewCPUs(n int) error {
	return api.Errorf(api.Invalid, "%d cpus are too few", n).WithRecovery("For example: --cpus 2.")
}
