package api

// FlowEventKind says what happened to a PendingFlow.
type FlowEventKind string

// The kinds of events.
const (
	FlowPending  FlowEventKind = "pending"  // it waits for an answer
	FlowAnswered FlowEventKind = "answered" // by a person or a changed policy; Allow says how
	FlowExpired  FlowEventKind = "expired"  // nobody answered in time
	FlowGone     FlowEventKind = "gone"     // the guest gave up, or its network ended
)

// FlowEvent is one event of the stream of questions.
type FlowEvent struct {
	Kind  FlowEventKind `json:"kind"`
	Flow  PendingFlow   `json:"flow"`
	Allow bool          `json:"allow,omitempty"` // of FlowAnswered
}

// FlowOutcome is what an answer has changed.
type FlowOutcome struct {
	// Rule now stands first in the policy; nil: the answer was for once.
	Rule *Rule `json:"rule,omitempty"`
}
