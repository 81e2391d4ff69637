package netlog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

// Filter says which entries to read. The zero value is all.
type Filter struct {
	Since  time.Time // at or after
	Denied bool      // what was denied, dropped or alarming
	Host   string    // an address, or a name, which means all names below it too
}

// Match reports whether an entry is one of those.
func (f Filter) Match(e Entry) bool {
	if e.Time.Before(f.Since) || f.Denied && !denied(e) {
		return false
	}
	if f.Host == "" {
		return true
	}
	return below(e.Host, f.Host) || e.Address == f.Host || e.HTTP != nil && below(hostname(e.HTTP.Host), f.Host)
}

// denied holds for what a guest did not get, and for what says that the record is
// not whole.
func denied(e Entry) bool {
	switch e.Kind {
	case api.EventDrop, api.EventLimit, api.EventAlarm, api.EventLost, api.EventBroken:
		return true
	}
	return e.Verdict == api.PolicyDeny
}

func below(name, zone string) bool {
	name, zone = strings.ToLower(name), strings.ToLower(strings.TrimPrefix(zone, "*."))
	return name == zone || strings.HasSuffix(name, "."+zone)
}

// hostname cuts the port off a Host header.
func hostname(s string) string {
	if i := strings.LastIndexByte(s, ':'); i > 0 && !strings.HasSuffix(s, "]") && strings.Count(s[:i], ":") == 0 {
		return s[:i]
	}
	return strings.Trim(s, "[]")
}

// ReadOptions says what of a record to read. The zero value is all there is.
type ReadOptions struct {
	Filter
	Follow bool // go on until the context ends
}

// Read calls f for each entry of the record in a directory, in order, until f
// returns an error, which it passes on. A directory without a record has no
// entries. A line that is none of ours is passed as an entry of kind broken. With
// Follow it returns nil once the context has ended and all is read.
func Read(ctx context.Context, dir string, o ReadOptions, f func(Entry) error) error {
	r := reader{dir: dir, options: o, each: f}
	defer r.close()
	if o.Follow {
		if err := r.watch(); err != nil {
			return api.Errorf(api.NotFound, "follow network record %q: %w", dir, err)
		}
		defer context.AfterFunc(ctx, r.unwatch)()
	}
	for {
		if err := r.pass(); err != nil || !o.Follow {
			return err
		}
		if !r.wait() {
			return r.pass()
		}
	}
}

// reader is where a reading stands.
type reader struct {
	dir     string
	options ReadOptions
	each    func(Entry) error

	file   int // that is open; 0: none yet
	f      *os.File
	in     *bufio.Reader
	lines  int    // of the file
	part   []byte // of a line that has no end yet
	long   bool   // it is beyond MaxLine: the rest is dropped
	events *os.File
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
	}
	if r.events != nil {
		r.events.Close()
	}
}

// pass reads what there is now.
func (r *reader) pass() error {
	for {
		// Asked before reading on: a file is not added to once there is a next one.
		next, err := r.next()
		if err != nil {
			return err
		}
		if err := r.rest(); err != nil {
			return err
		}
		if next == 0 {
			return nil
		}
		if err := r.open(next); err != nil {
			return err
		}
	}
}

// next returns the number of the file after the open one; 0 where there is none.
func (r *reader) next() (int, error) {
	list, err := files(r.dir)
	if err != nil {
		return 0, api.Errorf(api.Unavailable, "read network record: %w", err)
	}
	for _, n := range list {
		if n > r.file {
			return n, nil
		}
	}
	return 0, nil
}

func (r *reader) open(n int) error {
	f, err := os.Open(file(r.dir, n))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // removed meanwhile: the next then
		return api.Errorf(api.Unavailable, "read network record: %w", err)
	}
	if r.f != nil {
		r.f.Close()
	}
	r.f, r.in = f, nil
	if f != nil {
		r.in = bufio.NewReaderSize(f, 64<<10)
	}
	r.file, r.lines, r.part, r.long = n, 0, nil, false
	return nil
}

// rest reads the open file to its end.
func (r *reader) rest() error {
	for r.in != nil {
		b, err := r.in.ReadSlice('\n')
		if !r.long {
			r.part = append(r.part, b...)
			r.long = len(r.part) > MaxLine
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil // more may come
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return api.Errorf(api.Unavailable, "read network record: %w", err)
		}
		r.lines++
		e, ok := parse(bytes.TrimSuffix(r.part, []byte("\n")))
		if !ok || r.long {
			e = Entry{Kind: api.EventBroken, Reason: fmt.Sprintf("line %d of %s is no entry", r.lines, filepath.Base(file(r.dir, r.file)))}
		}
		r.part, r.long = r.part[:0], false
		if e.Kind == api.EventBroken || r.options.Match(e) {
			if err := r.each(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// parse reads a line. What is not as Record writes it is no entry.
func parse(line []byte) (e Entry, ok bool) {
	if json.Unmarshal(line, &e) != nil || e.Seq == 0 || e.Seq > maxSeq || len(e.Prev) != len(first) {
		return Entry{}, false
	}
	return e, true
}

// watch begins to notice changes, so that none between two looks is missed.
func (r *reader) watch() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	r.events = os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, r.dir, unix.IN_MODIFY|unix.IN_CREATE)
	return err
}

func (r *reader) unwatch() { r.events.Close() }

// wait returns at the next change, with false once the context has ended.
func (r *reader) wait() bool {
	_, err := r.events.Read(make([]byte, 16<<10))
	return err == nil
}
