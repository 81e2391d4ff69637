package smolvm

import (
	"context"
	"io"
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
	return s.readFile(ctx, path, limit)
}

// OpenFile reads a file as a stream. Close it.
func (s *Sandbox) OpenFile(ctx context.Context, path string) (io.ReadCloser, FileInfo, error) {
	return s.openFile(ctx, path)
}

// WriteFile replaces a file by what r gives: whole, or not at all.
func (s *Sandbox) WriteFile(ctx context.Context, path string, r io.Reader, o FileOptions) error {
	return s.writeFile(ctx, path, r, o)
}

// Stat describes a file; a symbolic link is followed.
func (s *Sandbox) Stat(ctx context.Context, path string) (FileInfo, error) {
	return s.stat(ctx, path)
}

// ReadDir lists a directory, sorted by name.
func (s *Sandbox) ReadDir(ctx context.Context, path string) ([]FileInfo, error) {
	return s.readDir(ctx, path)
}

// Mkdir makes a directory and, where Parents is set, those above it.
func (s *Sandbox) Mkdir(ctx context.Context, path string, o FileOptions) error {
	return s.mkdir(ctx, path, o)
}

// RemoveFile removes a file or directory.
func (s *Sandbox) RemoveFile(ctx context.Context, path string, o RemoveOptions) error {
	return s.removeFile(ctx, path, o)
}

// RenameFile moves a file within one file system of the guest.
func (s *Sandbox) RenameFile(ctx context.Context, from, to string) error {
	return s.renameFile(ctx, from, to)
}

// WatchFiles calls f for each change below a path until ctx ends or f returns
// false.
func (s *Sandbox) WatchFiles(ctx context.Context, path string, recursive bool, f func(FileEvent) bool) error {
	return s.watchFiles(ctx, path, recursive, f)
}

// CopyOptions says how files are copied. The zero value keeps owners as numbers
// on the way in and gives files to the caller on the way out.
type CopyOptions struct {
	Owner    string           // on the way in: user[:group] that gets everything
	Progress func(done int64) // told the bytes copied so far; may be nil
}

// Copied counts what a copy moved.
type Copied struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// CopyIn copies a file or a whole directory from the host into the sandbox, with
// symbolic links and permissions. As with cp -a, a destination that is an
// existing directory receives the source under its own name, and a source that
// ends in "/." gives its contents.
func (s *Sandbox) CopyIn(ctx context.Context, hostPath, guestPath string, o CopyOptions) (Copied, error) {
	return s.copyIn(ctx, hostPath, guestPath, o)
}

// CopyOut is CopyIn the other way. Whatever the guest sends stays below
// hostPath.
func (s *Sandbox) CopyOut(ctx context.Context, guestPath, hostPath string, o CopyOptions) (Copied, error) {
	return s.copyOut(ctx, guestPath, hostPath, o)
}

// TarIn unpacks a tar stream below a directory of the guest.
func (s *Sandbox) TarIn(ctx context.Context, dir string, tar io.Reader, o CopyOptions) (Copied, error) {
	return s.tarIn(ctx, dir, tar, o)
}

// TarOut packs paths, which are relative to dir, into a tar stream. No paths:
// everything below dir. Close it.
func (s *Sandbox) TarOut(ctx context.Context, dir string, paths ...string) (io.ReadCloser, error) {
	return s.tarOut(ctx, dir, paths)
}
