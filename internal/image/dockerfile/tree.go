package dockerfile

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"path"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/rootfs"
)

// treeSource is a stage or an image that COPY --from reads. Its contents come in
// the order of its layers, so they are fetched all at once, when the first is
// wanted.
type treeSource struct {
	tree  *rootfs.Tree
	chain string // names its layers, and so all contents
	files []rootfs.Entry
	paths []string // of the fetched contents, as files
	fetch func() error
}

// find returns what a source names, as contextDir.find.
func (t *treeSource) find(pattern string) ([]found, error) {
	names := []string{path.Clean("/" + pattern)}
	if strings.ContainsAny(pattern, "*?[") {
		var err error
		if names, err = t.glob(names[0]); err != nil {
			return nil, api.Errorf(api.Invalid, "source %q: %w", pattern, err)
		}
	}
	var out []found
	for _, name := range names {
		e, ok := t.tree.Stat(name)
		if !ok {
			break
		}
		f, err := t.collect(name, e)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, api.Errorf(api.Invalid, "source %q is not in the stage or image", pattern)
	}
	return sorted(out), nil
}

// glob returns the paths that fit a pattern. It looks at the pattern's fixed
// beginning and what is below it.
func (t *treeSource) glob(pattern string) ([]string, error) {
	top := "/"
	for p := range strings.SplitSeq(pattern[1:], "/") {
		if strings.ContainsAny(p, "*?[") {
			break
		}
		top = path.Join(top, p)
	}
	e, ok := t.tree.Stat(top)
	if !ok {
		return nil, nil
	}
	var out []string
	err := t.tree.Walk(e, func(rel string, _ rootfs.Entry) error {
		name := path.Join(top, rel)
		fits, err := path.Match(pattern, name)
		if fits {
			out = append(out, name)
		}
		return err
	})
	return out, err
}

func (t *treeSource) collect(name string, e rootfs.Entry) (found, error) {
	f := found{name: path.Base(name), isDir: e.IsDir()}
	err := t.tree.Walk(e, func(rel string, c rootfs.Entry) error {
		if len(t.files) == maxFiles {
			return api.Errorf(api.Exhausted, "more than %d files", maxFiles)
		}
		h := c.Header(rel)
		i := item{hdr: *h, src: t.chain + c.Path}
		if c.Type == tar.TypeReg {
			n := len(t.files)
			t.files = append(t.files, c)
			i.open = func() (io.ReadCloser, error) { return t.open(n) }
		}
		f.items = append(f.items, i)
		return nil
	})
	return f, err
}

func (t *treeSource) open(n int) (io.ReadCloser, error) {
	if t.paths == nil {
		if err := t.fetch(); err != nil {
			return nil, err
		}
	}
	return os.Open(t.paths[n])
}

// fetchAll writes the contents of all files into scratch files.
func (t *treeSource) fetchAll(ctx context.Context, scratch func() string) error {
	paths := make([]string, len(t.files))
	err := t.tree.Read(ctx, t.files, func(same []int, body io.Reader) error {
		p := scratch()
		for _, i := range same {
			paths[i] = p
		}
		return writeFile(p, body)
	})
	if err != nil {
		return err
	}
	t.paths = paths
	return nil
}

func writeFile(p string, r io.Reader) error {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
