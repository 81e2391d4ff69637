package guest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/copytar"
	"github.com/smolvm/smolvm/internal/undo"
)

// CopyOptions say how files are copied. The zero value works.
type CopyOptions struct {
	// Owner is who owns the copies in the guest, as user[:group]; empty: root.
	Owner string
	// Progress, where it is not nil, is called with the bytes that went over so far.
	Progress func(bytes int64)
}

// CopyIn copies a file or a directory of the host into the guest, by the rules of
// copytar.Decide. Symbolic links are copied as links.
func (c Client) CopyIn(ctx context.Context, hostPath, guestPath string, o CopyOptions) (TarResult, error) {
	from, err := hostKind(hostPath)
	if err != nil {
		return TarResult{}, err
	}
	to, err := c.guestKind(ctx, guestPath, true)
	if err != nil {
		return TarResult{}, err
	}
	d, err := copytar.Decide(hostPath, from, guestPath, to)
	if err != nil {
		return TarResult{}, err
	}
	root, base, err := openSource(hostPath, d.Name)
	if err != nil {
		return TarResult{}, err
	}
	defer root.Close()
	if d.Make {
		if err := c.Mkdir(ctx, Mkdir{Path: d.Into, Owner: o.Owner}); err != nil {
			return TarResult{}, err
		}
	}
	if o.Owner == "" {
		o.Owner = "0:0" // the host's numbers mean nothing in the guest
	}
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(copytar.Pack(w, root, []string{base}, copytar.PackOptions{Name: d.Name}))
	}()
	t := TarIn{Dest: d.Into, Owner: o.Owner, KeepDirs: !d.Make}
	res, err := c.TarIn(ctx, t, Counted(r, o.Progress))
	r.CloseWithError(io.ErrClosedPipe) // ends a packer that the guest refused
	<-packed
	return res, err
}

// CopyOut copies a file or a directory of the guest to the host. Whatever the
// guest sends, nothing outside the destination is touched: a link that leads out,
// a device and the like end the copy with an error of class Denied.
func (c Client) CopyOut(ctx context.Context, guestPath, hostPath string, o CopyOptions) (TarResult, error) {
	from, err := c.guestKind(ctx, guestPath, strings.HasSuffix(guestPath, "/") || strings.HasSuffix(guestPath, "/."))
	if err != nil {
		return TarResult{}, err
	}
	to, err := hostKindAt(hostPath)
	if err != nil {
		return TarResult{}, err
	}
	d, err := copytar.Decide(guestPath, from, hostPath, to)
	if err != nil {
		return TarResult{}, err
	}
	var u undo.Stack
	defer u.Run()
	if d.Make {
		if err := os.Mkdir(d.Into, 0o755); err != nil {
			return TarResult{}, hostError("make directory", d.Into, err)
		}
		u.Add(func() { os.Remove(d.Into) }) // if it is still empty
	}
	root, err := os.OpenRoot(d.Into)
	if err != nil {
		return TarResult{}, hostError("open directory", d.Into, err)
	}
	defer root.Close()
	res, err := c.unpackFrom(ctx, guestPath, d, root, o)
	if err != nil {
		return TarResult{}, err
	}
	u.Success()
	return res, nil
}

// unpackFrom unpacks a path of the guest by a decision.
func (c Client) unpackFrom(ctx context.Context, guestPath string, d copytar.Decision, root *os.Root, o CopyOptions) (TarResult, error) {
	clean := path.Clean(guestPath)
	t := TarOut{Base: clean}
	opts := copytar.UnpackOptions{KeepDirs: !d.Make}
	if d.Name != "." {
		t = TarOut{Base: path.Dir(clean), Paths: []string{path.Base(clean)}}
		opts.From, opts.To = path.Base(clean), d.Name
	}
	r, err := c.TarOut(ctx, t)
	if err != nil {
		return TarResult{}, err
	}
	defer r.Close()
	res, err := copytar.Unpack(Counted(r, o.Progress), root, opts)
	return TarResult{Files: res.Files, Bytes: res.Bytes}, err
}

// openSource opens the directory that a source is packed from, and names the
// source in it.
func openSource(hostPath, as string) (*os.Root, string, error) {
	dir, base := filepath.Split(filepath.Clean(hostPath))
	if as == "." {
		dir, base = hostPath, "."
	}
	if dir == "" {
		dir = "."
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, "", hostError("open directory", dir, err)
	}
	return root, base, nil
}

// hostKind tells what a source on the host is. A link counts as a file unless
// the path demands a directory.
func hostKind(p string) (copytar.Kind, error) {
	look := os.Lstat
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		look = os.Stat
	}
	return kindOf(look(p))
}

// hostKindAt tells what a destination on the host is.
func hostKindAt(p string) (copytar.Kind, error) { return kindOf(os.Stat(p)) }

func kindOf(fi fs.FileInfo, err error) (copytar.Kind, error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return copytar.Missing, nil
	case err != nil:
		return 0, hostError("look at", "", err)
	case fi.IsDir():
		return copytar.Dir, nil
	}
	return copytar.File, nil
}

// guestKind tells what a path in the guest is.
func (c Client) guestKind(ctx context.Context, p string, follow bool) (copytar.Kind, error) {
	if p == "" {
		return copytar.Missing, nil // Decide refuses it
	}
	info, err := c.Stat(ctx, Path{Path: p, NoFollow: !follow})
	switch {
	case api.ClassOf(err) == api.NotFound:
		return copytar.Missing, nil
	case err != nil:
		return 0, err
	case info.Type == "dir":
		return copytar.Dir, nil
	}
	return copytar.File, nil
}

// hostError gives an error of the host's file system its class.
func hostError(act, p string, err error) error {
	class := api.Internal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		class = api.NotFound
	case errors.Is(err, fs.ErrPermission):
		class = api.Denied
	case errors.Is(err, fs.ErrExist):
		class = api.Conflict
	}
	if p == "" {
		return api.Errorf(class, "%s: %w", act, err)
	}
	return api.Errorf(class, "%s %q on the host: %w", act, p, err)
}

// Counted reports what is read from r.
func Counted(r io.Reader, progress func(int64)) io.Reader {
	if progress == nil {
		return r
	}
	return &counter{r: r, progress: progress}
}

type counter struct {
	r        io.Reader
	n        int64
	progress func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.progress(c.n)
	return n, err
}
