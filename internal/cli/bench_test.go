package cli

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	var samples []time.Duration
	for i := 20; i > 0; i-- {
		samples = append(samples, time.Duration(i)*time.Millisecond)
	}
	got := newFigure("x", samples)
	if want := (figure{Name: "x", N: 20, Min: 1, P50: 11, P95: 20, Max: 20}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if samples[0] != 20*time.Millisecond {
		t.Error("the samples were sorted under their owner's hands")
	}
	if got := newFigure("x", samples[:1]); got.P50 != 20 || got.P95 != 20 {
		t.Errorf("of one sample: %+v", got)
	}
}

func TestBenchOutput(t *testing.T) {
	b := bencher{data: benchData{
		Host: benchHost{CPU: "Some\x1b[2J CPU", Processors: 2, Kernel: "6.1", VMM: "QEMU 7.2.22", Accel: "tcg", Load1: "0.50", Version: "v1",
			Time: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
		Spec: benchSpec{"base", 1, 512, 8192},
	}}
	b.add(floorFirst, "", []time.Duration{390 * time.Millisecond})
	b.add("create", floorFirst, []time.Duration{429 * time.Millisecond})
	b.add("exec", floorSecond, []time.Duration{1500 * time.Microsecond}) // that floor was not measured
	b.data.Skipped = append(b.data.Skipped, benchOmitted{"pool", hostile})
	var out strings.Builder
	b.data.print(&out)
	if strings.ContainsAny(out.String(), "\x1b\t\r\u202e") {
		t.Errorf("control characters reached the terminal: %q", out.String())
	}
	golden(t, filepath.Join("testdata", "bench.txt"), []byte(out.String()))
	if m := b.data.Measures[1]; m.Floor != floorFirst || m.Ratio != 1.1 {
		t.Errorf("compared with its floor: %+v", m)
	}
	if m := b.data.Measures[2]; m.Floor != "" || m.Ratio != 0 {
		t.Errorf("compared with a floor that was not measured: %+v", m)
	}
}
