package cli

import (
	"io"
	"os"

	"golang.org/x/term"
)

// Streams is where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer

	// Keyboard is the terminal that In reads from. Nil: In is no terminal.
	Keyboard Keyboard
	OutTerm  bool // Out is a terminal
	ErrTerm  bool // Err is a terminal
	// InPiped says that In is a pipe, a socket or a file with something in it,
	// not a terminal and not /dev/null: somebody means it to be read.
	InPiped bool
}

// Keyboard is what an interactive session needs of a terminal.
type Keyboard interface {
	// Raw hands every key through to the reader until restore is called.
	Raw() (restore func(), err error)
	// Size returns the terminal's size.
	Size() (rows, cols int, err error)
}

// OS returns the streams of the process.
func OS() Streams {
	s := Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		OutTerm: term.IsTerminal(int(os.Stdout.Fd())),
		ErrTerm: term.IsTerminal(int(os.Stderr.Fd())),
	}
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		s.Keyboard = fdKeyboard(fd)
	} else if info, err := os.Stdin.Stat(); err == nil {
		s.InPiped = info.Mode()&os.ModeCharDevice == 0
	}
	return s
}

// fdKeyboard is a terminal's descriptor.
type fdKeyboard int

func (k fdKeyboard) Raw() (func(), error) {
	old, err := term.MakeRaw(int(k))
	if err != nil {
		return nil, err
	}
	return func() { term.Restore(int(k), old) }, nil
}

func (k fdKeyboard) Size() (rows, cols int, err error) {
	cols, rows, err = term.GetSize(int(k))
	return rows, cols, err
}
