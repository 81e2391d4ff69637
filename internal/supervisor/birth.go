package supervisor

import (
	"context"
	"encoding/json"
	"os"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
)

// birth tells the client how the sandbox comes up, until it is up.
type birth struct {
	mu   sync.Mutex
	w    *os.File // nil once the last line is written
	dead bool     // the client has gone
}

// progress tells what is being done. A client that does not read is not waited
// for longer than a pipe's buffer lasts.
func (b *birth) progress(p control.Progress) { b.send(control.Birth{Progress: &p}, false) }

// fail says that there will be no sandbox.
func (b *birth) fail(err error) { b.send(control.Birth{Error: api.AsError(err)}, true) }

// ready says that the sandbox runs, and reports whether the client lived to hear it.
func (b *birth) ready(info api.Sandbox) bool {
	return b.send(control.Birth{Sandbox: &info}, true)
}

// pooled says that a member of a pool waits. Its birth goes on until it is taken.
func (b *birth) pooled(info api.Sandbox) bool {
	return b.send(control.Birth{Sandbox: &info}, false)
}

// close ends the birth without another word.
func (b *birth) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w != nil {
		b.w.Close()
		b.w = nil
	}
}

// done says that what was asked for is done, where that is no running sandbox.
func (b *birth) done(m control.Birth) { b.send(m, true) }

// lost notes that the client has gone; before the last line that undoes the birth.
func (b *birth) lost(cancel context.CancelCauseFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = true
	if b.w != nil {
		cancel(api.Errorf(api.Unavailable, "the client went away"))
	}
}

func (b *birth) send(m control.Birth, last bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w == nil {
		return false
	}
	err := json.NewEncoder(b.w).Encode(m)
	if last {
		b.w.Close()
		b.w = nil
	}
	return err == nil && !b.dead
}
