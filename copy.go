package smolvm

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/copytar"
)

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
	kind, err := hostKind(hostPath)
	if err == nil && kind == copytar.Missing {
		err = api.Errorf(api.NotFound, "there is no such file on the host")
	}
	if err != nil {
		return Copied{}, copyError(hostPath, err)
	}
	to, err := s.guestKind(ctx, guestPath, true)
	if err != nil {
		return Copied{}, copyError(hostPath, err)
	}
	d, err := copytar.Decide(filepath.ToSlash(hostPath), kind, guestPath, to)
	if err != nil {
		return Copied{}, copyError(hostPath, err)
	}
	if d.Make {
		if err := s.guest().Mkdir(ctx, guest.Mkdir{Path: d.Into, Owner: o.Owner}); err != nil {
			return Copied{}, copyError(hostPath, err)
		}
	}
	dir, base := splitHost(hostPath, kind)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Copied{}, copyError(hostPath, err)
	}
	defer root.Close()
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(copytar.Pack(w, root, []string{base}, copytar.PackOptions{Name: d.Name}))
	}()
	defer r.Close()
	n, err := s.TarIn(ctx, d.Into, r, o)
	return n, copyError(hostPath, err)
}

// CopyOut is CopyIn the other way. Whatever the guest sends stays below
// hostPath.
func (s *Sandbox) CopyOut(ctx context.Context, guestPath, hostPath string, o CopyOptions) (Copied, error) {
	kind, err := s.guestKind(ctx, guestPath, false)
	if err == nil && kind == copytar.Missing {
		err = api.Errorf(api.NotFound, "there is no such file in the sandbox")
	}
	if err != nil {
		return Copied{}, copyError(guestPath, err)
	}
	to, err := hostKind(hostPath)
	if err != nil {
		return Copied{}, copyError(guestPath, err)
	}
	d, err := copytar.Decide(guestPath, kind, filepath.ToSlash(hostPath), to)
	if err != nil {
		return Copied{}, copyError(guestPath, err)
	}
	into := filepath.FromSlash(d.Into)
	if d.Make {
		if err := os.Mkdir(into, 0o755); err != nil {
			return Copied{}, copyError(guestPath, err)
		}
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		return Copied{}, copyError(guestPath, err)
	}
	defer root.Close()
	ask, from := tarOutOf(guestPath, kind)
	r, err := s.guest().TarOut(ctx, ask)
	if err != nil {
		return Copied{}, copyError(guestPath, err)
	}
	defer r.Close()
	res, err := copytar.Unpack(counted(r, o.Progress), root, copytar.UnpackOptions{From: from, To: d.Name, KeepDirs: true})
	return Copied(res), copyError(guestPath, err)
}

// tarOutOf asks for one path, and says what its top entry is called.
func tarOutOf(p string, kind copytar.Kind) (guest.TarOut, string) {
	if kind == copytar.Dir {
		return guest.TarOut{Base: p}, "."
	}
	return guest.TarOut{Base: path.Dir(p), Paths: []string{path.Base(p)}}, path.Base(p)
}

// splitHost says where to open a root and what to pack in it.
func splitHost(p string, kind copytar.Kind) (dir, base string) {
	if kind == copytar.Dir {
		return p, "."
	}
	return filepath.Dir(p), filepath.Base(p)
}

func hostKind(p string) (copytar.Kind, error) {
	lookup := os.Lstat // a symbolic link is copied as it is,
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		lookup = os.Stat // unless its directory is meant
	}
	st, err := lookup(p)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return copytar.Missing, nil
	case err != nil:
		return copytar.Missing, api.Errorf(api.Invalid, "look at it: %w", err)
	case st.IsDir():
		return copytar.Dir, nil
	}
	return copytar.File, nil
}

// guestKind is hostKind in the guest. A destination that is a link to a
// directory is one.
func (s *Sandbox) guestKind(ctx context.Context, p string, follow bool) (copytar.Kind, error) {
	noFollow := !follow && !strings.HasSuffix(p, "/") && !strings.HasSuffix(p, "/.")
	info, err := s.guest().Stat(ctx, guest.Path{Path: p, NoFollow: noFollow})
	switch {
	case errors.Is(err, api.ErrNotFound):
		return copytar.Missing, nil
	case err != nil:
		return copytar.Missing, err
	case info.Type == "dir":
		return copytar.Dir, nil
	}
	return copytar.File, nil
}

func copyError(what string, err error) error {
	if err == nil {
		return nil
	}
	return api.Errorf(api.ClassOf(err), "copy %q: %w", what, err)
}
