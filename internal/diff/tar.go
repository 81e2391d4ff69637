package diff

import (
	"archive/tar"
	"io"
	"path"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// whiteout is the prefix of a name that says that the name is removed, as layers
// of images have it.
const whiteout = ".wh."

// Tar writes the changes below a directory as a tar archive with names relative to
// it: what was added and changed as it is afterwards, and for what was deleted an
// empty file with the prefix ".wh.". It returns the paths that an archive cannot
// carry: devices, sockets, pipes, and names that look like deletions.
func Tar(w io.Writer, dir string, changes Changes, open Open) (skipped []string, err error) {
	t := tarWriter{w: tar.NewWriter(w), open: open}
	for c, err := range changes {
		if err != nil {
			return t.skipped, err
		}
		name, ok := within(dir, c.Path)
		if !ok {
			continue
		}
		if err := t.add(name, c); err != nil {
			return t.skipped, api.Errorf(api.ClassOf(err), "export %q: %w", c.Path, err)
		}
	}
	return t.skipped, t.w.Close()
}

type tarWriter struct {
	w       *tar.Writer
	open    Open
	gone    string // a path that was a directory and is none: what was below is gone with it
	skipped []string
}

func (t *tarWriter) add(name string, c Change) error {
	if t.gone != "" && strings.HasPrefix(c.Path, t.gone+"/") {
		return nil
	}
	if c.Before.Type == guest.TypeDir && c.After.Type != guest.TypeDir {
		t.gone = c.Path
	}
	base := path.Base(name)
	if strings.HasPrefix(base, whiteout) || c.After.Type == guest.TypeOther {
		t.skipped = append(t.skipped, c.Path)
		return nil
	}
	if c.After.Type == guest.TypeNone {
		return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(name), whiteout+base), Mode: 0o600})
	}
	f := c.After
	h := &tar.Header{
		Name: name, Mode: int64(f.Mode), Uid: f.UID, Gid: f.GID,
		ModTime: time.Unix(0, f.MTimeNS).Round(time.Second),
	}
	switch f.Type {
	case guest.TypeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case guest.TypeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Target
	default:
		h.Typeflag, h.Size = tar.TypeReg, f.Size
	}
	if err := t.w.WriteHeader(h); err != nil || h.Size == 0 {
		return err
	}
	return t.copy(c)
}

// copy writes what a file holds, which has to be as long as its entry says.
func (t *tarWriter) copy(c Change) error {
	r, err := t.open(After, c.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.CopyN(t.w, r, c.After.Size)
	if err == io.EOF {
		return api.Errorf(api.Conflict, "it has %d bytes now, not %d", n, c.After.Size)
	}
	return err
}
