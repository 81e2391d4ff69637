package supervisor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

func (s *Supervisor) stats(ctx context.Context, _ struct{}) (out api.Stats, err error) {
	err = s.ifUp(func() error {
		if s.gate.get().State == api.StatePaused {
			return nil // the guest cannot be asked; the host's side is known
		}
		g, err := guest.Client{Opener: s.session()}.Stats(ctx)
		if err != nil {
			return err
		}
		out.MemoryTotalKiB, out.MemoryAvailableKiB = g.MemTotalKiB, g.MemAvailableKiB
		out.DiskTotalKiB, out.DiskFreeKiB = g.DiskTotalKiB, g.DiskFreeKiB
		out.Load1, out.Processes, out.CPUMS, out.UptimeMS = g.Load1, g.Procs, g.CPUMS, g.UptimeMS
		return nil
	})
	if err != nil {
		return api.Stats{}, err
	}
	out.Network = s.networkStats()
	for _, pid := range []int{os.Getpid(), s.vm.Info().PID} {
		rss, pss, cpu := usage(pid)
		out.HostRSSKiB += rss
		out.HostPSSKiB += pss
		out.HostCPUMS += cpu
	}
	for _, name := range s.record().Disk {
		var st syscall.Stat_t
		if syscall.Stat(s.part(name), &st) == nil {
			out.HostDiskKiB += st.Blocks / 2 // in units of 512 bytes, stat(2)
		}
	}
	return out, nil
}

// usage returns memory in KiB and CPU time in milliseconds of a process; zero
// for one that has ended.
func usage(pid int) (rss, pss, cpu int64) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, rest, _ := strings.Cut(sc.Text(), ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch key {
		case "Rss":
			rss = n
		case "Pss":
			pss = n
		}
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// After the name, which may hold spaces: state is field 3, utime 14, stime 15.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) > 12 {
		u, _ := strconv.ParseInt(fields[11], 10, 64)
		k, _ := strconv.ParseInt(fields[12], 10, 64)
		cpu = (u + k) * 10 // clock ticks: USER_HZ is 100 on Linux
	}
	return rss, pss, cpu
}
