package qemu

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unicode"
)

// ConsoleLog is the name of the console log in a machine's directory. What no
// longer fits is in the file of this name with ".1" appended.
const ConsoleLog = "console.log"

// consoleMax bounds both files of a console log together, in bytes. A guest can
// write without end; what matters of it is the last.
const consoleMax = 1 << 20

// tailMax bounds what LastWords returns of each source, in bytes: some sixty
// lines, enough for a kernel panic with its trace.
const tailMax = 4 << 10

// console keeps the end of what the guest prints.
type console struct {
	path string
	tail tail
	half int64 // the size at which the file becomes the old one

	file *os.File // for one writer
	size int64
}

// newConsole starts the console log of dir anew.
func newConsole(dir string) (*console, error) {
	c := &console{path: filepath.Join(dir, ConsoleLog), half: consoleMax / 2}
	c.remove()
	return c, c.open()
}

func (c *console) open() (err error) {
	c.size = 0
	c.file, err = os.OpenFile(c.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	return err
}

// Write never fails: a full disk must not stop the guest, who waits for its
// console to be read.
func (c *console) Write(p []byte) (int, error) {
	c.tail.Write(p)
	for rest := p; len(rest) > 0; {
		part := rest[:min(len(rest), int(c.half))]
		rest = rest[len(part):]
		if c.size+int64(len(part)) > c.half {
			c.rotate()
		}
		n, _ := c.file.Write(part)
		c.size += int64(n)
	}
	return len(p), nil
}

func (c *console) rotate() {
	c.file.Close()
	os.Rename(c.path, c.old())
	c.open() // when it fails the file is nil, and writes to it do nothing
}

// copy keeps what comes from r until its end.
func (c *console) copy(r io.Reader) {
	io.Copy(c, r)
	c.file.Close()
}

func (c *console) old() string { return c.path + ".1" }

func (c *console) remove() {
	os.Remove(c.path)
	os.Remove(c.old())
}

// tail keeps the last tailMax bytes written to it. The zero value is ready.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write appends p and drops what is too old.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-tailMax):]...)
	if n := len(t.b) - tailMax; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// String returns what is kept, made fit for a terminal: the guest wrote it, and
// an escape sequence could hide or fake what a person sees.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, string(t.b)))
}

// lastWords joins what QEMU and its guest said last.
func lastWords(stderr, console string) string {
	var parts []string
	if stderr != "" {
		parts = append(parts, "qemu: "+stderr)
	}
	if console != "" {
		parts = append(parts, "guest console: "+console)
	}
	return strings.Join(parts, "\n")
}
