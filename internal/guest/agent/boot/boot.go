// Package boot turns the first process of a guest into its agent.
//
//	boot.Run(version) // from main, as process 1; does not return
//
// The kernel starts the agent from an initramfs. Run mounts what every Linux
// process expects, loads the kernel modules that the initramfs lists, puts a
// private writable disk over the shared read-only base image and makes that the
// root, all without leaving the process, then serves the host. Devices are
// waited for by the kernel's events.
package boot

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/guest/agent"
	"golang.org/x/sys/unix"
)

// portName is the virtio-serial port between host and agent. It is the same as
// vmm.ChannelName, which the agent does not import for its size.
const portName = "dev.smolvm.agent"

// Run boots the guest and serves its host. Where the boot fails it says why on
// the console and powers off.
func Run(version string) {
	b := &booter{}
	port, err := b.boot()
	if err == nil {
		err = agent.Serve(context.Background(), port, b.options(version))
	}
	if err != nil {
		say("smolvm-agent: " + err.Error())
	}
	powerOff(false)
}

// booter carries what the steps of the boot find.
type booter struct {
	events *uevents
	rw     int    // the writable file system; -1 where it is in memory
	upper  int    // the directory of it that overlayfs writes to
	base   int    // the base image
	cgroup string // empty where there is no cgroup2
	bootID int    // the file over the kernel's boot id; 0 where there is none
	times  []string
	last   time.Duration
}

// step is a named part of the boot, for the report of what it took.
type step struct {
	name string
	do   func() error
}

func (b *booter) boot() (*port, error) {
	b.rw, b.upper, b.base = -1, -1, -1
	b.lap("kernel")
	var p *port
	for _, s := range []step{
		{"mounts", b.firstMounts},
		{"modules", b.loadModules},
		{"disks", b.awaitDisks},
		{"root", b.mountRoot},
		{"switch", b.switchRoot},
		{"system", b.system},
		{"port", func() (err error) { p, err = b.openPort(); return err }},
	} {
		if err := s.do(); err != nil {
			return nil, err
		}
		b.lap(s.name)
	}
	b.events.close()
	return p, nil
}

// lap notes what the part of the boot that ends here took.
func (b *booter) lap(name string) {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return
	}
	now := time.Duration(ts.Nano())
	b.times = append(b.times, name+"="+strconv.FormatInt((now-b.last).Milliseconds(), 10))
	b.last = now
}

func (b *booter) options(version string) agent.Options {
	o := agent.Options{
		Version:  version,
		ReapAll:  true,
		Cgroup:   b.cgroup,
		BootID:   b.bootID,
		Network:  true,
		BootMS:   b.times,
		PowerOff: powerOff,
	}
	if b.cgroup != "" {
		o.Cgroups = cgroupRoot
	}
	if b.upper >= 0 {
		o.Upper, o.Base = fdPath(b.upper), fdPath(b.base)
	}
	if b.rw >= 0 {
		o.Writable = fdPath(b.rw)
		o.GrowDisk = func() error { return growFilesystem(b.rw, writableDisk) }
	}
	return o
}

// fdPath is a path to an open directory that its users can see no other way.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// minThreads is how many goroutines may run at once however few CPUs there are:
// those in a system call count until the scheduler notices, and with a single CPU
// the next message would wait for that.
const minThreads = 4

func processLimits() {
	if runtime.GOMAXPROCS(0) < minThreads {
		runtime.GOMAXPROCS(minThreads)
	}
	// Its children get it too. Hard as the usual limit of a container; soft such
	// that programs which close every possible descriptor still start quickly.
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 16, Max: 1 << 20})
	unix.Umask(0o022)
	catchSignals()
}

// catchSignals keeps the signals that anyone may send to process 1 from doing
// what the Go runtime does on them: ending it, and so the guest. They are caught
// and dropped, not ignored: children would inherit that.
func catchSignals() {
	var all []os.Signal
	for s := syscall.Signal(1); s <= syscall.SIGSYS; s++ {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP: // cannot be caught
		case syscall.SIGCHLD, syscall.SIGURG: // many, and harmless
		default:
			all = append(all, s)
		}
	}
	signal.Notify(make(chan os.Signal), all...)
}

// say writes a line to the console.
func say(line string) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		f = os.Stderr
	}
	f.WriteString(line + "\n")
	f.Close()
}
