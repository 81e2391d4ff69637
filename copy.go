package smolvm

import "context"

// CopyIn copies a file or a whole directory from the host into the sandbox, with
// symbolic links and permissions. As with cp -a, a destination that is an
// existing directory receives the source under its own name, and a source that
// ends in "/." gives its contents.
func (s *Sandbox) CopyIn(ctx context.Context, hostPath, guestPath string, o CopyOptions) (Copied, error) {
	panic("soon")
}

// CopyOut is CopyIn the other way. Whatever the guest sends stays below
// hostPath.
func (s *Sandbox) CopyOut(ctx context.Context, guestPath, hostPath string, o CopyOptions) (Copied, error) {
	panic("soon")
}
