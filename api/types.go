package api

import "time"

// Spec says what sandbox to make. The zero value is a sandbox of the default
// image and sizes.
type Spec struct {
	Name      string            `json:"name,omitempty"`       // unique, [a-z0-9][a-z0-9-]{0,62}; empty: generated
	Image     string            `json:"image,omitempty"`      // empty: DefaultImage
	CPUs      int               `json:"cpus,omitempty"`       // virtual CPUs; zero: DefaultCPUs
	MemoryMiB int               `json:"memory_mib,omitempty"` // zero: DefaultMemoryMiB
	DiskMiB   int               `json:"disk_mib,omitempty"`   // writable layer, used as it fills; zero: DefaultDiskMiB
	Env       map[string]string `json:"env,omitempty"`        // seen by every process
	Labels    map[string]string `json:"labels,omitempty"`

	TTLSeconds         float64 `json:"ttl_seconds,omitempty"`          // removed after it; zero: never
	IdleTimeoutSeconds float64 `json:"idle_timeout_seconds,omitempty"` // without a client, until IdleAction; zero: never
	IdleAction         string  `json:"idle_action,omitempty"`          // at its end: IdleStop (also if empty), IdleHibernate or IdleRemove

	FromSnapshot string `json:"from_snapshot,omitempty"` // snapshot to continue; image and sizes are then its own
	NoTemplate   bool   `json:"no_template,omitempty"`   // boot, even where a template or snapshot could be continued
	Checkpoint   string `json:"checkpoint,omitempty"`    // CheckpointNever or CheckpointEachCommand

	MinIsolation Isolation `json:"min_isolation,omitempty"` // refused where the host gives less; empty: any
	Accel        Accel     `json:"accel,omitempty"`         // empty: AccelAuto

	Network Network  `json:"network,omitzero"`
	Secrets []Secret `json:"secrets,omitempty"`
	Ports   []Port   `json:"ports,omitempty"`  // ports of the host that lead into the sandbox
	Mounts  []Mount  `json:"mounts,omitempty"` // folders of the host in the sandbox

	// Ephemeral ties the sandbox to its creator: it is removed when the client
	// that made it ends, however it ends.
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// Defaults and limits of a Spec.
const (
	DefaultImage     = "base"
	DefaultCPUs      = 1
	DefaultMemoryMiB = 512
	DefaultDiskMiB   = 8192 // sparse: costs what is written

	MaxCPUs      = 64
	MinMemoryMiB = 128
	MaxMemoryMiB = 1 << 20
	MinDiskMiB   = 64
	MaxDiskMiB   = 16 << 20

	MaxEnv      = 1000    // variables in Spec.Env and after every change of it
	MaxEnvBytes = 1 << 20 // names and values together; Linux gives a process not much more
	MaxLabels   = 100
	MaxImageRef = 4096 // bytes of Spec.Image: registries' names end at 255, paths at this
	MaxTTL      = 10 * 365 * 24 * time.Hour
)

// State is what a sandbox is doing.
type State string

// The states of a sandbox.
const (
	StateCreating   State = "creating" // coming up, for the first time or again
	StateRunning    State = "running"
	StatePaused     State = "paused"     // in memory, not executing
	StateHibernated State = "hibernated" // on disk, processes included; start continues them
	StateStopped    State = "stopped"    // no process; the disk is kept
	StateError      State = "error"      // its VM or supervisor died; start and rm work
	StatePooled     State = "pooled"     // waits in a pool; not listed
)

// States lists the states of sandboxes that are listed.
func States() []State {
	return []State{StateCreating, StateRunning, StatePaused, StateHibernated, StateStopped, StateError}
}

// Sandbox describes a sandbox.
type Sandbox struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	State     State             `json:"state"`
	Reason    string            `json:"reason,omitempty"` // why State is error or stopped, in words
	Image     string            `json:"image"`
	ImageID   string            `json:"image_id"` // digest that Image meant at creation
	CPUs      int               `json:"cpus"`
	MemoryMiB int               `json:"memory_mib"`
	DiskMiB   int               `json:"disk_mib"`
	Labels    map[string]string `json:"labels,omitempty"`
	Ephemeral bool              `json:"ephemeral,omitempty"`
	Created   time.Time         `json:"created"`
	Started   time.Time         `json:"started,omitzero"`
	Expires   time.Time         `json:"expires,omitzero"` // removed then, as it is now

	IdleTimeoutSeconds float64 `json:"idle_timeout_seconds,omitempty"`
	IdleAction         string  `json:"idle_action,omitempty"`
	Checkpoint         string  `json:"checkpoint,omitempty"`

	// Origin says what it was made of: "boot", "template", "snapshot NAME", "fork
	// ID" or "pool".
	Origin string `json:"origin,omitempty"`

	Network Network `json:"network,omitzero"` // what it may reach

	Ports []Port `json:"ports,omitempty"` // of the host, that lead into it while it runs

	Secrets []Secret `json:"secrets,omitempty"` // without their values

	Mounts []Mount `json:"mounts,omitempty"` // folders of the host in it

	// Known while the sandbox has a VM.
	Isolation     Isolation `json:"isolation,omitempty"`
	Accel         Accel     `json:"accel,omitempty"`
	Machine       string    `json:"machine,omitempty"` // the VMM's machine type
	VMM           string    `json:"vmm,omitempty"`     // name and version
	SupervisorPID int       `json:"supervisor_pid,omitempty"`
	VMMPID        int       `json:"vmm_pid,omitempty"`
	Timings       Timings   `json:"timings,omitzero"`
}

