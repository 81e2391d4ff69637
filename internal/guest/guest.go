// Package guest is the protocol between a sandbox's host and the agent in its
// guest, and the host's client of it.
//
//	s, err := guest.Connect(ctx, conn)          // over the virtio-serial channel
//	c := guest.Client{Opener: s}
//	res, err := c.Run(ctx, guest.Exec{Argv: []string{"true"}})
//
// # Streams
//
// All work is done in streams, which only the host opens. A stream begins with
// an operation and its request, then carries typed messages both ways until both
// sides have ended it or one has reset it. Resetting a stream ends the work it
// stands for: a process that a stream runs is killed with its whole group.
//
// Package mux carries many streams over the one channel. Between a client and a
// supervisor each stream has a connection of its own (see Conn); the messages
// are the same, so a supervisor only passes them on.
//
// # Saved guests
//
// A guest whose memory was saved wakes as it was, and others may wake from the
// same memory. For none of them may a process run on before the guest is one of
// its own again, so the host freezes before it saves:
//
//	c.Quiesce(ctx, guest.Quiesce{Freeze: true})  // processes stand still
//	...                                          // pause, save, go on
//	c.Thaw(ctx, time.Now())                      // in the guest that was saved
//
//	s, err := guest.Connect(ctx, conn)           // in one that was restored
//	r, err := c.Identify(ctx, guest.Setup{Resumed: true, Copy: true, ...})
//
// Connect ends the streams of the host that was saved with the guest. Setup then
// sets the clock, stirs the random pool, gives the guest its names, its boot id
// and SSH host keys, resets the TCP connections that lead out of it, runs the
// image's hooks and only then lets the processes run on; see package agent. What
// streams ran goes on without them, as the processes in the background do. A guest
// that was not frozen is frozen by Setup, but its processes ran for the
// milliseconds until then, and those that streams ran have ended.
//
// Frozen processes stay so while nobody says Thaw or Setup. A host that forgot to
// is heard all the same: what it asks for half a minute later thaws them, if that
// is in the session in which it froze, and so in the guest that was saved.
//
// For a disk alone, which boots anew, Quiesce{Sync: true} is enough.
package guest

import (
	"context"

	"github.com/smolvm/smolvm/internal/guest/mux"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Version is the protocol's version, sent in the greeting. A peer of another
// major version is refused.
const Version = 1

// MaxPayload bounds the payload of one message. 32 KiB is half the largest
// buffer that QEMU's virtio-serial moves at once.
const MaxPayload = mux.MaxPayload

// MaxMessage bounds a request or reply that comes in parts (KindMore): above the
// longest argument list that a program may get by the kernel's usual limits.
const MaxMessage = 4 << 20

// Kind says what a message is.
type Kind uint8

// Kinds below 16 belong to the carriers (package mux).
const (
	KindOpen   Kind = 16 + iota // op byte and request; the first message of a stream
	KindReply                   // the operation's reply
	KindError                   // Failure; the last message of its sender
	KindData                    // bytes of a file, an archive, or a process's input; to a process, none means end of input
	KindStdout                  // bytes of a process's standard output, or of its terminal
	KindStderr                  // bytes of a process's standard error
	KindResize                  // Size of the terminal
	KindSignal                  // Signal to the process group
	KindExit                    // Exit of the process; the last message of its sender
	KindEvent                   // one Event of a watch
	KindMore                    // a part of a long message; the messages after it are the rest, the last has the kind
)

// Op names what a stream does.
type Op uint8

// The operations. The comment gives request, messages after it, and result.
const (
	OpInfo     Op = 1 + iota // none -> Info
	OpSetup                  // Setup -> Ready; once after each boot and each resume
	OpExec                   // Exec, then Data (stdin), Resize, Signal -> Reply(Started), Stdout, Stderr, Exit
	OpProcs                  // none -> ProcList: background processes that the agent keeps
	OpAttach                 // ProcRef, then Data, Resize, Signal -> Reply(Started), Stdout, Stderr, Exit
	OpSignal                 // ProcSignal -> empty
	OpForget                 // ProcRef -> empty; drops an ended process and its log
	OpPs                     // none -> PsList: all processes of the guest
	OpStat                   // Path -> FileInfo
	OpList                   // Path -> FileList
	OpMkdir                  // Mkdir -> empty
	OpRemove                 // Remove -> empty
	OpRename                 // Rename -> empty
	OpRead                   // Read -> Reply(FileInfo), Data...
	OpWrite                  // Write, then Data... -> Reply(FileInfo); the file appears whole or not at all
	OpTarOut                 // TarOut -> Data...: a tar stream
	OpTarIn                  // TarIn, then Data...: a tar stream -> Reply(TarResult)
	OpWatch                  // Watch -> Reply(empty), Event...
	OpMark                   // none -> empty; changes are counted from here
	OpChanges                // none -> Data...: an OCI layer of what changed since the mark
	OpStats                  // none -> Stats
	OpShutdown               // Shutdown -> empty; then syncs and powers off
	OpQuiesce                // Quiesce -> empty
	OpThaw                   // Thaw -> empty; what Quiesce has frozen runs on
	OpTree                   // Tree -> Reply(TreePart)...: what differs from the base image
	OpDial                   // Dial -> Reply(empty), then Data both ways: bytes of a connection, or datagrams
	OpNetwork                // Network -> empty: the network card is so
	OpFolder                 // Folder, then Data and Event both ways (see Folder) -> Reply(empty) when it is mounted
	OpFolders                // Folders -> empty; all others are unmounted
	OpTrust                  // Trust -> Trusted: programs believe in the sandbox's authority
	OpOwner                  // Owner -> Owned: the process that has a socket
)

// Message is one unit of a stream.
type Message struct {
	Kind    Kind
	Payload []byte // valid until the next Recv
}

// Stream is one operation under way. Send and Recv may be called from two
// goroutines at once, and Close from any.
type Stream interface {
	// Send sends a message, one longer than MaxPayload in parts, waiting while the
	// receiver is behind.
	Send(k Kind, p []byte) error
	// Recv returns the next message, and io.EOF after the peer's last.
	Recv() (Message, error)
	// CloseSend says that nothing more will be sent.
	CloseSend() error
	// Close ends the stream; if the peer has not ended, the work is ended too.
	Close() error
}

// Opener opens streams: a mux session, or a supervisor's socket.
type Opener interface {
	Open(ctx context.Context, op Op, req wire.Message) (Stream, error)
}
