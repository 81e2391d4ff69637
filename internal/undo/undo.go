// Package undo takes steps back when a later step fails.
//
//	var u undo.Stack
//	defer u.Run()
//	f, err := os.Create(path)
//	...
//	u.Add(func() { os.Remove(path) })
//	...
//	u.Success() // keep everything
package undo

import (
	"context"
	"time"
)

// Stack is a list of steps back, run last first. The zero value is ready.
// It is for one goroutine.
type Stack struct{ steps []func() }

// Add puts a step back on the stack. Write it on the line after the step it undoes.
func (s *Stack) Add(f func()) { s.steps = append(s.steps, f) }

// Run takes all steps back. A second call does nothing.
func (s *Stack) Run() {
	steps := s.steps
	s.steps = nil
	for i := len(steps) - 1; i >= 0; i-- {
		steps[i]()
	}
}

// Success forgets all steps: what was done stays done.
func (s *Stack) Success() { s.steps = nil }

// CleanupTime bounds a clean-up: long enough to end a stuck VMM, short enough
// that a person at a terminal does not think the program hangs.
const CleanupTime = 15 * time.Second

// Context returns a context for cleaning up after ctx: it carries ctx's values,
// not its end (the caller may be cancelled already), and is bounded by CleanupTime.
func Context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), CleanupTime)
}
