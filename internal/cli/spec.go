package cli

import (
	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// specFlags are the flags that say what sandbox to make.
type specFlags struct {
	image, name         string
	cpus                int
	memory, disk        mibFlag
	env, envFile, label []string
	ttl, idle           durationFlag
	minIsolation, accel string
}

func (f *specFlags) register(a *app, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.image, "image", "", "image to use (default "+api.DefaultImage+")")
	fs.StringVarP(&f.name, "name", "n", "", "name of the sandbox (default: generated)")
	fs.IntVar(&f.cpus, "cpus", api.DefaultCPUs, "virtual CPUs")
	f.memory, f.disk = api.DefaultMemoryMiB, api.DefaultDiskMiB
	fs.Var(&f.memory, "memory", "memory in MiB, or such as 512M or 2G")
	fs.Var(&f.disk, "disk", "size of the writable disk in MiB, or such as 512M or 2G")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "environment variable `KEY=VALUE`; KEY alone takes the value from here")
	fs.StringArrayVar(&f.envFile, "env-file", nil, "`FILE` of KEY=VALUE lines")
	fs.StringArrayVarP(&f.label, "label", "l", nil, "label `KEY=VALUE`")
	fs.Var(&f.ttl, "ttl", "remove the sandbox after this time, such as 90s or 2h (default: never)")
	fs.Var(&f.idle, "idle-timeout", "stop the sandbox after this time without a client (default: never)")
	fs.StringVar(&f.minIsolation, "min-isolation", "", "refuse to run with less: hardware or emulated")
	fs.StringVar(&f.accel, "accel", string(api.AccelAuto), "auto, kvm or tcg")
	fixed(cmd, "accel", string(api.AccelAuto), string(api.AccelKVM), string(api.AccelTCG))
	fixed(cmd, "min-isolation", string(api.Hardware), string(api.Emulated))
	complete(cmd, "image", a.completeImages)
}

// spec returns what the flags ask for.
func (f *specFlags) spec() (smolvm.Spec, error) {
	env, err := environment(f.envFile, f.env)
	if err != nil {
		return smolvm.Spec{}, err
	}
	labels, err := keyValues("label", f.label)
	if err != nil {
		return smolvm.Spec{}, err
	}
	if f.cpus < 1 {
		// To the SDK zero means the default; said on the command line it is a mistake.
		return smolvm.Spec{}, api.Errorf(api.Invalid, "%d cpus are too few", f.cpus).WithRecovery("For example: --cpus 2.")
	}
	s := smolvm.Spec{
		Name: f.name, Image: f.image, CPUs: f.cpus,
		MemoryMiB: int(f.memory), DiskMiB: int(f.disk),
		Env: env, Labels: labels,
		TTLSeconds: f.ttl.seconds(), IdleTimeoutSeconds: f.idle.seconds(),
		MinIsolation: api.Isolation(f.minIsolation), Accel: api.Accel(f.accel),
	}
	return s, s.WithDefaults().Check()
}
