// Package control is what clients and supervisors say to each other: the two
// files that describe a sandbox, the routes of a supervisor's socket, the
// messages of its birth, and the client of it all.
package control

import (
	"time"

	"github.com/smolvm/smolvm/api"
)

// Record is the file of what was asked for and what it meant. Only the holder
// of the sandbox's lock writes it.
type Record struct {
	ID      string    `json:"id"`
	Spec    api.Spec  `json:"spec"` // defaults filled in
	Image   Image     `json:"image"`
	Created time.Time `json:"created"`
	// MachineID is the guest's, as machine-id(5) has it.
	MachineID string `json:"machine_id"`
	// Disk are the parts that the writable disk is made of, the lowest first. Only
	// the last is written to.
	Disk   []string `json:"disk"`
	Origin string   `json:"origin"` // see api.Sandbox
	// NetworkUsed are the bytes of the network's quota that were used, where there is one.
	NetworkUsed int64 `json:"network_used,omitempty"`
	// Head is the step of the history that the sandbox goes on from; nil: none.
	Head *int `json:"head,omitempty"`
}

// Image is what a sandbox needs to know of its image, kept so that it does not
// depend on the image's name.
type Image struct {
	ID         string   `json:"id"`     // digest of the manifest
	RootFS     string   `json:"rootfs"` // path of the base, relative to the state directory
	Env        []string `json:"env,omitempty"`
	WorkingDir string   `json:"working_dir,omitempty"`
	User       string   `json:"user,omitempty"`
	Command    []string `json:"command,omitempty"` // entry point and default arguments
}

// Expires is when the sandbox's time to live ends; zero: never.
func (r Record) Expires() time.Time {
	if r.Spec.TTLSeconds == 0 {
		return time.Time{}
	}
	return r.Created.Add(r.Spec.TTL())
}

// expires is Expires, or earlier where a sandbox that nobody uses is removed. A
// supervisor that runs sees to that itself.
func (r Record) expires(s Status) time.Time {
	at := r.Expires()
	if r.Spec.IdleAction != api.IdleRemove || r.Spec.IdleTimeoutSeconds == 0 || s.Ended.IsZero() {
		return at
	}
	if idle := s.Ended.Add(r.Spec.IdleTimeout()); at.IsZero() || idle.Before(at) {
		return idle
	}
	return at
}

// Over reports whether the time of a sandbox without a supervisor is over.
func (r Record) Over(s Status) bool {
	at := r.expires(s)
	return !at.IsZero() && time.Now().After(at)
}

// Status is the file of what was last known of a sandbox. Its supervisor writes it.
type Status struct {
	State   api.State `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"` // its last VM, in order; zero: it has one, or died
	// Lived says that the sandbox has been running once: from then on its disk
	// may hold work, and only its owner removes it.
	Lived         bool          `json:"lived,omitempty"`
	SupervisorPID int           `json:"supervisor_pid,omitempty"`
	VMMPID        int           `json:"vmm_pid,omitempty"`
	Isolation     api.Isolation `json:"isolation,omitempty"`
	Accel         api.Accel     `json:"accel,omitempty"`
	Machine       string        `json:"machine,omitempty"`
	VMM           string        `json:"vmm,omitempty"`
	Timings       api.Timings   `json:"timings,omitzero"`
}

// Describe puts record and status together.
func Describe(r Record, s Status) api.Sandbox {
	return api.Sandbox{
		ID: r.ID, Name: r.Spec.Name, State: s.State, Reason: s.Reason,
		Image: r.Spec.Image, ImageID: r.Image.ID,
		CPUs: r.Spec.CPUs, MemoryMiB: r.Spec.MemoryMiB, DiskMiB: r.Spec.DiskMiB,
		Labels: r.Spec.Labels, Ephemeral: r.Spec.Ephemeral,
		Created: r.Created, Started: s.Started, Expires: r.expires(s),
		IdleTimeoutSeconds: r.Spec.IdleTimeoutSeconds, IdleAction: r.Spec.IdleAction,
		Checkpoint: r.Spec.Checkpoint, Origin: r.Origin, Mounts: r.Spec.Mounts,
		Network: r.Spec.Network, Ports: r.Spec.Ports, Secrets: r.Spec.Secrets,
		Isolation: s.Isolation, Accel: s.Accel, Machine: s.Machine, VMM: s.VMM,
		SupervisorPID: s.SupervisorPID, VMMPID: s.VMMPID, Timings: s.Timings,
	}
}

