package guestmem

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// benchMachine is a machine of 512 MiB that has written 200 MiB, in runs of 1 to 63
// pages.
func benchMachine(b *testing.B, base string) machine {
	m := start(b, base)
	m.all() // brings the base into the page cache
	left, page := 200<<20/pageSize, 0
	for n := 0; left > 0; n++ {
		run := min(n*7%63+1, left)
		m.write(page, pattern(run, uint64(n)))
		left -= run
		page += run + run*3/2
	}
	return m
}

// p50 reports the median of what was measured, in milliseconds.
func p50(b *testing.B, name string, list []time.Duration) {
	slices.Sort(list)
	b.ReportMetric(float64(list[len(list)/2].Microseconds())/1000, name+"-p50-ms")
}

func BenchmarkCapture(b *testing.B) {
	base := base(b, 512<<20/pageSize)
	m := benchMachine(b, base)
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"plain", Options{}},
		{"seen", Options{WantSeen: true}},
		{"compressed", Options{Compress: true}},
	} {
		b.Run(c.name, func(b *testing.B) { benchCapture(b, m, base, c.o) })
	}
	b.Run("since", func(b *testing.B) {
		d, seen, err := Capture(m.Region, Options{WantSeen: true})
		if err != nil {
			b.Fatal(err)
		}
		d.Close()
		m.write(100, pattern(256, 7)) // 1 MiB
		benchCapture(b, m, base, Options{Since: seen, WantSeen: true})
	})
}

func benchCapture(b *testing.B, m machine, base string, o Options) {
	var prepare, pause, write, apply []time.Duration
	for b.Loop() {
		t := time.Now()
		buf, err := Prepare(m.Region, o.Since)
		if err != nil {
			b.Fatal(err)
		}
		prepare = append(prepare, time.Since(t))
		o.Buffer = buf
		t = time.Now()
		d, _, err := Capture(m.Region, o)
		if err != nil {
			b.Fatal(err)
		}
		pause = append(pause, time.Since(t))
		path := filepath.Join(b.TempDir(), "delta")
		t = time.Now()
		if err := d.WriteFile(path); err != nil {
			b.Fatal(err)
		}
		write = append(write, time.Since(t))
		d.Close()
		b.StopTimer()
		to := start(b, base)
		t = time.Now()
		if _, err := Apply(to.Region, []string{path}, false); err != nil {
			b.Fatal(err)
		}
		apply = append(apply, time.Since(t))
		to.stop()
		os.Remove(path)
		b.StartTimer()
	}
	p50(b, "prepare", prepare)
	p50(b, "pause", pause)
	p50(b, "write", write)
	p50(b, "apply", apply)
}
