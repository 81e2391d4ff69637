package api

import "time"

// Template is a sandbox of one image and size that was booted once and saved.
// Sandboxes made later continue it instead of booting.
type Template struct {
	Key       string    `json:"key"` // digest of all that makes it valid
	Image     string    `json:"image"`
	ImageID   string    `json:"image_id"`
	CPUs      int       `json:"cpus"`
	MemoryMiB int       `json:"memory_mib"`
	DiskMiB   int       `json:"disk_mib"`
	Accel     Accel     `json:"accel"`
	VMM       string    `json:"vmm"` // name and version
	Created   time.Time `json:"created"`
	Used      time.Time `json:"used"`  // last time a sandbox was made of it
	Bytes     int64     `json:"bytes"` // what it takes on disk
}

// DefaultTemplateBudgetMiB bounds what templates take on disk. Beyond it those
// that were not used for longest are removed.
const DefaultTemplateBudgetMiB = 10 << 10

// SnapshotKind says what a snapshot holds.
type SnapshotKind string

const (
	// SnapshotFull holds memory, processes and disk. It continues on hosts with the
	// same VMM, accelerator and kind of processor.
	SnapshotFull SnapshotKind = "full"
	// SnapshotDisk holds the disk alone. It boots anywhere the image is.
	SnapshotDisk SnapshotKind = "disk"
)

// Snapshot is a saved sandbox that others can be made of.
type Snapshot struct {
	Name      string       `json:"name"`
	Kind      SnapshotKind `json:"kind"`
	Source    string       `json:"source"` // id of the sandbox it was taken of
	Image     string       `json:"image"`
	ImageID   string       `json:"image_id"`
	CPUs      int          `json:"cpus"`
	MemoryMiB int          `json:"memory_mib"`
	DiskMiB   int          `json:"disk_mib"`
	Accel     Accel        `json:"accel,omitempty"` // of a full one
	VMM       string       `json:"vmm,omitempty"`   // of a full one
	Created   time.Time    `json:"created"`
	// Bytes is what its files take on disk. Files that it shares with templates,
	// sandboxes and other snapshots count in each.
	Bytes   int64   `json:"bytes"`
	PauseMS float64 `json:"pause_ms,omitempty"` // how long the source stood still
	// Digest is of all it holds, as "sha256:" and 64 hex digits. It vouches for a
	// file that is carried to another installation.
	Digest string `json:"digest"`
}

// TakeSnapshot says what snapshot to take.
type TakeSnapshot struct {
	Name     string `json:"name,omitempty"` // as of sandboxes; empty: generated
	DiskOnly bool   `json:"disk_only,omitempty"`
}

// LoadSnapshot says how to take in a snapshot's file.
type LoadSnapshot struct {
	Name string `json:"name,omitempty"` // empty: the one it was saved under
	// Digest is what was printed where the file was made. It must be given for a
	// file of another installation, whose authentication cannot be checked here.
	Digest string `json:"digest,omitempty"`
	// DiskOnly leaves the memory behind, as where this host cannot continue it.
	DiskOnly bool `json:"disk_only,omitempty"`
}

// Fork says how to fork a sandbox.
type Fork struct {
	N    int    `json:"n,omitempty"`  // children; zero: one
	At   *int   `json:"at,omitempty"` // a step of its history; nil: as it is now
	Name string `json:"name,omitempty"`
	// Name is that of an only child; of several, they are NAME-1, NAME-2 and so on.
	// Empty: generated.
	Ephemeral bool `json:"ephemeral,omitempty"` // the children are removed when the client ends
}

// MaxFork bounds the children of one call.
const MaxFork = 256

// When checkpoints are recorded by themselves.
const (
	CheckpointNever       = ""
	CheckpointEachCommand = "each-command"
)

// What happens to a sandbox at the end of its idle timeout.
const (
	IdleStop      = "stop"
	IdleHibernate = "hibernate"
	IdleRemove    = "remove" // also once it has been stopped or hibernated for that long
)

// Step is a checkpoint: a sandbox as it was, memory, processes and disk.
type Step struct {
	Step    int       `json:"step"`             // 0 is the first
	Parent  *int      `json:"parent,omitempty"` // the step it came after; nil: the first
	Label   string    `json:"label"`            // the command, or what its maker said
	Created time.Time `json:"created"`
	Exit    *int      `json:"exit,omitempty"` // exit code of the command
	PauseMS float64   `json:"pause_ms"`       // how long the sandbox stood still for it
	Bytes   int64     `json:"bytes"`          // what it takes on disk beyond its parent
}

// MaxLabel bounds a step's label, in bytes; a longer one is cut.
const MaxLabel = 256

// History is the tree of a sandbox's steps.
type History struct {
	Head  int    `json:"head"` // the step that the sandbox continues; -1: none
	Steps []Step `json:"steps"`
}

// Checkpoint says what to call a checkpoint.
type Checkpoint struct {
	Label string `json:"label,omitempty"`
	Exit  *int   `json:"exit,omitempty"`
}

// Change is one file that differs between two states of a sandbox.
type Change struct {
	Path string `json:"path"`
	What string `json:"what"` // "added", "changed" or "deleted"
	Type string `json:"type"` // "file", "dir", "symlink" or "other"
	Size int64  `json:"size"` // bytes, afterwards
	Mode uint32 `json:"mode"` // as in chmod(2), afterwards
	// Patch is the change of a text file as a unified diff, where asked for.
	Patch  string `json:"patch,omitempty"`
	Binary bool   `json:"binary,omitempty"` // it has no patch because it is no text
}

// Pool is a number of sandboxes that wait, saved work and all, to be taken.
type Pool struct {
	Image     string `json:"image"`
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	DiskMiB   int    `json:"disk_mib"`
	Size      int    `json:"size"`  // how many are to wait
	Ready     int    `json:"ready"` // how many wait
	KeeperPID int    `json:"keeper_pid,omitempty"`
	Error     string `json:"error,omitempty"` // why the last member could not be made
}

// MaxPool bounds the size of one pool.
const MaxPool = 256

// SetPool says how many sandboxes of an image and sizes are to wait. Empty fields
// are those of a Spec.
type SetPool struct {
	Image     string `json:"image,omitempty"`
	CPUs      int    `json:"cpus,omitempty"`
	MemoryMiB int    `json:"memory_mib,omitempty"`
	DiskMiB   int    `json:"disk_mib,omitempty"`
	Size      int    `json:"size"` // zero: the pool is drained
}
