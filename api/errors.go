package api

import (
	"errors"
	"fmt"
)

// Class says what kind of failure an error is. Every door maps classes once:
// the HTTP API to a status, the CLI to a code and exit status, an SDK to a type.
type Class string

// The error classes.
const (
	NotFound    Class = "not_found"   // the named object does not exist
	Conflict    Class = "conflict"    // the name is taken or the state forbids the act
	Invalid     Class = "invalid"     // the caller's input is wrong
	Unavailable Class = "unavailable" // something needed is missing or not running
	Timeout     Class = "timeout"     // a bound in time was reached
	Denied      Class = "denied"      // policy or permission refuses
	Exhausted   Class = "exhausted"   // a limit of size, count or space was reached
	Internal    Class = "internal"    // a fault of smolvm or of its host
)

// Error is an error with a class and, where there is one, the next step.
//
// Message names the act and the object ("start sandbox \"web\": ..."). Code is a
// finer, stable word for programs (empty: Class.Code). Recovery is a sentence
// for people that says what to do now.
type Error struct {
	Class    Class          `json:"class"`
	Code     string         `json:"code,omitempty"`
	Message  string         `json:"message"`
	Recovery string         `json:"recovery,omitempty"`
	Details  map[string]any `json:"details,omitempty"`

	cause error
}

// Error returns the message, which holds the cause's text already.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error of the same class that names no more
// than the class, so that errors.Is(err, api.ErrNotFound) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Class == e.Class
}

// Class sentinels for errors.Is.
var (
	ErrNotFound    error = &Error{Class: NotFound}
	ErrConflict    error = &Error{Class: Conflict}
	ErrInvalid     error = &Error{Class: Invalid}
	ErrUnavailable error = &Error{Class: Unavailable}
	ErrTimeout     error = &Error{Class: Timeout}
	ErrDenied      error = &Error{Class: Denied}
	ErrExhausted   error = &Error{Class: Exhausted}
	ErrInternal    error = &Error{Class: Internal}
)

// Errorf makes an error of a class. A %w verb sets the cause's place in the text
// and keeps it reachable by errors.Is and errors.As. What a cause of the same class
// says of code and recovery holds for the new error too.
func Errorf(class Class, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Class: class, Message: err.Error(), cause: errors.Unwrap(err)}
	if c := (*Error)(nil); errors.As(e.cause, &c) && c.Class == class {
		e.Code, e.Recovery, e.Details = c.Code, c.Recovery, c.Details
	}
	return e
}

// WithRecovery returns e with the next step set. It changes e itself: use it on
// a fresh error.
func (e *Error) WithRecovery(format string, args ...any) *Error {
	e.Recovery = fmt.Sprintf(format, args...)
	return e
}

// WithCode returns e with a finer code. It changes e itself: use it on a fresh error.
func (e *Error) WithCode(code string) *Error {
	e.Code = code
	return e
}

// ClassOf returns the class of the first *Error in err's tree, and Internal
// where there is none.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Internal
}

// AsError returns err as an *Error fit for the wire: the class, code and
// recovery of the first *Error in its tree with the whole text of err.
func AsError(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Class: Internal, Message: err.Error()}
	}
	return &Error{Class: e.Class, Code: e.Code, Message: err.Error(), Recovery: e.Recovery, Details: e.Details}
}

// Status returns the HTTP status of a class (RFC 9110, RFC 6585).
func (c Class) Status() int {
	switch c {
	case NotFound:
		return 404
	case Conflict:
		return 409
	case Invalid:
		return 400
	case Unavailable:
		return 503
	case Timeout:
		return 504
	case Denied:
		return 403
	case Exhausted:
		return 429
	}
	return 500
}
