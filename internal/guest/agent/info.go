package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// info serves OpInfo.
func (a *Agent) info() (guest.Info, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return guest.Info{}, err
	}
	return guest.Info{
		Agent:    a.o.Version,
		Kernel:   unix.ByteSliceToString(u.Release[:]),
		BootID:   a.bootID.get(),
		Hostname: unix.ByteSliceToString(u.Nodename[:]),
		UptimeMS: uptime().Milliseconds(),
		BootMS:   a.o.BootMS,
	}, nil
}

// uptime is the time since the machine's boot.
func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// readLine returns the first line of a small file, and nothing where it cannot.
func readLine(path string) string {
	text, _ := readSmall(path)
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// clockTick is how long a tick of /proc's CPU times is: the kernel shows them in
// hundredths of a second on every architecture that we run on.
const clockTick = 10 * time.Millisecond

// stats serves OpStats.
func (a *Agent) stats() (guest.Stats, error) {
	s := guest.Stats{UptimeMS: uptime().Milliseconds()}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return s, failed("read", "/proc/meminfo", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "MemTotal:":
			s.MemTotalKiB = n
		case "MemAvailable:":
			s.MemAvailableKiB = n
		}
	}
	s.CPUMS = busy(readLine("/proc/stat")).Milliseconds()
	load := strings.Fields(readLine("/proc/loadavg"))
	if len(load) > 3 {
		s.Load1 = load[0]
		_, total, _ := strings.Cut(load[3], "/")
		s.Procs, _ = strconv.Atoi(total)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(a.root, &fs); err != nil {
		return s, failed("look at the file system of", "/", err)
	}
	s.DiskTotalKiB = int64(fs.Blocks) * int64(fs.Frsize) >> 10
	s.DiskFreeKiB = int64(fs.Bavail) * int64(fs.Frsize) >> 10
	return s, nil
}

// busy adds up a line of /proc/stat without the idle times.
func busy(line string) time.Duration {
	var sum time.Duration
	for i, f := range strings.Fields(line) {
		// cpu user nice system idle iowait irq softirq steal guest guest_nice;
		// the last two are in user and nice already.
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		n, _ := strconv.ParseInt(f, 10, 64)
		sum += time.Duration(n) * clockTick
	}
	return sum
}

// maxPs bounds the processes that are listed.
const maxPs = 16 << 10

// ps serves OpPs.
func (a *Agent) ps() (guest.PsList, error) {
	names, err := readNames("/proc")
	if err != nil {
		return guest.PsList{}, failed("list", "/proc", err)
	}
	var l guest.PsList
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if len(l.Entries) == maxPs {
			return l, api.Errorf(api.Exhausted, "list processes: there are more than %d", maxPs)
		}
		if e, ok := a.psEntry(pid); ok {
			l.Entries = append(l.Entries, e)
		}
	}
	return l, nil
}

// readNames reads the names in a directory.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// maxArgs bounds the command line that is shown, in bytes.
const maxArgs = 4 << 10

// psEntry describes one process; ok is false where it has ended meanwhile or is
// a thread of the kernel.
func (a *Agent) psEntry(pid int) (e guest.PsEntry, ok bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	st, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return e, false
	}
	e, ok = parseStat(string(st))
	if !ok {
		return e, false
	}
	e.PID = pid
	var owner unix.Stat_t
	if unix.Stat(dir, &owner) == nil {
		e.User, _ = a.users.names(int(owner.Uid), int(owner.Gid))
	}
	args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	args = args[:min(len(args), maxArgs)]
	if s := strings.TrimRight(string(args), "\x00"); s != "" {
		e.Argv = strings.Split(s, "\x00")
	}
	return e, true
}

// kernelThread is the flag of a thread of the kernel, PF_KTHREAD.
const kernelThread = 0x00200000

// parseStat reads a line of /proc/PID/stat.
func parseStat(line string) (e guest.PsEntry, ok bool) {
	// The name may hold anything, also spaces and parentheses.
	i := strings.LastIndexByte(line, ')')
	if i < 0 {
		return e, false
	}
	f := strings.Fields(line[i+1:])
	if len(f) < 22 {
		return e, false
	}
	num := func(i int) int64 {
		n, _ := strconv.ParseInt(f[i], 10, 64)
		return n
	}
	if num(6)&kernelThread != 0 {
		return e, false
	}
	e.State, e.PPID = f[0], int(num(1))
	e.CPUMS = (time.Duration(num(11)+num(12)) * clockTick).Milliseconds()
	e.RSSKiB = num(21) * int64(os.Getpagesize()) >> 10
	return e, true
}
