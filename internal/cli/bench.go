package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

const (
	defaultSamples = 10
	maxSamples     = 10_000
)

// benchData is what a benchmark found.
type benchData struct {
	Host     benchHost      `json:"host"`
	Spec     benchSpec      `json:"sandbox"`
	Measures []figure       `json:"measures"`
	Skipped  []benchOmitted `json:"skipped"`
}

// benchHost is where the figures come from.
type benchHost struct {
	CPU        string    `json:"cpu"`
	Processors int       `json:"processors"`
	Kernel     string    `json:"kernel"`
	VMM        string    `json:"vmm"`
	Accel      api.Accel `json:"accel"`
	Load1      string    `json:"load1"` // when it began
	Time       time.Time `json:"time"`
	Version    string    `json:"version"` // of smolvm
}

type benchSpec struct {
	Image     string `json:"image"`
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	DiskMiB   int    `json:"disk_mib"`
}

// benchOmitted is what was not measured.
type benchOmitted struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

type benchOptions struct {
	sizeFlags
	n int
}

func (a *app) newBench() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure sandboxes on this machine",
		Long: `Measure what sandboxes take on this machine, and print the median and the 95th
percentile with the machine: a create from a template and a fork, each until a
first command has ended, commands, checkpoints, and a whole run where a pool of
the same image and sizes is set. Beside them stands the raw floor: the same done
with the VMM alone, in the same run. Nothing is left but the template.`,
		Example: `  smolvm bench
  smolvm pool set base --size 3 --wait && smolvm bench -n 30
  smolvm bench --memory 1G --json`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) { return a.bench(ctx, &o) }),
	}
	o.register(a, cmd)
	fs := cmd.Flags()
	fs.StringVar(&o.image, "image", api.DefaultImage, "image to use")
	fs.IntVarP(&o.n, "samples", "n", defaultSamples, "measure each `N` times")
	complete(cmd, "image", a.completeImages)
	return cmd
}

func (a *app) bench(ctx context.Context, o *benchOptions) (outcome, error) {
	if err := thisMachine("measure"); err != nil {
		return outcome{}, err
	}
	if o.n < 1 || o.n > maxSamples {
		return outcome{}, api.Errorf(api.Invalid, "%d samples are outside 1 to %d", o.n, maxSamples)
	}
	spec := o.spec()
	if err := o.check(spec); err != nil {
		return outcome{}, err
	}
	host, err := a.benchHost(ctx)
	if err != nil {
		return outcome{}, err
	}
	b := &bencher{a: a, client: a.client(), spec: spec, n: o.n}
	b.data = benchData{
		Host: host, Spec: benchSpec{spec.Image, spec.CPUs, spec.MemoryMiB, spec.DiskMiB},
		Measures: []figure{}, Skipped: []benchOmitted{},
	}
	if err := b.all(ctx); err != nil {
		return outcome{}, err
	}
	return outcome{data: b.data, text: b.data.print}, nil
}

func (a *app) benchHost(ctx context.Context) (benchHost, error) {
	caps, err := a.build.Driver.Probe(ctx)
	if err != nil {
		return benchHost{}, err
	}
	h := benchHost{
		CPU: "unknown processor", Processors: runtime.NumCPU(), VMM: caps.Version, Accel: caps.Accel,
		Time: time.Now(), Version: a.build.version(),
	}
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpus)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			h.CPU = strings.TrimSpace(v)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	h.Kernel = strings.TrimSpace(string(release))
	load, _ := os.ReadFile("/proc/loadavg")
	h.Load1, _, _ = strings.Cut(string(load), " ")
	return h, nil
}

func (d benchData) print(w io.Writer) {
	h, s := d.Host, d.Spec
	fmt.Fprintf(w, "%s, %d processors, Linux %s, %s with %s, load %s, %s\n", clean(h.CPU), h.Processors, clean(h.Kernel),
		clean(h.VMM), h.Accel, h.Load1, h.Time.Format(time.DateOnly))
	fmt.Fprintf(w, "smolvm %s, image %s, cpus %d, memory %s\n\n", clean(h.Version), clean(s.Image), s.CPUs, mib(s.MemoryMiB))
	var rows [][]string
	for _, m := range d.Measures {
		row := []string{m.Name, fmt.Sprintf("%.1f ms", m.P50), fmt.Sprintf("%.1f ms", m.P95), fmt.Sprint(m.N)}
		if m.Ratio != 0 {
			row = append(row, fmt.Sprintf("%.2fx the floor", m.Ratio))
		}
		rows = append(rows, row)
	}
	table(w, "\tP50\tP95\tN", rows)
	for _, o := range d.Skipped {
		fmt.Fprintf(w, "not measured: %s: %s\n", o.Name, clean(o.Reason))
	}
}

// Floor measures the raw floor on this host: what the VMM alone takes to continue
// a saved machine of a spec's sizes and to have it execute two commands. After each
// of the n times it calls then, so that what is compared is measured in turns. It
// leaves nothing.
type Floor func(ctx context.Context, spec smolvm.Spec, n int, then func() error) (FloorTimes, error)

// FloorTimes are n samples of each step, all from the start of the VMM but Second.
type FloorTimes struct {
	Greeted []time.Duration // the VMM answers
	Loaded  []time.Duration // memory and devices are loaded
	First   []time.Duration // the first command has ended
	Second  []time.Duration // the second command alone
}
