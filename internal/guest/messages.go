package guest

import "github.com/smolvm/smolvm/internal/guest/wire"

// Empty is a request or reply without fields.
type Empty struct{}

// Failure is an error of the guest side. Class is one of api's classes.
type Failure struct {
	Class, Message string
	Code, Recovery string // as in api.Error; from supervisors
}

// Info describes the guest.
type Info struct {
	Agent    string // version of the agent's build
	Kernel   string // release of the kernel
	BootID   string
	Hostname string
	UptimeMS int64
	// BootMS is what each part of the boot took, "name=ms" in order.
	BootMS []string
}

// Setup gives a guest its identity and its defaults, after a boot and after each
// resume from saved memory. Empty fields leave things as they are.
type Setup struct {
	Hostname  string
	TimeNS    int64  // the host's clock, in nanoseconds since 1970
	Seed      []byte // stirred into the kernel's random pool and credited
	GrowDisk  bool   // grow the writable file system to its device
	MachineID string // 32 hex digits
	// Resumed says that the guest's memory was restored: TCP connections that lead
	// out of it are reset, hooks run, and what was frozen runs on afterwards.
	Resumed bool
	// Copy says that other guests continue, or continued, from the same memory or
	// disk: boot id and SSH host keys are made anew too, and hooks run.
	Copy bool
	// Network is how the network card is to be. The agent does nothing where it is so
	// already, whatever the guest's own programs did to it since.
	Network Network
}

// Network is how the guest's network card is to be.
type Network struct {
	State NetworkState
	MTU   int // bytes of IP in a frame
	// Addrs are the card's addresses with their prefixes, such as "10.0.0.2/30".
	Addrs []string
	// Gateways are where all else is behind, one of a family. The first is the name
	// server.
	Gateways   []string
	GatewayMAC []byte // of all of them
}

// NetworkState says whether the card is up.
type NetworkState int

// The states of the network card.
const (
	NetworkAsIs NetworkState = iota // whatever it is
	NetworkDown
	NetworkUp
)

// Ready is the reply to Setup.
type Ready struct {
	Info Info // BootMS only after a boot
	// Failed are parts that could not be made new, for the log. The guest runs on.
	Failed []string
	// StepsUS is what each part took, "name=microseconds" in order.
	StepsUS []string
}

// Quiesce prepares a guest to be saved.
type Quiesce struct {
	Freeze bool // stop all processes but the agent and the kernel's threads, until Thaw or Setup
	Sync   bool // then write the file systems to their disks
}

// Thaw has what Quiesce has frozen run on.
type Thaw struct {
	TimeNS int64 // the host's clock, as in Setup: the guest may have stood still meanwhile
}

// Shell says how Exec.Argv becomes a process.
type Shell int

const (
	ShellNone  Shell = iota // Argv is executed as it is
	ShellLogin              // Argv[0] is run by the user's own shell as a login shell
	ShellRaw                // Argv[0] is run by /bin/sh -c
)

// Exec starts a process.
type Exec struct {
	Argv       []string
	Shell      Shell
	Env        []string // KEY=VALUE; PATH, HOME, USER, LOGNAME, SHELL and TERM are filled in where missing
	Dir        string   // working directory; empty: the user's home, or / where there is none
	User       string   // name or uid, optionally :group; empty: root
	Stdin      bool     // input follows as Data; otherwise the process reads end of file
	TTY        bool     // run on a terminal; its output all comes as Stdout
	Rows, Cols int      // of the terminal; zero: 24 and 80
	TimeoutMS  int64    // kills the group and reports Exit.TimedOut; zero: none
	// OutputLimit bounds stdout and stderr, each, in bytes: what is beyond is
	// read and dropped, and reported as Exit.Truncated. Zero: no limit.
	OutputLimit int64
	// Detach keeps the process, with the last LogLimit bytes of its output,
	// when the stream ends. The reply comes at once and the stream then ends.
	Detach bool
	Tag    string // free text, shown in lists
}

// LogLimit is how much output of a detached process the agent keeps, in bytes.
const LogLimit = 1 << 20

// Started is the reply to Exec and Attach.
type Started struct {
	Proc string // the agent's name of the process, such as "p7"
	PID  int    // in the guest
}

// Exit is how a process ended.
type Exit struct {
	Code      int    // 0-255; 128+signal where a signal ended it, as shells count
	Signal    string // such as "SIGKILL"; empty where it exited by itself
	TimedOut  bool
	Truncated bool // output beyond OutputLimit was dropped
	OOM       bool // the kernel's out-of-memory killer ended it
	WallMS    int64
	UserMS    int64 // CPU time in user mode
	SystemMS  int64
}

// ProcRef names a background process. NoFollow ends the stream after the kept
// output instead of waiting for more.
type ProcRef struct {
	Proc     string
	NoFollow bool
	NoLog    bool // send no kept output, only what comes from now on
	// InputOnly sends no output at all: the stream ends in good order when the process
	// has been given everything that the host sent.
	InputOnly bool
}

