package smolvm

import (
	"context"
	"io"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// FileOptions says how a file is written. The zero value keeps mode and owner of
// a file that is replaced, and else makes one of mode 0644 owned by root.
type FileOptions struct {
	Mode    uint32 // as in chmod(2)
	Owner   string // user[:group]
	Parents bool   // make missing directories
	Append  bool   // add to the end, instead of replacing the file whole
}

// RemoveOptions says how to remove a file.
type RemoveOptions struct {
	Recursive bool // a directory with all it holds
	Force     bool // a missing file is no error
}

// ReadFile reads a whole file of at most limit bytes (zero: DefaultOutputLimit).
// A larger one is an error of class Exhausted: use OpenFile.
func (s *Sandbox) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	if limit == 0 {
		limit = DefaultOutputLimit
	}
	info, r, err := s.guest().ReadFile(ctx, guest.Read{Path: path})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if info.Size > limit {
		return nil, api.Errorf(api.Exhausted, "read %q: its %d bytes are more than %d", path, info.Size, limit)
	}
	// The size may be a lie, or change.
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = api.Errorf(api.Exhausted, "read %q: it is larger than %d bytes", path, limit)
	}
	return b, err
}

// OpenFile reads a file as a stream. Close it.
func (s *Sandbox) OpenFile(ctx context.Context, path string) (io.ReadCloser, FileInfo, error) {
	return s.OpenRange(ctx, path, 0, 0)
}

// OpenRange reads limit bytes of a file from offset on as a stream (limit 0: to its
// end). There are fewer where the file ends before. Close it.
func (s *Sandbox) OpenRange(ctx context.Context, path string, offset, limit int64) (io.ReadCloser, FileInfo, error) {
	info, r, err := s.guest().ReadFile(ctx, guest.Read{Path: path, Offset: offset, Limit: limit})
	return r, fileInfo(info), err
}

// WriteFile replaces a file by what r gives: whole, or not at all.
func (s *Sandbox) WriteFile(ctx context.Context, path string, r io.Reader, o FileOptions) error {
	_, err := s.guest().WriteFile(ctx, guest.Write{
		Path: path, Mode: int(o.Mode), Owner: o.Owner, Parents: o.Parents, Append: o.Append,
	}, r)
	return err
}

// Stat describes a file; a symbolic link is followed.
func (s *Sandbox) Stat(ctx context.Context, path string) (FileInfo, error) {
	info, err := s.guest().Stat(ctx, guest.Path{Path: path})
	return fileInfo(info), err
}

// ReadDir lists a directory, sorted by name.
func (s *Sandbox) ReadDir(ctx context.Context, path string) ([]FileInfo, error) {
	files, err := s.guest().List(ctx, path)
	list := make([]FileInfo, 0, len(files))
	for _, f := range files {
		list = append(list, fileInfo(f))
	}
	return list, err
}

// Mkdir makes a directory and, where Parents is set, those above it.
func (s *Sandbox) Mkdir(ctx context.Context, path string, o FileOptions) error {
	return s.guest().Mkdir(ctx, guest.Mkdir{Path: path, Mode: int(o.Mode), Owner: o.Owner, Parents: o.Parents})
}

// RemoveFile removes a file or directory.
func (s *Sandbox) RemoveFile(ctx context.Context, path string, o RemoveOptions) error {
	return s.guest().Remove(ctx, guest.Remove{Path: path, Recursive: o.Recursive, Force: o.Force})
}

// RenameFile moves a file within one file system of the guest.
func (s *Sandbox) RenameFile(ctx context.Context, from, to string) error {
	return s.guest().Rename(ctx, from, to)
}

// FileWatch is a watch under way. Close it.
type FileWatch struct{ w *guest.Watcher }

// Watch tells of changes below a path from its return on, until ctx ends.
func (s *Sandbox) Watch(ctx context.Context, path string, recursive bool) (*FileWatch, error) {
	w, err := s.guest().Watch(ctx, guest.Watch{Path: path, Recursive: recursive})
	if err != nil {
		return nil, err
	}
	return &FileWatch{w}, nil
}

// Next waits for the next change. io.EOF says that the path is gone.
func (w *FileWatch) Next() (FileEvent, error) {
	e, err := w.w.Next()
	return FileEvent(e), err
}

// Close ends the watch.
func (w *FileWatch) Close() error { return w.w.Close() }

// WatchFiles calls f for each change below a path until ctx ends or f returns
// false.
func (s *Sandbox) WatchFiles(ctx context.Context, path string, recursive bool, f func(FileEvent) bool) error {
	w, err := s.Watch(ctx, path, recursive)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		e, err := w.Next()
		if err == io.EOF {
			return nil // the path is gone
		}
		if err != nil {
			return err
		}
		if !f(e) {
			return nil
		}
	}
}

// TarIn unpacks a tar stream below a directory of the guest. Without an owner the
// stream's numeric ones are kept.
func (s *Sandbox) TarIn(ctx context.Context, dir string, tar io.Reader, o CopyOptions) (Copied, error) {
	res, err := s.guest().TarIn(ctx, guest.TarIn{Dest: dir, Owner: o.Owner, KeepDirs: true}, guest.Counted(tar, o.Progress))
	return Copied(res), err
}

// TarOut packs paths, which are relative to dir, into a tar stream. No paths:
// everything below dir. Close it.
func (s *Sandbox) TarOut(ctx context.Context, dir string, paths ...string) (io.ReadCloser, error) {
	return s.guest().TarOut(ctx, guest.TarOut{Base: dir, Paths: paths})
}

func fileInfo(f guest.FileInfo) FileInfo {
	return FileInfo{
		Name: f.Path, Type: f.Type, Size: f.Size, Mode: uint32(f.Mode), UID: f.UID, GID: f.GID,
		User: f.User, Group: f.Group, ModTime: time.Unix(0, f.MTimeNS).UTC(), Target: f.Target,
	}
}

// Mark remembers the sandbox's files as they are now, for Changes.
func (s *Sandbox) Mark(ctx context.Context) error { return s.guest().Mark(ctx) }

// Changes returns what changed in the sandbox's files since the last Mark: the tar
// stream of an OCI layer, in which removed names are whiteouts. Close it.
func (s *Sandbox) Changes(ctx context.Context) (io.ReadCloser, error) {
	return s.guest().Changes(ctx)
}
