package api

import "time"

// ListOptions narrows a list of sandboxes. The zero value lists everything.
type ListOptions struct {
	States []State           // any of them; empty: all
	Labels map[string]string // all of them
}

// ConsoleOptions says what of a console to read.
type ConsoleOptions struct {
	Tail   int  // the last lines; zero: all that is kept
	Follow bool // go on until the context ends or the sandbox stops
}

// NetworkLogOptions says what of a network's record to read. The zero value is all
// that is kept.
type NetworkLogOptions struct {
	Since  time.Time // at or after
	Denied bool      // what the sandbox did not get, and alarms
	Host   string    // an address, or a name, which means all names below it too
	Follow bool      // go on until the context ends or the sandbox stops
}

// DiffOptions says what to compare.
type DiffOptions struct {
	From  *int // a step; nil: the image
	To    *int // a step; nil: the sandbox as it is now
	Patch bool // tell the changes of text files too
}

// DiffFormat is the form of an exported difference.
type DiffFormat string

const (
	// DiffTar is a tar archive of what was added and changed. What was deleted is an
	// empty entry whose name has the prefix ".wh.", as in image layers.
	DiffTar DiffFormat = "tar"
	// DiffPatch is a patch for git apply.
	DiffPatch DiffFormat = "patch"
)

// Progress is what long work is doing.
type Progress struct {
	Step  string `json:"step"`
	Done  int64  `json:"done,omitempty"` // bytes, where known
	Total int64  `json:"total,omitempty"`
}

// Collected is what a garbage collection removed, or would.
type Collected struct {
	Sandboxes []string `json:"sandboxes"` // ids
	Names     []string `json:"names"`     // names that led nowhere
	Temporary []string `json:"temporary"` // half-made files
	DryRun    bool     `json:"dry_run"`
}
