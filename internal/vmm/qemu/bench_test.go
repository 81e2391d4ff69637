package qemu

import (
	"bufio"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/image/disk"
	"github.com/smolvm/smolvm/internal/vmm"
)

// BenchmarkVMRestore measures what a saved machine takes until it goes on, and
// until its guest answers. The figures are medians, in milliseconds from Start.
func BenchmarkVMRestore(b *testing.B) {
	c := savedForBench(b)
	names := []string{"greeted", "filled", "loaded", "started", "resumed", "answered"}
	laps := map[string][]float64{}
	for b.Loop() {
		begin := time.Now()
		lap := func(name string) {
			laps[name] = append(laps[name], float64(time.Since(begin).Microseconds())/1000)
		}
		restoreOnce(b, c, lap)
	}
	for _, name := range names {
		l := laps[name]
		slices.Sort(l)
		b.ReportMetric(l[len(l)/2], name+"-ms")
		b.ReportMetric(l[0], name+"-min-ms")
	}
}

func restoreOnce(b *testing.B, c vmm.Config, lap func(string)) {
	m, err := (&Driver{lap: lap}).Start(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Kill()
	lap("started")
	if err := m.Resume(b.Context()); err != nil {
		b.Fatal(err)
	}
	lap("resumed")
	hello(b, m)
	lap("answered")
}

// hello waits until the test guest answers.
func hello(tb testing.TB, m vmm.Machine) {
	tb.Helper()
	conn, err := m.Dial(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintln(conn, "hello")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
		tb.Fatalf("%q, %v", line, err)
	}
}

// savedForBench boots a machine and saves it.
func savedForBench(tb testing.TB) vmm.Config {
	tb.Helper()
	c := savable(tb)
	m, err := new(Driver).Start(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	defer m.Kill()
	hello(tb, m)
	if err := m.Pause(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	c.Restore = &vmm.Restore{Devices: filepath.Join(tb.TempDir(), "devices"), Fill: func(vmm.Region) error { return nil }}
	if err := m.(vmm.Saver).SaveDevices(tb.Context(), c.Restore.Devices); err != nil {
		tb.Fatal(err)
	}
	c.Memory = &vmm.Memory{Path: c.Memory.Path}
	return c
}

// BenchmarkVMSave measures for how long a machine stands still that is saved and
// goes on: the medians of its parts, in milliseconds.
func BenchmarkVMSave(b *testing.B) {
	c := savedForBench(b)
	vm, err := new(Driver).Start(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer vm.Kill()
	m := vm.(vmm.Saver)
	if err := m.Resume(b.Context()); err != nil {
		b.Fatal(err)
	}
	took := map[string][]float64{}
	step := func(name string, f func() error) {
		begin := time.Now()
		if err := f(); err != nil {
			b.Fatal(name, err)
		}
		took[name] = append(took[name], float64(time.Since(begin).Microseconds())/1000)
	}
	dir := b.TempDir()
	for n := 0; b.Loop(); n++ {
		hello(b, m)
		layer, devices := filepath.Join(dir, fmt.Sprint("layer", n)), filepath.Join(dir, fmt.Sprint("devices", n))
		if err := disk.Overlay(layer, 2<<20); err != nil {
			b.Fatal(err)
		}
		step("pause", func() error { return m.Pause(b.Context()) })
		step("devices", func() error { return m.SaveDevices(b.Context(), devices) })
		step("layer", func() error { return m.Layer(b.Context(), 1, layer) })
		step("resume", func() error { return m.Resume(b.Context()) })
	}
	for name, l := range took {
		slices.Sort(l)
		b.ReportMetric(l[len(l)/2], name+"-ms")
		b.ReportMetric(l[0], name+"-min-ms")
	}
}
