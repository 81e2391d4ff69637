package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	snapshot            string
	noTemplate          bool
	checkpoint          string
	idleAction          string
	mount               mountFlags
	network             networkFlags
	port                portFlags
	secret              secretFlags

	given *pflag.FlagSet // tells what was said from what is a default
}

func (f *specFlags) register(a *app, cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.name, "name", "n", "", "name of the sandbox (default: generated)")
	f.registerUnnamed(a, cmd)
}

// registerUnnamed registers what can be said of several sandboxes.
func (f *specFlags) registerUnnamed(a *app, cmd *cobra.Command) {
	fs := cmd.Flags()
	f.given = fs
	fs.StringVar(&f.image, "image", "", "image to use (default "+api.DefaultImage+")")
	fs.IntVar(&f.cpus, "cpus", api.DefaultCPUs, "virtual CPUs")
	f.memory, f.disk = api.DefaultMemoryMiB, api.DefaultDiskMiB
	fs.Var(&f.memory, "memory", "memory in MiB, or such as 512M or 2G")
	fs.Var(&f.disk, "disk", "size of the writable disk in MiB, or such as 512M or 2G")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "environment variable `KEY=VALUE`; KEY alone takes the value from here")
	fs.StringArrayVar(&f.envFile, "env-file", nil, "`FILE` of KEY=VALUE lines")
	fs.StringArrayVarP(&f.label, "label", "l", nil, "label `KEY=VALUE`")
	fs.Var(&f.ttl, "ttl", "remove the sandbox after this time, such as 90s or 2h (default: never)")
	fs.Var(&f.idle, "idle-timeout", "stop the sandbox after this time without a client, or as --idle-action says (default: never)")
	fs.StringVar(&f.minIsolation, "min-isolation", "", "refuse to run with less: hardware or emulated")
	fs.StringVar(&f.accel, "accel", string(api.AccelAuto), "auto, kvm or tcg")
	fixed(cmd, "accel", string(api.AccelAuto), string(api.AccelKVM), string(api.AccelTCG))
	fixed(cmd, "min-isolation", string(api.Hardware), string(api.Emulated))
	complete(cmd, "image", a.completeImages)
	f.registerSaved(a, cmd)
	f.mount.register(cmd)
	f.network.register(cmd)
	f.port.register(cmd)
	f.secret.register(a, cmd)
}

// registerSaved registers the flags about what is continued and what is saved.
func (f *specFlags) registerSaved(a *app, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.snapshot, "from-snapshot", "", "continue the snapshot of this `NAME`; image and sizes are its own")
	fs.BoolVar(&f.noTemplate, "no-template", false, "boot instead of continuing a template; of a snapshot take the disk alone")
	fs.StringVar(&f.checkpoint, "checkpoint", "", "record checkpoints by itself, `WHEN`: each-command (default: never)")
	fs.StringVar(&f.idleAction, "idle-action", "", "at the end of the idle timeout: stop, hibernate or remove (default stop)")
	a.registerBudget(cmd)
	fixed(cmd, "checkpoint", api.CheckpointEachCommand)
	fixed(cmd, "idle-action", api.IdleStop, api.IdleHibernate, api.IdleRemove)
	complete(cmd, "from-snapshot", a.completeSnapshots)
}

// spec returns what the flags ask for.
func (f *specFlags) spec() (smolvm.Spec, error) {
	if err := f.exclusions(); err != nil {
		return smolvm.Spec{}, err
	}
	env, err := environment(f.envFile, f.env)
	if err != nil {
		return smolvm.Spec{}, err
	}
	labels, err := keyValues("label", f.label)
	if err != nil {
		return smolvm.Spec{}, err
	}
	if f.cpus < 1 {
		return smolvm.Spec{}, tooFewCPUs(f.cpus)
	}
	s := smolvm.Spec{
		Name: f.name, Image: f.image, CPUs: f.cpus,
		MemoryMiB: int(f.memory), DiskMiB: int(f.disk),
		Env: env, Labels: labels,
		TTLSeconds: f.ttl.seconds(), IdleTimeoutSeconds: f.idle.seconds(),
		MinIsolation: api.Isolation(f.minIsolation), Accel: api.Accel(f.accel),
		FromSnapshot: f.snapshot, NoTemplate: f.noTemplate, Checkpoint: f.checkpoint, IdleAction: f.idleAction,
	}
	if s.Mounts, err = f.mount.parse(); err != nil {
		return smolvm.Spec{}, err
	}
	if s.Secrets, err = f.secret.parse(); err != nil {
		return smolvm.Spec{}, err
	}
	if s.Ports, err = f.port.parse(); err != nil {
		return smolvm.Spec{}, err
	}
	if s.Network, err = f.network.network(); err != nil {
		return smolvm.Spec{}, err
	}
	if f.snapshot != "" {
		s.Image, s.CPUs, s.MemoryMiB, s.DiskMiB = "", 0, 0, 0
	}
	return s, s.WithDefaults().Check()
}

// exclusions refuses flags of which one would be in vain.
func (f *specFlags) exclusions() error {
	if f.given.Changed("from-snapshot") {
		if f.snapshot == "" {
			return usagef("--from-snapshot names no snapshot")
		}
		for _, name := range []string{"image", "cpus", "memory", "disk", "disk-size"} {
			if f.given.Changed(name) {
				return usagef("--%s and --from-snapshot exclude each other: image and sizes are the snapshot's", name)
			}
		}
	}
	if f.idleAction != "" && f.idle == 0 {
		return usagef("--idle-action does nothing without --idle-timeout")
	}
	return nil
}
