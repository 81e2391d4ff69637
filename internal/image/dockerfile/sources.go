package dockerfile

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/decompress"
)

// contextDir is the directory that COPY reads, without what .dockerignore names.
// No link in it leads out of it.
type contextDir struct {
	root   *os.Root
	ignore *patternmatcher.PatternMatcher // nil where nothing is ignored
}

func openContext(dir, file string) (*contextDir, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, api.Errorf(api.NotFound, "open context: %w", err)
	}
	c := &contextDir{root: r}
	if c.ignore, err = readIgnore(r, file); err != nil {
		r.Close()
		return nil, err
	}
	return c, nil
}

func (c *contextDir) close() { c.root.Close() }

// readIgnore reads the patterns of files to leave out: the Dockerfile's own list
// where it has one, else the context's.
func readIgnore(r *os.Root, file string) (*patternmatcher.PatternMatcher, error) {
	text, err := readFile(file + ".dockerignore")
	if errors.Is(err, fs.ErrNotExist) {
		text, err = readIn(r, ".dockerignore")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "read .dockerignore: %w", err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "read .dockerignore: %w", err)
	}
	return m, nil
}

func readIn(r *os.Root, name string) ([]byte, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDockerfile))
}

// ignored reports whether a path of the context is left out.
func (c *contextDir) ignored(p string) (bool, error) {
	if c.ignore == nil || p == "." {
		return false, nil
	}
	return c.ignore.MatchesOrParentMatches(p)
}

// find returns what a source of COPY names: one file or directory, or all that
// fit a pattern.
func (c *contextDir) find(pattern string) ([]found, error) {
	p := path.Clean("/" + pattern)[1:]
	if p == "" {
		p = "."
	}
	names := []string{p}
	if strings.ContainsAny(p, "*?[") {
		var err error
		if names, err = fs.Glob(c.root.FS(), p); err != nil {
			return nil, api.Errorf(api.Invalid, "source %q: %w", pattern, err)
		}
	}
	var out []found
	for _, name := range names {
		skip, err := c.ignored(name)
		if err != nil {
			return nil, api.Errorf(api.Invalid, "source %q: %w", pattern, err)
		}
		if skip && !c.ignore.Exclusions() {
			continue
		}
		f, err := c.collect(name)
		if err != nil {
			return nil, err
		}
		if len(f.items) > 0 {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return nil, api.Errorf(api.Invalid, "source %q is not in the context, or .dockerignore leaves it out", pattern)
	}
	return sorted(out), nil
}

// collect lists a file, or a directory with all below it.
func (c *contextDir) collect(name string) (found, error) {
	st, err := c.root.Stat(name) // a link that is named itself is followed
	if err != nil {
		return found{}, api.Errorf(api.Invalid, "source %q: %w", name, err)
	}
	f := found{name: path.Base(name), isDir: st.IsDir()}
	if !st.IsDir() {
		skip, err := c.ignored(name)
		if err != nil || skip {
			return f, err
		}
		i, err := c.item(name, ".", st)
		f.items = []item{i}
		return f, err
	}
	err = fs.WalkDir(c.root.FS(), name, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return api.Errorf(api.Invalid, "source %q: %w", name, err)
		}
		return c.visit(&f, name, p, d)
	})
	return f, err
}

// visit adds what a walk comes to.
func (c *contextDir) visit(f *found, top, p string, d fs.DirEntry) error {
	skip, err := c.ignored(p)
	if err != nil {
		return err
	}
	if skip {
		// A pattern with "!" may bring back what is below.
		if d.IsDir() && !c.ignore.Exclusions() {
			return fs.SkipDir
		}
		return nil
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	if len(f.items) == maxFiles {
		return api.Errorf(api.Exhausted, "more than %d files", maxFiles)
	}
	rel, err := filepath.Rel(top, p)
	if err != nil {
		return err
	}
	i, err := c.item(p, rel, info)
	f.items = append(f.items, i)
	return err
}

// item describes a file of the context. All belong to root: who owns a checkout
// is of no meaning in an image.
func (c *contextDir) item(p, rel string, st fs.FileInfo) (item, error) {
	i := item{hdr: tar.Header{Name: rel, Mode: int64(st.Mode().Perm()), ModTime: st.ModTime()}}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		i.hdr.Mode = int64(sys.Mode & 0o7777)
	}
	switch {
	case st.Mode().IsRegular():
		i.hdr.Typeflag, i.hdr.Size = tar.TypeReg, st.Size()
		i.open = func() (io.ReadCloser, error) { return c.root.Open(p) }
	case st.IsDir():
		i.hdr.Typeflag = tar.TypeDir
	case st.Mode()&fs.ModeSymlink != 0:
		target, err := c.root.Readlink(p)
		if err != nil {
			return item{}, api.Errorf(api.Invalid, "source %q: %w", p, err)
		}
		i.hdr.Typeflag, i.hdr.Linkname = tar.TypeSymlink, target
	default:
		return item{}, api.Errorf(api.Invalid, "source %q is neither file, directory nor link", p)
	}
	return i, nil
}

// unpacked marks the files of ADD that are archives.
func unpacked(all []found) []found {
	for _, f := range all {
		if f.isDir || len(f.items) != 1 || f.items[0].open == nil {
			continue
		}
		if isArchive(f.items[0]) {
			f.items[0].pack = f.name
		}
	}
	return all
}

// isArchive reports whether a file is a tar, plain or compressed.
func isArchive(i item) bool {
	r, err := i.open()
	if err != nil {
		return false
	}
	defer r.Close()
	d, _, err := decompress.NewReader(r)
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = tar.NewReader(d).Next()
	return err == nil
}
