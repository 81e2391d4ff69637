package initramfs

import (
	"bufio"
	"fmt"
	"io"
)

// Modes of the entries we write, with the file type bits of stat(2).
const (
	modeDir  = 0o040755
	modeFile = 0o100644
	modeExec = 0o100755
)

// cpio writes the "newc" archive format that the kernel unpacks. All entries
// belong to root and have no time, so that the same content gives the same bytes.
type cpio struct {
	w   *bufio.Writer
	ino int
	off int64
	err error
}

func newCpio(w io.Writer) *cpio { return &cpio{w: bufio.NewWriterSize(w, 1<<20)} }

func (c *cpio) dir(name string) { c.entry(name, modeDir, 2, nil) }

func (c *cpio) file(name string, mode int, data []byte) { c.entry(name, mode, 1, data) }

// entry writes a header of 13 numbers in eight hex digits each, the name with
// its end mark, and the content; name and content are padded to four bytes.
func (c *cpio) entry(name string, mode, links int, data []byte) {
	c.ino++
	c.printf("070701")
	for _, n := range []int{
		c.ino, mode, 0, 0, links, 0, len(data), // uid, gid and time are 0
		0, 0, 0, 0, // device numbers
		len(name) + 1, 0, // no checksum in this format
	} {
		c.printf("%08x", n)
	}
	c.printf("%s\x00", name)
	c.pad()
	c.write(data)
	c.pad()
}

// close writes the end mark. The writer below stays open.
func (c *cpio) close() error {
	c.ino = -1 // its number is 0
	c.entry("TRAILER!!!", 0, 1, nil)
	if c.err != nil {
		return c.err
	}
	return c.w.Flush()
}

func (c *cpio) pad() { c.write(make([]byte, (4-c.off%4)%4)) }

func (c *cpio) printf(format string, args ...any) { c.write(fmt.Appendf(nil, format, args...)) }

func (c *cpio) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.off += int64(n)
	c.err = err
}
