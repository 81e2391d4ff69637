package agent

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
	"golang.org/x/sys/unix"
)

// tree serves OpTree: it walks the writable layer and the base image side by
// side, where the layer hides the base's files through those too.
func (a *Agent) tree(s stream, req []byte) error {
	var r guest.Tree
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	if r.Path == "" {
		r.Path = "/"
	}
	if _, err := a.path(r.Path); err != nil {
		return err
	}
	top, err := a.openLayers()
	if err != nil {
		return err
	}
	defer top.close()
	w := treeWalker{s: s}
	if err := w.to(top, path.Clean("/"+r.Path)); err != nil {
		return failed("list the changed files of", r.Path, err)
	}
	return w.flush()
}

// layers are a directory in the writable layer and in the base image; nil where
// it is not one there.
type layers struct {
	at     string // its path, "" for the root
	upper  *os.Root
	base   *os.Root
	hidden bool // what the base has here does not show
}

func (a *Agent) openLayers() (layers, error) {
	if a.o.Base == "" {
		return layers{}, errNoLayer
	}
	upper, err := a.openUpper()
	if err != nil {
		return layers{}, err
	}
	base, err := os.OpenRoot(a.o.Base)
	if err != nil {
		upper.Close()
		return layers{}, failed("open the base image of", "/", err)
	}
	return layers{upper: upper, base: base}, nil
}

func (l layers) close() {
	if l.upper != nil {
		l.upper.Close()
	}
	if l.base != nil {
		l.base.Close()
	}
}

// names returns the names to look at: those of the writable layer, and those of
// the base where they do not show.
func (l layers) names() ([]string, error) {
	var names []string
	if l.upper != nil {
		var err error
		if names, err = sortedNames(l.upper); err != nil {
			return nil, err
		}
	}
	if l.base == nil || !l.hidden {
		return names, nil
	}
	more, err := sortedNames(l.base)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return more, nil
	}
	names = append(names, more...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// found is a name in both layers.
type found struct {
	guest.TreeEntry
	opaque   bool
	whiteout bool
}

// look looks at a name in both layers.
func (l layers) look(name string) (f found, err error) {
	f.Path = l.at + "/" + name
	if l.upper != nil {
		st, err := lookFor(l.upper, name)
		if err != nil {
			return f, err
		}
		if st != nil && isWhiteout(st) {
			f.whiteout = true
		} else if f.File, err = treeFile(l.upper, name, st); err != nil {
			return f, err
		}
		if f.File.Type == guest.TypeDir {
			f.opaque, err = isOpaque(l.upper, name)
		}
		if err != nil {
			return f, err
		}
	}
	if l.base != nil {
		st, err := lookFor(l.base, name)
		if err != nil {
			return f, err
		}
		f.Base, err = treeFile(l.base, name, st)
		f.Base.CTimeNS, f.Base.Ino = 0, 0
		return f, err
	}
	return f, nil
}

// lookFor is lstat for files that need not be there.
func lookFor(dir *os.Root, name string) (*syscall.Stat_t, error) {
	st, err := lstat(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return st, err
}

// below opens a name as a directory of both layers.
func (l layers) below(f found) (layers, error) {
	sub := layers{at: f.Path, hidden: l.hidden || f.opaque || f.File.Type != guest.TypeDir}
	name := path.Base(f.Path)
	var err error
	if f.File.Type == guest.TypeDir {
		if sub.upper, err = l.upper.OpenRoot(name); err != nil {
			return sub, err
		}
	}
	if f.Base.Type == guest.TypeDir {
		if sub.base, err = l.base.OpenRoot(name); err != nil {
			sub.close()
		}
	}
	return sub, err
}

// treeFile describes a file.
func treeFile(dir *os.Root, name string, st *syscall.Stat_t) (t guest.TreeFile, err error) {
	if st == nil {
		return t, nil
	}
	t = guest.TreeFile{
		Type: typeOf(st.Mode), Mode: int(st.Mode & 0o7777), UID: int(st.Uid), GID: int(st.Gid),
		MTimeNS: st.Mtim.Nano(), CTimeNS: st.Ctim.Nano(), Ino: int64(st.Ino),
	}
	switch t.Type {
	case guest.TypeFile:
		t.Size = st.Size
	case guest.TypeSymlink:
		t.Target, err = dir.Readlink(name)
	case guest.TypeOther:
		t.Target = special(st)
	}
	return t, err
}

// special says what a file that is none of the usual is.
func special(st *syscall.Stat_t) string {
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c "
	case unix.S_IFBLK:
		kind = "b "
	case unix.S_IFIFO:
		return "pipe"
	default:
		return "socket"
	}
	return kind + strconv.Itoa(int(unix.Major(st.Rdev))) + ":" + strconv.Itoa(int(unix.Minor(st.Rdev)))
}

const (
	// treePart is how many entries go into one reply, and treeBytes about how many
	// bytes of names.
	treePart  = 128
	treeBytes = 256 << 10
	// maxTreeDepth bounds how deep directories are nested: each holds two descriptors.
	maxTreeDepth = 512
)

// treeWalker sends what it finds.
type treeWalker struct {
	s    stream
	part guest.TreePart
	size int // of the names in part
	n    int
	deep int
}

// to walks the subtree at p, starting from the root's layers.
func (w *treeWalker) to(l layers, p string) error {
	if p == "/" {
		return w.dir(l)
	}
	name, rest, more := strings.Cut(p[1:], "/")
	f, err := l.look(name)
	if err != nil {
		return err
	}
	f.whiteout = f.whiteout || l.hidden
	if !more {
		return w.entry(l, f)
	}
	if f.File.Type != guest.TypeDir && !(f.Base.Type == guest.TypeDir && (f.whiteout || f.File.Type != guest.TypeNone)) {
		return nil // nothing of the writable layer there
	}
	sub, err := l.below(f)
	if err != nil {
		return err
	}
	defer sub.close()
	return w.to(sub, "/"+rest)
}

func (w *treeWalker) dir(l layers) error {
	if w.deep++; w.deep > maxTreeDepth {
		return api.Errorf(api.Exhausted, "%q is more than %d directories deep", l.at, maxTreeDepth)
	}
	defer func() { w.deep-- }()
	names, err := l.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := l.look(name)
		if err == nil {
			f.whiteout = f.whiteout || l.hidden
			err = w.entry(l, f)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return err
		}
	}
	return nil
}

// entry sends one path, and what is below it.
func (w *treeWalker) entry(l layers, f found) error {
	if f.File.Type == guest.TypeNone && (!f.whiteout || f.Base.Type == guest.TypeNone) {
		return nil
	}
	if err := w.send(f.TreeEntry); err != nil {
		return err
	}
	if f.File.Type != guest.TypeDir && f.Base.Type != guest.TypeDir {
		return nil
	}
	sub, err := l.below(f)
	if err != nil {
		return err
	}
	defer sub.close()
	return w.dir(sub)
}

func (w *treeWalker) send(e guest.TreeEntry) error {
	if w.n++; w.n > guest.MaxTree {
		return api.Errorf(api.Exhausted, "there are more than %d", guest.MaxTree)
	}
	w.part.Entries = append(w.part.Entries, e)
	w.size += len(e.Path) + len(e.File.Target) + len(e.Base.Target)
	if len(w.part.Entries) < treePart && w.size < treeBytes {
		return nil
	}
	return w.flush()
}

func (w *treeWalker) flush() error {
	if len(w.part.Entries) == 0 {
		return nil
	}
	err := w.s.queue(guest.KindReply, wire.Marshal(&w.part))
	w.part.Entries, w.size = w.part.Entries[:0], 0
	return err
}