// Timings says where the time of a start went, in milliseconds.
type Timings struct {
	PrepareMS float64  `json:"prepare_ms"`         // image, disk and directory
	VMMMS     float64  `json:"vmm_ms"`             // until the VMM ran
	GuestMS   float64  `json:"guest_ms"`           // until the agent answered
	SetupMS   float64  `json:"setup_ms"`           // identity and clock
	PauseMS   float64  `json:"pause_ms,omitempty"` // how long the source of a fork stood still
	TotalMS   float64  `json:"total_ms"`
	Boot      []string `json:"boot,omitempty"` // the agent's own steps, "name=ms"
}

// Ended says how a process ended.
type Ended struct {
	ExitCode  int     `json:"exit_code"`           // 128+n where signal n ended it
	Signal    string  `json:"signal,omitempty"`    // such as "SIGKILL"
	TimedOut  bool    `json:"timed_out,omitempty"` // its time limit ended it
	Truncated bool    `json:"truncated,omitempty"` // output beyond the limit was dropped
	OOM       bool    `json:"oom,omitempty"`       // the guest ran out of memory and killed it
	WallMS    float64 `json:"wall_ms"`
	UserMS    float64 `json:"user_ms"`
	SystemMS  float64 `json:"system_ms"`
}

// Process is a background process of a sandbox.
type Process struct {
	ID      string    `json:"id"` // the sandbox's name for it, such as "p7"
	PID     int       `json:"pid"`
	Tag     string    `json:"tag,omitempty"`
	Argv    []string  `json:"argv"`
	User    string    `json:"user"`
	Started time.Time `json:"started"`
	Running bool      `json:"running"`
	Ended   *Ended    `json:"ended,omitempty"`
}

// GuestProcess is any process of the guest.
type GuestProcess struct {
	PID    int      `json:"pid"`
	PPID   int      `json:"ppid"`
	User   string   `json:"user"`
	State  string   `json:"state"` // one letter, as ps prints it
	RSSKiB int64    `json:"rss_kib"`
	CPUMS  int64    `json:"cpu_ms"`
	Argv   []string `json:"argv"`
}

// FileInfo describes a file of the guest.
type FileInfo struct {
	Name    string    `json:"name"`
	Type    string    `json:"type"` // "file", "dir", "symlink" or "other"
	Size    int64     `json:"size"`
	Mode    uint32    `json:"mode"` // as in chmod(2)
	UID     int       `json:"uid"`
	GID     int       `json:"gid"`
	User    string    `json:"user,omitempty"`
	Group   string    `json:"group,omitempty"`
	ModTime time.Time `json:"mtime"`
	Target  string    `json:"target,omitempty"` // of a symbolic link
}

// FileEvent is one change that a watch saw.
type FileEvent struct {
	Path string `json:"path"`
	What string `json:"what"` // "create", "write", "remove", "rename", "chmod", "lost"
}

// Stats is what a sandbox uses.
type Stats struct {
	// In the guest.
	MemoryTotalKiB     int64  `json:"memory_total_kib"`
	MemoryAvailableKiB int64  `json:"memory_available_kib"`
	DiskTotalKiB       int64  `json:"disk_total_kib"`
	DiskFreeKiB        int64  `json:"disk_free_kib"`
	Load1              string `json:"load1"`
	Processes          int    `json:"processes"`
	CPUMS              int64  `json:"cpu_ms"`
	UptimeMS           int64  `json:"uptime_ms"`
	// On the host.
	HostRSSKiB  int64 `json:"host_rss_kib"`  // VMM and supervisor
	HostPSSKiB  int64 `json:"host_pss_kib"`  // the same, shared pages divided among their users
	HostCPUMS   int64 `json:"host_cpu_ms"`   // VMM and supervisor, since start
	HostDiskKiB int64 `json:"host_disk_kib"` // what the writable layer takes

	Network *NetworkStats `json:"network,omitempty"` // nil: there is none
}

// EnvChange changes the environment of a sandbox.
type EnvChange struct {
	Set   map[string]string `json:"set,omitempty"`
	Unset []string          `json:"unset,omitempty"`
}

// EnvChanged says what an EnvChange did.
type EnvChanged struct {
	Set     []string `json:"set"`
	Unset   []string `json:"unset"`
	Missing []string `json:"missing"` // named in Unset, but not there
}

// Stop says how to stop a sandbox.
type Stop struct {
	// GraceSeconds is the time that processes have between SIGTERM and SIGKILL.
	// Zero: DefaultGrace. Negative: none, the VM is killed at once.
	GraceSeconds float64 `json:"grace_seconds,omitempty"`
	// Hibernate saves memory and processes instead of ending them. The sandbox
	// takes no memory then, and continues at its next start or command.
	Hibernate bool `json:"hibernate,omitempty"`
}

// DefaultGrace is enough for a database to write its log out and short enough
// for a person to wait.
const DefaultGrace = 3 * time.Second
