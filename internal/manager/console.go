package manager

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

// consoleLog is the guest's console in a sandbox's VM directory; what no longer
// fitted is beside it with ".1". Every driver that has a console writes it so.
const consoleLog = "console.log"

// Console copies the guest's console to w.
func (h *Handle) Console(ctx context.Context, w io.Writer, o api.ConsoleOptions) error {
	if _, err := h.Info(ctx); err != nil {
		return err
	}
	path := filepath.Join(h.dir().VM(), consoleLog)
	old, _ := os.ReadFile(path + ".1")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it never had a machine
	}
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	now, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if _, err := w.Write(lastLines(append(old, now...), o.Tail)); err != nil || !o.Follow {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		h.Wait(ctx)
		cancel()
	}()
	return followFile(ctx, path, &f, w)
}

// lastLines cuts b to its last n lines; zero: all.
func lastLines(b []byte, n int) []byte {
	if n <= 0 {
		return b
	}
	for i := len(bytes.TrimSuffix(b, []byte("\n"))); i > 0; i-- {
		if b[i-1] != '\n' {
			continue
		}
		if n--; n == 0 {
			return b[i:]
		}
	}
	return b
}

// followFile copies what is added to *f, which is the file at path, and to the
// files that take its place there, until ctx ends.
func followFile(ctx context.Context, path string, f **os.File, w io.Writer) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { events.Close() })()
	buf := make([]byte, 16<<10)
	for {
		if _, err := io.Copy(w, *f); err != nil {
			return err
		}
		if next, err := os.Open(path); err == nil {
			if same(*f, next) {
				next.Close()
			} else {
				(*f).Close()
				*f = next
				continue
			}
		}
		if _, err := events.Read(buf); err != nil {
			// ctx ended: what was written until then
			_, err := io.Copy(w, *f)
			return err
		}
	}
}

func same(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}
