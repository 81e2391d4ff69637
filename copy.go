package smolvm

import (
	"context"

	"github.com/smolvm/smolvm/internal/guest"
)

// CopyOptions says how files are copied.
type CopyOptions struct {
	Owner    string           // on the way in: user[:group] that gets everything; empty: root
	Progress func(done int64) // told the bytes copied so far; may be nil
}

// Copied counts what a copy moved.
type Copied struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// CopyIn copies a file or a whole directory from the host into the sandbox, with
// symbolic links and permissions. As with cp -a, a destination that is an
// existing directory receives the source under its own name, and a source that
// ends in "/." gives its contents.
func (s *Sandbox) CopyIn(ctx context.Context, hostPath, guestPath string, o CopyOptions) (Copied, error) {
	n, err := s.guest().CopyIn(ctx, hostPath, guestPath, guest.CopyOptions(o))
	return Copied(n), err
}

// CopyOut is CopyIn the other way; the files become the caller's. Whatever the
// guest sends stays below hostPath.
func (s *Sandbox) CopyOut(ctx context.Context, guestPath, hostPath string, o CopyOptions) (Copied, error) {
	n, err := s.guest().CopyOut(ctx, guestPath, hostPath, guest.CopyOptions(o))
	return Copied(n), err
}
