package netstack

import (
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
)

// The guest of these benchmarks is a second stack in the same process, so what
// is measured is both sides' work on one machine: compare with the Loopback ones,
// which do the same over the kernel's loopback.

func discard(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }

// fill sends without end.
func fill(c *net.TCPConn) {
	b := make([]byte, 64<<10)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// chunk is how many bytes one operation of the throughput benchmarks moves.
const chunk = 1 << 20

// measureCPU reports the processor time of an operation, of user and kernel: on
// a busy machine it says more than the clock.
func measureCPU(b *testing.B) (report func()) {
	b.Helper()
	before := cpuTime(b)
	return func() {
		b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	}
}

func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func upload(b *testing.B, c net.Conn) {
	b.Helper()
	b.SetBytes(chunk)
	buf := make([]byte, chunk)
	b.ResetTimer()
	defer measureCPU(b)()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func download(b *testing.B, c net.Conn) {
	b.Helper()
	b.SetBytes(chunk)
	buf := make([]byte, chunk)
	b.ResetTimer()
	defer measureCPU(b)()
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpload(b *testing.B) {
	for _, mtu := range []int{1500, 9000, DefaultMTU} {
		b.Run(fmt.Sprint("mtu=", mtu), func(b *testing.B) {
			g := start(b, Config{Decider: to(listen(b, discard)), Recorder: nobody{}, MTU: mtu})
			upload(b, g.mustDial(b, world(80)))
		})
	}
}

func BenchmarkDownload(b *testing.B) {
	for _, mtu := range []int{1500, 9000, DefaultMTU} {
		b.Run(fmt.Sprint("mtu=", mtu), func(b *testing.B) {
			g := start(b, Config{Decider: to(listen(b, fill)), Recorder: nobody{}, MTU: mtu})
			download(b, g.mustDial(b, world(80)))
		})
	}
}

func BenchmarkLoopbackUpload(b *testing.B) {
	c := loopback(b, listen(b, discard))
	defer c.Close()
	upload(b, c)
}

func BenchmarkLoopbackDownload(b *testing.B) {
	c := loopback(b, listen(b, fill))
	defer c.Close()
	download(b, c)
}

func loopback(b *testing.B, addr net.Addr) net.Conn {
	b.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// BenchmarkConnect is a connection with five bytes each way, to its clean end.
func BenchmarkConnect(b *testing.B) {
	addr := listen(b, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	for _, atOnce := range []int{1, 16} {
		b.Run(fmt.Sprint("at once=", atOnce), func(b *testing.B) {
			g := start(b, Config{Decider: to(addr), Recorder: nobody{}})
			inParallel(b, atOnce, func() error { return shortConnection(g) })
		})
	}
}

func BenchmarkLoopbackConnect(b *testing.B) {
	addr := listen(b, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	for _, atOnce := range []int{1, 16} {
		b.Run(fmt.Sprint("at once=", atOnce), func(b *testing.B) {
			inParallel(b, atOnce, func() error {
				c, err := net.Dial("tcp", addr.String())
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err := c.Write([]byte("hello")); err != nil {
					return err
				}
				if err := c.(*net.TCPConn).CloseWrite(); err != nil {
					return err
				}
				_, err = io.ReadAll(c)
				return err
			})
		})
	}
}

func inParallel(b *testing.B, atOnce int, do func() error) {
	b.Helper()
	b.ResetTimer()
	defer measureCPU(b)()
	jobs := make(chan struct{})
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for range jobs {
				if err := do(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for b.Loop() {
		jobs <- struct{}{}
	}
	close(jobs)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "conn/s")
}

// BenchmarkRoundTrip is one byte there and back on an open connection.
func BenchmarkRoundTrip(b *testing.B) {
	addr := listen(b, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	g := start(b, Config{Decider: to(addr), Recorder: nobody{}})
	c := g.mustDial(b, world(80))
	roundTrips(b, c)
}

func BenchmarkLoopbackRoundTrip(b *testing.B) {
	c := loopback(b, listen(b, func(c *net.TCPConn) { _, _ = io.Copy(c, c) }))
	defer c.Close()
	roundTrips(b, c)
}

func roundTrips(b *testing.B, c net.Conn) {
	b.Helper()
	buf := make([]byte, 1)
	b.ResetTimer()
	defer measureCPU(b)()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckFrame(b *testing.B) {
	l := testLink()
	frame := out(typeIPv4, packet4("198.19.77.2", "203.0.113.7", protoUDP, make([]byte, 1400)...))
	for b.Loop() {
		if p := l.check(frame); p.drop != keep {
			b.Fatal(p.drop)
		}
	}
}