// ProcSignal sends a signal to the group of a background process.
type ProcSignal struct {
	Proc   string
	Signal string // such as "SIGTERM"
}

// Proc is a background process.
type Proc struct {
	Proc    string
	PID     int
	Tag     string
	Argv    []string
	User    string
	StartNS int64 // guest clock
	Running bool
	Exit    Exit // where not Running
}

// ProcList is the reply to OpProcs.
type ProcList struct{ Procs []Proc }

// PsEntry is one process of the guest.
type PsEntry struct {
	PID, PPID int
	User      string
	State     string // one letter, as ps prints it
	RSSKiB    int64
	CPUMS     int64
	Argv      []string // empty for kernel threads, which are left out
}

// PsList is the reply to OpPs.
type PsList struct{ Entries []PsEntry }

// Path names a file. NoFollow describes a symbolic link itself.
type Path struct {
	Path     string
	NoFollow bool
}

// FileInfo describes a file.
type FileInfo struct {
	Path    string // as asked; in lists the name alone
	Type    string // "file", "dir", "symlink", "other"
	Size    int64
	Mode    int // permission bits, with setuid, setgid and sticky as in chmod(2)
	UID     int
	GID     int
	User    string
	Group   string
	MTimeNS int64
	Target  string // of a symbolic link
}

// FileList is the reply to OpList, sorted by name. Long lists come as several
// replies; the end of the stream ends the list.
type FileList struct{ Files []FileInfo }

// Mkdir makes a directory, and its parents where Parents.
type Mkdir struct {
	Path    string
	Mode    int
	Owner   string // user[:group]; empty: root
	Parents bool
}

// Remove removes a file or empty directory, or a whole tree where Recursive.
type Remove struct {
	Path      string
	Recursive bool
	Force     bool // a missing path is no error
}

// Rename moves a file within one file system.
type Rename struct{ From, To string }

// Read asks for the bytes of a regular file from Offset on; Limit 0: to its end.
type Read struct {
	Path   string
	Offset int64
	Limit  int64
	// Base reads the file of this path in the base image instead, by a path without
	// symbolic links.
	Base bool
}

// Write replaces a file atomically by the Data that follows. Parents makes
// missing directories. Mode 0 keeps an existing file's mode, else 0644.
type Write struct {
	Path    string
	Mode    int
	Owner   string
	Parents bool
	Append  bool // add to the end instead; not atomic
}

// TarOut asks for a tar stream of paths. Names in it are relative to Base.
type TarOut struct {
	Base  string
	Paths []string // relative to Base; empty: everything under Base
}

// TarIn unpacks a tar stream under Dest, inside which everything stays.
type TarIn struct {
	Dest  string
	Owner string // empty: keep the archive's numeric owners
	// KeepDirs leaves mode and owner of directories that exist already.
	KeepDirs bool
}

// TarResult counts what was unpacked.
type TarResult struct{ Files, Bytes int64 }

// Watch reports changes below a path.
type Watch struct {
	Path      string
	Recursive bool
}

// Event is one change. Lost says that events were dropped: look for yourself.
type Event struct {
	Path string
	What string // "create", "write", "remove", "rename", "chmod", "lost"
}

// Stats is what the guest uses.
type Stats struct {
	MemTotalKiB, MemAvailableKiB int64
	DiskTotalKiB, DiskFreeKiB    int64
	Load1                        string
	Procs                        int
	CPUMS                        int64 // busy time of all CPUs since boot
	UptimeMS                     int64
}

// Shutdown ends the guest after ending its processes: SIGTERM, GraceMS later
// SIGKILL, then sync and power off.
type Shutdown struct {
	GraceMS int64
	Reboot  bool
}

// Size is the payload of KindResize.
type Size struct{ Rows, Cols int }

// SignalName is the payload of KindSignal, such as "SIGINT".
type SignalName struct{ Name string }

func (m *Size) Wire(c *wire.Coder) {
	c.Int(&m.Rows)
	c.Int(&m.Cols)
}

func (m *SignalName) Wire(c *wire.Coder) { c.String(&m.Name) }

func (*Empty) Wire(*wire.Coder) {}

func (m *Failure) Wire(c *wire.Coder) {
	c.String(&m.Class)
	c.String(&m.Message)
	c.String(&m.Code)
	c.String(&m.Recovery)
}

func (m *Info) Wire(c *wire.Coder) {
	c.String(&m.Agent)
	c.String(&m.Kernel)
	c.String(&m.BootID)
	c.String(&m.Hostname)
	c.Int64(&m.UptimeMS)
	c.Strings(&m.BootMS)
}

func (m *Setup) Wire(c *wire.Coder) {
	c.String(&m.Hostname)
	c.Int64(&m.TimeNS)
	c.Bytes(&m.Seed)
	c.Bool(&m.GrowDisk)
	c.String(&m.MachineID)
	c.Bool(&m.Resumed)
	c.Bool(&m.Copy)
	c.Sub(&m.Network)
}

func (m *Network) Wire(c *wire.Coder) {
	c.Int((*int)(&m.State))
	c.Int(&m.MTU)
	c.Strings(&m.Addrs)
	c.Strings(&m.Gateways)
	c.Bytes(&m.GatewayMAC)
}

