package agent

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
	"golang.org/x/sys/unix"
)

// maxWatches bounds the directories of one watch.
const maxWatches = 8 << 10

// watched are the changes that are reported.
const watched = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// watcher is one watch under way.
type watcher struct {
	s         stream
	f         *os.File // of inotify
	fd        int
	recursive bool
	top       string // the watched path as this process sees it
	asked     string // and as the host asked
	dirs      map[int32]string
	last      guest.Event
	over      bool
}

// watch serves OpWatch.
func (a *Agent) watch(s stream, req []byte) error {
	var r guest.Watch
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	p, err := a.path(r.Path)
	if err != nil {
		return err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return failed("watch", r.Path, err)
	}
	w := &watcher{s: s, f: os.NewFile(uintptr(fd), "inotify"), fd: fd, recursive: r.Recursive, top: p, asked: r.Path, dirs: map[int32]string{}}
	defer w.f.Close()
	if err := w.add(p, false); err != nil {
		return failed("watch", r.Path, err)
	}
	if err := s.reply(&guest.Empty{}); err != nil {
		return err
	}
	a.work.Go(func() {
		s.AwaitEnd()
		w.f.Close() // ends the read below
	})
	return w.run()
}

// run passes events on until the path is gone or the host ends the stream.
func (w *watcher) run() error {
	buf := make([]byte, 64<<10)
	for !w.over {
		w.s.Flush()
		n, err := w.f.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return failed("watch", w.asked, err)
		}
		w.last = guest.Event{}
		if err := w.events(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// add watches a path and, where the watch is recursive, the directories below.
// What is found in a directory that is new is reported: it may have come before
// the directory was watched.
func (w *watcher) add(path string, report bool) error {
	if len(w.dirs) >= maxWatches {
		return api.Errorf(api.Exhausted, "more than %d directories", maxWatches)
	}
	wd, err := unix.InotifyAddWatch(w.fd, path, watched|unix.IN_DONT_FOLLOW*b2u(path != w.top))
	if err != nil {
		return err
	}
	w.dirs[int32(wd)] = path
	if !w.recursive {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil // a file, or gone again
	}
	for _, e := range entries {
		p := filepath.Join(path, e.Name())
		if report {
			w.send(p, "create")
		}
		if !e.IsDir() {
			continue
		}
		// One that is gone meanwhile is no failure.
		if err := w.add(p, report); api.ClassOf(err) == api.Exhausted {
			return err
		}
	}
	return nil
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// events handles what one read gave.
func (w *watcher) events(b []byte) error {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		n := int(binary.NativeEndian.Uint32(b[12:]))
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+n]), "\x00")
		b = b[unix.SizeofInotifyEvent+n:]
		if err := w.event(wd, mask, name); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) event(wd int32, mask uint32, name string) error {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		return w.send(w.top, "lost")
	}
	dir, ok := w.dirs[wd]
	if mask&unix.IN_IGNORED != 0 || !ok {
		delete(w.dirs, wd)
		return nil
	}
	if mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0 {
		if dir == w.top {
			w.over = true
			return w.send(dir, "remove")
		}
		return nil // the parent tells
	}
	path := dir
	if name != "" {
		path = filepath.Join(dir, name)
	}
	if mask&unix.IN_ATTRIB != 0 && name == "" && dir != w.top {
		return nil // the parent tells
	}
	if err := w.send(path, whatOf(mask)); err != nil {
		return err
	}
	if mask&unix.IN_ISDIR == 0 || !w.recursive {
		return nil
	}
	if mask&unix.IN_MOVED_FROM != 0 {
		w.forget(path)
	}
	if mask&(unix.IN_CREATE|unix.IN_MOVED_TO) == 0 {
		return nil
	}
	if err := w.add(path, true); api.ClassOf(err) == api.Exhausted {
		return w.send(path, "lost")
	}
	return nil
}

// forget ends the watches of a directory that was moved away.
func (w *watcher) forget(path string) {
	for wd, dir := range w.dirs {
		if dir == path || strings.HasPrefix(dir, path+"/") {
			unix.InotifyRmWatch(w.fd, uint32(wd))
			delete(w.dirs, wd)
		}
	}
}

func whatOf(mask uint32) string {
	switch {
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		return "create"
	case mask&unix.IN_DELETE != 0:
		return "remove"
	case mask&unix.IN_MOVED_FROM != 0:
		return "rename"
	case mask&unix.IN_ATTRIB != 0:
		return "chmod"
	}
	return "write"
}

// send reports an event, once where the same comes several times in a row.
func (w *watcher) send(path, what string) error {
	e := guest.Event{Path: w.shown(path), What: what}
	if e == w.last {
		return nil
	}
	w.last = e
	return w.s.queue(guest.KindEvent, wire.Marshal(&e))
}

// shown is a path as the host asked for it.
func (w *watcher) shown(path string) string {
	return filepath.Join(w.asked, strings.TrimPrefix(path, w.top))
}
