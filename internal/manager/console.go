package manager

import (
	"context"
	"io"
)

// ConsoleOptions says what of a console to read.
type ConsoleOptions struct {
	Tail   int
	Follow bool
}

// Console copies the guest's console to w.
func (h *Handle) Console(ctx context.Context, w io.Writer, o ConsoleOptions) error { panic("soon") }