func (m *Ready) Wire(c *wire.Coder) {
	c.Sub(&m.Info)
	c.Strings(&m.Failed)
	c.Strings(&m.StepsUS)
}

func (m *Quiesce) Wire(c *wire.Coder) {
	c.Bool(&m.Freeze)
	c.Bool(&m.Sync)
}

func (m *Thaw) Wire(c *wire.Coder) { c.Int64(&m.TimeNS) }

func (m *Exec) Wire(c *wire.Coder) {
	c.Strings(&m.Argv)
	c.Int((*int)(&m.Shell))
	c.Strings(&m.Env)
	c.String(&m.Dir)
	c.String(&m.User)
	c.Bool(&m.Stdin)
	c.Bool(&m.TTY)
	c.Int(&m.Rows)
	c.Int(&m.Cols)
	c.Int64(&m.TimeoutMS)
	c.Int64(&m.OutputLimit)
	c.Bool(&m.Detach)
	c.String(&m.Tag)
}

func (m *Started) Wire(c *wire.Coder) {
	c.String(&m.Proc)
	c.Int(&m.PID)
}

func (m *Exit) Wire(c *wire.Coder) {
	c.Int(&m.Code)
	c.String(&m.Signal)
	c.Bool(&m.TimedOut)
	c.Bool(&m.Truncated)
	c.Bool(&m.OOM)
	c.Int64(&m.WallMS)
	c.Int64(&m.UserMS)
	c.Int64(&m.SystemMS)
}

func (m *ProcRef) Wire(c *wire.Coder) {
	c.String(&m.Proc)
	c.Bool(&m.NoFollow)
	c.Bool(&m.NoLog)
	c.Bool(&m.InputOnly)
}

func (m *ProcSignal) Wire(c *wire.Coder) {
	c.String(&m.Proc)
	c.String(&m.Signal)
}

func (m *Proc) Wire(c *wire.Coder) {
	c.String(&m.Proc)
	c.Int(&m.PID)
	c.String(&m.Tag)
	c.Strings(&m.Argv)
	c.String(&m.User)
	c.Int64(&m.StartNS)
	c.Bool(&m.Running)
	c.Sub(&m.Exit)
}

func (m *ProcList) Wire(c *wire.Coder) { wire.List(c, &m.Procs) }

func (m *PsEntry) Wire(c *wire.Coder) {
	c.Int(&m.PID)
	c.Int(&m.PPID)
	c.String(&m.User)
	c.String(&m.State)
	c.Int64(&m.RSSKiB)
	c.Int64(&m.CPUMS)
	c.Strings(&m.Argv)
}

func (m *PsList) Wire(c *wire.Coder) { wire.List(c, &m.Entries) }

func (m *Path) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.Bool(&m.NoFollow)
}

func (m *FileInfo) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.String(&m.Type)
	c.Int64(&m.Size)
	c.Int(&m.Mode)
	c.Int(&m.UID)
	c.Int(&m.GID)
	c.String(&m.User)
	c.String(&m.Group)
	c.Int64(&m.MTimeNS)
	c.String(&m.Target)
}

func (m *FileList) Wire(c *wire.Coder) { wire.List(c, &m.Files) }

func (m *Mkdir) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.Int(&m.Mode)
	c.String(&m.Owner)
	c.Bool(&m.Parents)
}

func (m *Remove) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.Bool(&m.Recursive)
	c.Bool(&m.Force)
}

func (m *Rename) Wire(c *wire.Coder) {
	c.String(&m.From)
	c.String(&m.To)
}

func (m *Read) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.Int64(&m.Offset)
	c.Int64(&m.Limit)
	c.Bool(&m.Base)
}

func (m *Write) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.Int(&m.Mode)
	c.String(&m.Owner)
	c.Bool(&m.Parents)
	c.Bool(&m.Append)
}

func (m *TarOut) Wire(c *wire.Coder) {
	c.String(&m.Base)
	c.Strings(&m.Paths)
}

func (m *TarIn) Wire(c *wire.Coder) {
	c.String(&m.Dest)
	c.String(&m.Owner)
	c.Bool(&m.KeepDirs)
}

func (m *TarResult) Wire(c *wire.Coder) {
	c.Int64(&m.Files)
	c.Int64(&m.Bytes)
}

func (m *Watch) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.Bool(&m.Recursive)
}

func (m *Event) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.String(&m.What)
}

func (m *Stats) Wire(c *wire.Coder) {
	c.Int64(&m.MemTotalKiB)
	c.Int64(&m.MemAvailableKiB)
	c.Int64(&m.DiskTotalKiB)
	c.Int64(&m.DiskFreeKiB)
	c.String(&m.Load1)
	c.Int(&m.Procs)
	c.Int64(&m.CPUMS)
	c.Int64(&m.UptimeMS)
}

func (m *Shutdown) Wire(c *wire.Coder) {
	c.Int64(&m.GraceMS)
	c.Bool(&m.Reboot)
}
