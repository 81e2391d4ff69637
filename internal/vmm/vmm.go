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
// # Saving and continuing
//
// A machine whose Config has a Memory can be saved, and continued by other
// machines as often as one likes, if its driver is a [Restorer]. A saved machine
// is three things: its memory (the file of Config.Memory as it was, and the pages
// that differ), its devices (a file that [Saver] writes), and its disks.
//
// A Start with Config.Restore continues a saved machine instead of booting one:
// the machine is then paused, its devices are as they were saved, its memory is
// the file of Config.Memory changed by Restore.Fill. Resume lets it go on where
// the saved one stood. Its channel is closed, which the guest notices at most by a
// read that returns nothing; before the first Resume Dial is an error of class
// Conflict. Kernel, Initrd and Args are not used and may be empty.
// Everything else of the Config must mean the same machine as that of the saved
// one (the contents of disks included), and its [Restorer] must give the same
// fingerprint. A device state that cannot be loaded is an error of class Invalid
// with the code [CodeState].
//
// When Resume has returned the guest runs: what is written to the channel from
// then on is not lost.
//
// Package vmmtest states all this as tests; every driver runs them.
package vmm

import (
	"context"
	"net"
	"os"
	"time"

	"github.com/smolvm/smolvm/api"
)

// ChannelName is the virtio-serial port that the guest agent opens:
// /dev/virtio-ports/ChannelName by udev's naming, and found by the agent in
// /sys/class/virtio-ports/*/name without udev.
const ChannelName = "dev.smolvm.agent"

// CodeReset is the code of the error of a machine whose guest reset itself.
const CodeReset = "guest_reset"

// CodeState is the code of the error of a device state that cannot be loaded: it
// is damaged, or another VMM's, or another machine's.
const CodeState = "bad_state"

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

	Network *Network // the one network card; nil: none

	Accel api.Accel // empty means AccelAuto, which Start resolves

	Memory  *Memory  // the file behind guest memory; nil: memory without a file, which cannot be saved
	Restore *Restore // what to continue; nil: boot. Needs a private Memory

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
	MaxDisks     = 5       // a microvm has 8 virtio devices; channel, random numbers and network card take three
)

// Disk is one block device.
type Disk struct {
	Path     string
	Format   DiskFormat
	ReadOnly bool
	// Backing are the files below a qcow2 file, the next one first: what a file
	// has not is looked for in the one below. They are never written. What the
	// files themselves say of their backing is not followed.
	Backing []Layer
}

// Layer is one file below a disk's own.
type Layer struct {
	Path   string
	Format DiskFormat
}

// Network is a machine's network card, of the kind virtio-net.
type Network struct {
	MAC [6]byte // a unicast address
	// Wire is the VMM's end of a stream socket that carries the card's Ethernet
	// frames both ways, each behind its length in four bytes, the highest first. The
	// other end may be closed, or not be read, at any time: frames are lost then, or
	// wait, and the machine runs on. The caller closes its own copy after Start. Not
	// used by Fingerprint.
	Wire *os.File
}

// Memory is the file behind a machine's memory: sparse, of exactly MemoryMiB,
// made by the caller. The user must be able to write it even where the machine
// does not: QEMU opens it so.
type Memory struct {
	Path string
	// Shared writes what the guest writes into the file, which is then what a
	// private machine can begin with. A private machine reads from the file what
	// the guest has not written, and leaves it as it is; many may share one. The
	// file must not change while one runs.
	Shared bool
}

// Restore says what saved machine to continue.
type Restore struct {
	Devices string // path of the file that SaveDevices wrote
	// Fill brings memory from what the file holds to what the saved machine's
	// was, before any device is loaded. Nil: the file is as it was. An error of
	// Fill fails the start.
	Fill func(Region) error
}

// Region is where guest memory lies: in the address space of a process on this
// host, in one piece. The first byte is that of the file behind it. Whoever may
// trace the process can read and write it there.
type Region struct {
	PID  int
	Addr uint64 // in that process; a multiple of the page size
	Size int64  // bytes
}

// Restorer is a Driver that can save and continue machines.
type Restorer interface {
	Driver
	// Fingerprint identifies all that a saved machine depends on beside the files
	// and sizes in c: the VMM's program, the accelerator, the processor model, and
	// the shape that the driver gives to machines such as c. Two Configs with one
	// fingerprint may continue each other's saved machines. It starts no process
	// and takes well below a millisecond.
	Fingerprint(c Config) (string, error)
}

// Saver is a Machine that can be saved. The methods may be called while it is
// paused; class Conflict while it runs.
type Saver interface {
	Machine
	// SaveDevices writes the state of all devices, without memory, to a new file.
	SaveDevices(ctx context.Context, path string) error
	// Region tells where guest memory lies. It is valid until the machine ends.
	Region() (Region, error)
	// Layer sends what the guest writes to a disk from now on to a new file, made
	// by the caller: an empty qcow2 of the disk's size. The disk's own file becomes
	// its first backing layer and does not change any more; it is complete when
	// Layer returns. The disk must be writable. After an error the disk is as before.
	Layer(ctx context.Context, disk int, path string) error
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

	// Host is Probe without the Version, which only the VMM itself knows: it starts
	// no process and takes well below a millisecond. That a VMM is too old shows at
	// its Start then.
	Host(ctx context.Context) (Capabilities, error)

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
