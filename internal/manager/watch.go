package manager

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/store"
)

const (
	// Directories of sandboxes come and go, by renaming, in the one above.
	comesAndGoes = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ONLYDIR
	// Files of a sandbox are replaced by renaming. Its lock is closed by whoever held it,
	// also when that dies, and by those who tried to.
	fileChanges = unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE | unix.IN_ONLYDIR

	// The kernel tells of a dead holder's file before it gives up the lock: for so
	// long, and so often, a lock that was closed and is still held is looked at again.
	doubtTime = 2 * time.Second
	doubtStep = 20 * time.Millisecond
)

// Watch calls f with each sandbox that there is, with api.SandboxReady, and then with what happens to
// sandboxes, until ctx ends, which is an error, or f returns one. What happens while f
// runs waits in the kernel, which bounds it: see api.SandboxLost.
func (m *Manager) Watch(ctx context.Context, f func(api.SandboxEvent) error) error {
	w, err := m.newWatch(f)
	if err != nil {
		return api.Errorf(api.Unavailable, "watch sandboxes: %w", err)
	}
	defer w.events.Close()
	defer context.AfterFunc(ctx, func() { w.events.Close() })()
	err = w.run(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// watch is one Watch.
type watch struct {
	m      *Manager
	tell   func(api.SandboxEvent) error
	events *os.File // of inotify
	ids    map[int32]string
	known  map[string]*watched
	doubts map[string]time.Time // until when to look again
}

// watched is a sandbox, or one of a pool, that is watched.
type watched struct {
	wd    int32
	shown *api.Sandbox // what f was told last; nil: nothing
}

func (m *Manager) newWatch(f func(api.SandboxEvent) error) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watch{
		m: m, tell: f, events: os.NewFile(uintptr(fd), "inotify"),
		ids: map[int32]string{}, known: map[string]*watched{}, doubts: map[string]time.Time{},
	}
	if _, err := w.add(m.store.Sandboxes(), comesAndGoes); err != nil {
		w.events.Close()
		return nil, err
	}
	return w, nil
}

func (w *watch) run(ctx context.Context) error {
	if err := w.lookAtAll(ctx, api.SandboxPresent); err != nil {
		return err
	}
	if err := w.tell(api.SandboxEvent{Kind: api.SandboxReady, Time: time.Now()}); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		dirty, lost, err := w.next(buf)
		if err != nil {
			return err
		}
		if lost {
			err = w.tell(api.SandboxEvent{Kind: api.SandboxLost, Time: time.Now()})
			if err == nil {
				err = w.lookAtAll(ctx, api.SandboxCreated)
			}
		}
		for id := range dirty {
			if err == nil {
				err = w.look(ctx, id, api.SandboxCreated)
			}
		}
		if err != nil {
			return err
		}
	}
}

// lookAtAll looks at what is known and at what is there.
func (w *watch) lookAtAll(ctx context.Context, news api.SandboxEventKind) error {
	ids, err := w.m.ids()
	if err != nil {
		return err
	}
	for id := range w.known {
		ids = append(ids, id)
	}
	for _, id := range ids {
		if err := w.look(ctx, id, news); err != nil {
			return err
		}
	}
	return nil
}

// look tells what is new about one sandbox: news where it was not there before.
func (w *watch) look(ctx context.Context, id string, news api.SandboxEventKind) error {
	k := w.known[id]
	if k == nil {
		wd, err := w.add(string(w.m.store.Sandbox(id)), fileChanges)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		if err != nil {
			return api.Errorf(api.Exhausted, "watch sandbox %s: %w", id, err)
		}
		k = &watched{wd: wd}
		w.known[id], w.ids[wd] = k, id
	}
	info, err := w.m.glance(ctx, id)
	gone := errors.Is(err, api.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	if gone {
		w.forget(id, k)
	}
	gone = gone || waits(info)
	e := api.SandboxEvent{Time: time.Now(), Sandbox: info}
	switch {
	case gone && k.shown == nil, !gone && k.shown != nil && reflect.DeepEqual(*k.shown, info):
		return nil
	case gone:
		e.Kind, e.Sandbox = api.SandboxRemoved, *k.shown
		k.shown = nil
	case k.shown == nil:
		e.Kind, k.shown = news, &info
	default:
		e.Kind, k.shown = api.SandboxChanged, &info
	}
	return w.tell(e)
}

func (w *watch) add(dir string, mask uint32) (wd int32, err error) {
	c, err := w.events.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var added error
	err = c.Control(func(fd uintptr) { n, added = unix.InotifyAddWatch(int(fd), dir, mask) })
	return int32(n), errors.Join(err, added)
}

func (w *watch) forget(id string, k *watched) {
	delete(w.known, id)
	delete(w.ids, k.wd)
	delete(w.doubts, id)
	if c, err := w.events.SyscallConn(); err == nil {
		// Where the directory is gone, so is the watch.
		c.Control(func(fd uintptr) { unix.InotifyRmWatch(int(fd), uint32(k.wd)) })
	}
}

// next waits for changes and returns the sandboxes that they are about, or that there
// were too many.
func (w *watch) next(buf []byte) (dirty map[string]bool, lost bool, err error) {
	deadline := time.Time{}
	if len(w.doubts) > 0 {
		deadline = time.Now().Add(doubtStep)
	}
	if err := w.events.SetReadDeadline(deadline); err != nil {
		return nil, false, err
	}
	n, err := w.events.Read(buf)
	if err != nil && !os.IsTimeout(err) {
		return nil, false, err
	}
	dirty = map[string]bool{}
	for id, until := range w.doubts {
		dirty[id] = true
		if time.Now().After(until) || !store.Locked(w.m.store.Sandbox(id).Lock()) {
			delete(w.doubts, id)
		}
	}
	return dirty, w.take(buf[:max(n, 0)], dirty), nil
}

// take reads events (struct inotify_event) into dirty and reports whether some are lost.
func (w *watch) take(b []byte, dirty map[string]bool) (lost bool) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
		b = b[end:]
		id, inside := w.ids[wd]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			lost = true
		case mask&unix.IN_ISDIR != 0 && !inside && name != "":
			dirty[name] = true
		case !inside:
		case mask&unix.IN_CLOSE_WRITE != 0 && name == filepath.Base(w.m.store.Sandbox(id).Lock()):
			dirty[id] = true
			w.doubts[id] = time.Now().Add(doubtTime)
		case mask&unix.IN_MOVED_TO != 0:
			dirty[id] = true
		}
	}
	return lost
}

// glance describes a sandbox by its files, without asking its supervisor where it has one.
func (m *Manager) glance(ctx context.Context, id string) (api.Sandbox, error) {
	dir := m.store.Sandbox(id)
	var rec control.Record
	var st control.Status
	if store.Locked(dir.Lock()) && store.ReadJSON(dir.Spec(), &rec) == nil && store.ReadJSON(dir.State(), &st) == nil {
		return control.Describe(rec, st), nil
	}
	return m.look(ctx, id)
}
