// Bench measures smolvm against the raw floor on this host and prints what it
// found, with the host.
//
//	go run ./bench            everything
//	go run ./bench exec copy  some of it
//
// It uses the smolvm program of $SMOLVM_BIN, else the one beside the checkout's
// Makefile, and the images of the user's state directory.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/bench"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
)

// parts are what can be measured, in order.
var parts = []struct {
	name string
	run  func(ctx context.Context, b *suite) error
}{
	{"boot", boots}, {"exec", execs}, {"copy", copies},
	{"create", creates}, {"pool", pools}, {"fork", forks}, {"checkpoint", checkpoints}, {"idle", idlers},
	{"network", networks}, {"http", https},
}

// suite is what the parts share.
type suite struct {
	client *smolvm.Client
	binary string
	floor  bench.Floor
	spec   smolvm.Spec // of the sandboxes that continue something
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == stackArg {
		if err := runStack(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(os.Args[1:]))
}

func run(which []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &suite{binary: os.Getenv("SMOLVM_BIN")}
	if b.binary == "" {
		b.binary = "bin/smolvm"
	}
	b.client = &smolvm.Client{Binary: b.binary}
	s, err := store.Open("")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	b.floor = bench.Floor{Store: s, Driver: new(qemu.Driver)}
	caps, err := b.floor.Driver.Probe(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	// Said by its name it is the same accelerator and template, but no pool's.
	b.spec = smolvm.Spec{Image: api.DefaultImage, MemoryMiB: memoryMiB, Ephemeral: true, Accel: caps.Accel}
	fmt.Println(host(caps))
	for _, p := range parts {
		if len(which) > 0 && !slices.Contains(which, p.name) {
			continue
		}
		fmt.Printf("\n%s\n", p.name)
		if err := p.run(ctx, b); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", p.name, err)
			return 1
		}
	}
	return 0
}

// host describes where the figures come from.
func host(caps vmm.Capabilities) string {
	cpu := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			cpu = strings.TrimSpace(v)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("%s, %d processors, Linux %s, %s with %s, load %s, %s", cpu,
		strings.Count(string(info), "processor\t"), strings.TrimSpace(string(release)),
		caps.Version, caps.Accel, strings.Fields(string(load))[0], time.Now().Format(time.DateOnly))
}

// sample is a list of durations of one thing.
type sample []time.Duration

// collect measures f n times after some that do not count.
func collect(n, warm int, f func() error) (sample, error) {
	var s sample
	for i := range n + warm {
		t := time.Now()
		if err := f(); err != nil {
			return nil, err
		}
		if i >= warm {
			s = append(s, time.Since(t))
		}
	}
	return sorted(s), nil
}

func sorted(s sample) sample { return slices.Sorted(slices.Values(s)) }

func (s sample) at(percent int) time.Duration { return s[min(len(s)*percent/100, len(s)-1)] }

// report prints a line; floor may be nil.
func report(what string, s, floor sample) {
	line := fmt.Sprintf("  %-44s p50 %8.2f ms   p95 %8.2f ms   n %d", what, ms(s.at(50)), ms(s.at(95)), len(s))
	if floor != nil {
		line += fmt.Sprintf("   %.2fx the floor", float64(s.at(50))/float64(floor.at(50)))
	}
	fmt.Println(line)
}

// reportBelow is report with the target to be at most most times the floor.
func reportBelow(what string, s, floor sample, most float64) {
	report(what, s, floor)
	target(float64(s.at(50)) <= most*float64(floor.at(50)), fmt.Sprintf("p50 at most %.1fx the floor", most))
}

// reportWithin is report with a target for the median.
func reportWithin(what string, s sample, most time.Duration) {
	report(what, s, nil)
	target(s.at(50) <= most, fmt.Sprintf("p50 at most %v", most))
}

// target says whether a target is met.
func target(met bool, what string) {
	verdict := "met"
	if !met {
		verdict = "MISSED"
	}
	fmt.Printf("  %-44s %s\n", "  target: "+what, verdict)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// cli runs the program and drops what it prints.
func (b *suite) cli(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, b.binary, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("smolvm %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
