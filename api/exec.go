package api

// Exec says what to run in a sandbox. It is the body of the HTTP API's exec.
type Exec struct {
	Argv    []string `json:"argv,omitempty"`    // program and arguments; this or Command
	Command string   `json:"command,omitempty"` // one line for a shell
	// Shell is of Command: ShellRaw (also if empty) or ShellLogin.
	Shell string `json:"shell,omitempty"`

	Env  map[string]string `json:"env,omitempty"`  // beside, and before, the sandbox's and the image's
	Dir  string            `json:"dir,omitempty"`  // empty: the image's, else the user's home
	User string            `json:"user,omitempty"` // name or number, optionally :group; empty: the image's, else root

	// Stdin is what the process reads before end of file, in Encoding.
	Stdin string `json:"stdin,omitempty"`
	// KeepStdin lets a process wait for input that is sent later, where it can be:
	// over a WebSocket, or to a background process.
	KeepStdin bool `json:"keep_stdin,omitempty"`

	TTY  bool `json:"tty,omitempty"` // run on a terminal; all output is stdout
	Rows int  `json:"rows,omitempty"`
	Cols int  `json:"cols,omitempty"`

	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"` // ends the command and all it started; zero: none
	// OutputLimit bounds stdout and stderr, each, in bytes; what is beyond is
	// dropped. Zero: 10 MiB where the output is kept for one answer, none where it
	// is streamed.
	OutputLimit int64 `json:"output_limit,omitempty"`

	// Encoding is of Stdin and of the output in answers: EncodingUTF8 (also if empty)
	// or EncodingBase64.
	Encoding string `json:"encoding,omitempty"`

	Tag        string `json:"tag,omitempty"`        // shown in lists of processes
	Checkpoint bool   `json:"checkpoint,omitempty"` // record a step of the history when it has ended
}

// What Exec.Shell may be.
const (
	ShellRaw   = "raw"   // /bin/sh -c
	ShellLogin = "login" // the user's own shell, as a login shell
)

// How bytes are written in JSON.
const (
	EncodingUTF8   = "utf-8"  // as text; what is no UTF-8 becomes U+FFFD
	EncodingBase64 = "base64" // RFC 4648, section 4
)

// ExecResult says how a command ended and what it wrote.
type ExecResult struct {
	Ended
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	Encoding string `json:"encoding"` // of both
	Step     *Step  `json:"step,omitempty"`
}

// ExecEventType says what an ExecEvent tells.
type ExecEventType string

// The types of ExecEvent. A stream begins with ExecStarted and ends with ExecExit
// or ExecFailed.
const (
	ExecStarted ExecEventType = "started" // PID
	ExecStdout  ExecEventType = "stdout"  // Data
	ExecStderr  ExecEventType = "stderr"  // Data
	ExecExit    ExecEventType = "exit"    // Ended
	ExecFailed  ExecEventType = "error"   // Error
)

// ExecEvent is one event of a command under way.
type ExecEvent struct {
	Type  ExecEventType `json:"type"`
	PID   int           `json:"pid,omitempty"`
	Data  string        `json:"data,omitempty"`
	Ended *Ended        `json:"ended,omitempty"`
	Step  *Step         `json:"step,omitempty"` // with ExecExit, where a checkpoint was asked for
	Error *Error        `json:"error,omitempty"`
}

// Lease is what ties ephemeral sandboxes to a client of the HTTP API: they are
// removed when the connection that gave the lease ends.
type Lease struct {
	ID string `json:"id"`
}

// HeaderLease is the header that names a lease in requests that make ephemeral
// sandboxes.
const HeaderLease = "Smolvm-Lease"

// The trailers of bodies that are streamed.
const (
	// TrailerError says why a body ended too early: an Error as JSON.
	TrailerError = "Smolvm-Error"
	// TrailerSkipped has the paths, as JSON, that an exported difference does not carry.
	TrailerSkipped = "Smolvm-Skipped"
)
