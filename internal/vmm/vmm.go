// Package vmm is the contract of a virtual machine monitor.
//
// # Terms
//
// A Driver turns a Config into a Machine. A machine is one virtual machine and
// the host process that runs it: both begin in Start and end together. The
// channel is the one byte stream between host and guest agent; to the guest it
// is the virtio-serial port named [ChannelName].
//
// # Life
//
// Start returns a running machine, or an error and nothing left behind: no
// process, no socket, no file but what the caller passed in. The error of a VMM
// that refuses to run holds its last words. The context bounds the start only;
// after it the machine lives until the guest powers off, the VMM dies or Kill is
// called. Whichever comes first closes Done, and from then on Err tells which:
// nil for a guest that powered off or a machine that was killed by Kill, an
// error of class Unavailable for anything else, with the code [CodeReset] for a
// guest that reset itself, as a kernel does that panics. LastWords has the
// details. A machine is never reset in place: another Start is another machine.
//
// A machine is running or paused. Pause and Resume move between the two and
// may be repeated: pausing a paused machine is no error. On a machine that has
// ended both return an error of class Unavailable.
//
// Dial opens the host end of the channel. There is at most one connection at a
// time: dialing while one is open is an error of class Conflict. The connection
// is open until its Close is called, even where the machine has ended. After it
// is closed the channel may be dialled again; bytes in flight are lost, and the
// guest notices at most by a read that returns nothing. Dial does not wait for
// the guest: what is written before the guest reads is kept as far as the VMM
// buffers it.
//
// Kill ends the machine at once, frees everything and waits until it is freed.
// It may be called at any time, from any goroutine, as often as one likes. When
// Done is closed everything is freed too: a machine that ended by itself needs no
// Kill. Only the console log stays, until the next Start in the same directory.
// The VMM also ends when the process that called Start dies, however it dies.
//
// Package vmmtest states all this as tests; every driver runs them.
package vmm

import (
	"context"
	"net"
	"time"

	"github.com/smolvm/smolvm/api"
)

// ChannelName is the virtio-serial port that the guest agent opens:
// /dev/virtio-ports/ChannelName by udev's naming, and found by the agent in
// /sys/class/virtio-ports/*/name without udev.
const ChannelName = "dev.smolvm.agent"

// CodeReset is the code of the error of a machine whose guest reset itself.
const CodeReset = "guest_reset"

// Config describes a machine. All fields without a note are required. Validate
// says what is wrong with one. All files must exist before Start and stay until
// the machine has ended.
type Config struct {
	Name string // shown in the host's process list; MaxName bytes of printable ASCII
	Dir  string // existing private directory for the driver's sockets and logs

	CPUs      int // virtual CPUs, 1 to MaxCPUs
	MemoryMiB int // guest memory, MinMemoryMiB or more

	Kernel string // path of an uncompressed ELF kernel with a PVH note (vmlinux)
	Initrd string // path of an initramfs
	Args   string // appended to the driver's own kernel command line; may be empty
	Disks  []Disk // in guest order: vda, vdb, ...; may be empty

	Accel api.Accel // empty means AccelAuto, which Start resolves

	// NoSeccomp leaves QEMU's own system call filter off. Only for hosts that
	// forbid seccomp.
	NoSeccomp bool
}

// Limits of a Config.
const (
	MaxName      = 128
	MaxCPUs      = 64
	MinMemoryMiB = 128     // below it the guest kernel has no room for its initramfs
	MaxMemoryMiB = 1 << 20 // 1 TiB: what 40 address bits, the least a CPU model has, can reach
	MaxArgs      = 1024    // bytes; the kernel cuts its command line at 2048
	MaxDisks     = 6       // a microvm has 8 virtio devices; the channel and the random numbers take two
)

// Disk is one block device.
type Disk struct {
	Path     string
	Format   DiskFormat
	ReadOnly bool
}

// DiskFormat is the format of a disk's file.
type DiskFormat string

const (
	Raw   DiskFormat = "raw"
	Qcow2 DiskFormat = "qcow2"
)

// Capabilities is what a driver can do on this host.
type Capabilities struct {
	Version   string        // name and version of the VMM, such as "QEMU 7.2.22"
	Binary    string        // path of the VMM's program; empty where there is none
	Accel     api.Accel     // what AccelAuto resolves to
	Isolation api.Isolation // what Accel gives
	NoKVM     string        // why Accel is not KVM; empty where it is
}

// Driver makes machines.
type Driver interface {
	// Probe reports what the driver can do here. It starts no machine. Class
	// Unavailable, with the way out as recovery, where the VMM is missing or too old.
	Probe(ctx context.Context) (Capabilities, error)

	// Start starts a machine. Class Invalid for a bad Config, Unavailable where
	// the accelerator or the VMM cannot be had or the VMM ends at once, Timeout
	// where ctx's deadline passes.
	Start(ctx context.Context, c Config) (Machine, error)
}

// Machine is one virtual machine. Its methods may be called from any goroutine.
type Machine interface {
	Dial(ctx context.Context) (net.Conn, error)
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Kill()
	Done() <-chan struct{}
	Err() error // nil before Done is closed
	Info() Info
	// LastWords returns the end of the guest's console and of the VMM's own
	// messages, for an error about a machine that does not come up: at most a few
	// KiB, without control characters but line feeds and tabs, empty where neither
	// said anything. It works before and after the end.
	LastWords() string
}

// Info is what is known of a running machine. It does not change.
type Info struct {
	PID     int // of the VMM; 0 where there is no process
	Accel   api.Accel
	Machine string // the VMM's machine type, such as "q35"
	Version string // name and version of the VMM
	Started time.Time
	Console string // path of the guest's console log; empty where there is none
}
