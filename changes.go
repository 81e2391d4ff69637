package smolvm

import (
	"context"
	"io"
)

// Mark remembers the sandbox's files as they are now, for Changes.
func (s *Sandbox) Mark(ctx context.Context) error { return s.guest().Mark(ctx) }

// Changes returns what changed in the sandbox's files since the last Mark: the tar
// stream of an OCI layer, in which removed names are whiteouts. Close it.
func (s *Sandbox) Changes(ctx context.Context) (io.ReadCloser, error) {
	return s.guest().Changes(ctx)
}
