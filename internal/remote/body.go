package remote

import (
	"context"
	"io"
	"sync"
)

// remembering is a reader that knows whether it was it that failed.
type remembering struct {
	r   io.Reader
	err error // but the end of the file
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// lent is a caller's reader, lent to an HTTP transport, which may read on after it
// has answered.
type lent struct {
	ctx context.Context // of the one call that it is lent for
	mu  sync.Mutex
	r   io.Reader // nil: taken back
}

func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, io.ErrClosedPipe
	}
	if l.ctx.Err() != nil {
		return 0, context.Cause(l.ctx)
	}
	return l.r.Read(p)
}

// takeBack waits for a read that is under way.
func (l *lent) takeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r = nil
}
