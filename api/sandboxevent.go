package api

import "time"

// SandboxEventKind says what happened to a sandbox.
type SandboxEventKind string

// The kinds of events of sandboxes.
const (
	SandboxPresent SandboxEventKind = "present" // it was there when the watch began
	SandboxReady   SandboxEventKind = "ready"   // all that were there have been told
	SandboxCreated SandboxEventKind = "created" // it is there now
	SandboxChanged SandboxEventKind = "changed" // its state, or anything else of its description
	SandboxRemoved SandboxEventKind = "removed" // it is gone; Sandbox is what was last seen
	// SandboxLost says that more happened than was kept for a slow reader. What is so
	// now follows, as changes.
	SandboxLost SandboxEventKind = "lost"
)

// SandboxEvent is one event of the stream of what happens to sandboxes. A state that
// does not last may be left out; the last one never is.
type SandboxEvent struct {
	Kind    SandboxEventKind `json:"kind"`
	Time    time.Time        `json:"time"` // when it was noticed
	Sandbox Sandbox          `json:"sandbox,omitzero"`
}