// Birth is one line that a supervisor writes while it comes up: progress, and
// at last what it made or an error.
type Birth struct {
	Progress *Progress     `json:"progress,omitempty"`
	Sandbox  *api.Sandbox  `json:"sandbox,omitempty"`
	Template *api.Template `json:"template,omitempty"`
	Done     bool          `json:"done,omitempty"` // of what makes neither
	Error    *api.Error    `json:"error,omitempty"`
}

// Progress is what long work is doing.
type Progress = api.Progress

// Routes of a supervisor's socket. Bodies and answers are JSON.
const (
	RouteSandbox    = "GET /v1/sandbox"          // -> api.Sandbox
	RoutePause      = "POST /v1/pause"           // -> api.Sandbox
	RouteResume     = "POST /v1/resume"          // -> api.Sandbox
	RouteStop       = "POST /v1/stop"            // api.Stop -> api.Sandbox
	RouteKill       = "POST /v1/kill"            // ends VM and supervisor at once
	RouteRename     = "POST /v1/rename"          // Rename -> api.Sandbox
	RouteEnv        = "GET /v1/env"              // -> map[string]string
	RouteSetEnv     = "POST /v1/env"             // api.EnvChange -> api.EnvChanged
	RouteStats      = "GET /v1/stats"            // -> api.Stats
	RouteNetwork    = "GET /v1/network/policy"   // -> api.Network
	RouteSetNetwork = "POST /v1/network/policy"  // api.NetworkChange -> api.Network
	RouteCapture    = "POST /v1/network/capture" // switches to CaptureProtocol
	RoutePending    = "GET /v1/network/pending"  // -> []api.PendingFlow
	RouteAnswer     = "POST /v1/network/answer"  // api.FlowAnswer -> api.FlowOutcome
	RouteFlowEvents = "GET /v1/network/events"   // server-sent events of api.FlowEvent

	RouteStream = "POST /v1/stream" // switches to StreamProtocol
	RouteWait   = "GET /v1/wait"    // answers when the VM has ended -> api.Sandbox

	RouteExpose   = "POST /v1/ports"        // api.Port -> api.Port
	RouteUnexpose = "POST /v1/ports/remove" // api.Port, of which fields may be left out -> []api.Port

	RoutePoint      = "POST /v1/point"      // Point: saves the sandbox -> Pointed
	RouteCheckpoint = "POST /v1/checkpoint" // api.Checkpoint -> api.Step
	RouteRewind     = "POST /v1/rewind"     // Rewind -> api.Sandbox
	RouteClaim      = "POST /v1/claim"      // switches to ClaimProtocol
)

// ClaimProtocol is the upgrade that RouteClaim asks for. The client sends a
// Create; the pool's member answers with Birth lines, and takes the connection
// for the client's lifeline.
const ClaimProtocol = "smolvm-claim"

// Create is what a supervisor is told to make.
type Create struct {
	Spec api.Spec `json:"spec"`
	// Point is the directory of a saved sandbox to continue, relative to the state
	// directory. Empty: a template, or a boot.
	Point  string `json:"point,omitempty"`
	Origin string `json:"origin,omitempty"` // see api.Sandbox
	// PauseMS is how long the source of a fork stood still.
	PauseMS float64 `json:"pause_ms,omitempty"`
	// TemplateBudgetMiB bounds what templates take; zero: the default.
	TemplateBudgetMiB int `json:"template_budget_mib,omitempty"`
}

// Point asks for the sandbox to be saved into a directory that the client has
// made, relative to the state directory. With Step it is that step of the
// history, and the sandbox does not notice.
type Point struct {
	Dir      string `json:"dir"`
	DiskOnly bool   `json:"disk_only,omitempty"`
	Step     *int   `json:"step,omitempty"`
	// Brief says that the point is used at once and then removed.
	Brief bool `json:"brief,omitempty"`
}

// Pointed says what saving took.
type Pointed struct {
	PauseMS float64 `json:"pause_ms"`
}

// Rewind is the body of RouteRewind.
type Rewind struct {
	Step int `json:"step"`
}

// StreamProtocol is the upgrade that RouteStream asks for: from then on the
// connection carries the messages of one guest stream.
const StreamProtocol = "smolvm-stream"

// CodeSpent is the code of the error of a member of a pool that ends because it could
// not be taken.
const CodeSpent = "spent"

// CodeSupervised is the code of the error of a start that found another supervisor.
const CodeSupervised = "supervised"

// CodeAsleep is the code of the error of a stream that came while the sandbox went
// to sleep. Nothing of it has reached the guest.
const CodeAsleep = "asleep"

// Rename is the body of RouteRename.
type Rename struct {
	Name string `json:"name"`
}
