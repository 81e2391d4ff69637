package dockerfile

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/rootfs"
)

// transfer is a COPY or an ADD.
type transfer struct {
	instructions.SourcesAndDest
	from  string // stage or image; empty means the context
	chown string
	chmod string
	add   bool
}

// item is one file that a step puts into the image.
type item struct {
	hdr  tar.Header // Name is the place in the image, absolute until it is written
	open func() (io.ReadCloser, error)
	src  string // for the cache and for people
	pack string // path of an archive that ADD unpacks at Name; the rest is not used
}

// found is a source of a COPY: a file or the content of a directory.
type found struct {
	name  string // last part of its path
	isDir bool
	items []item // Name relative to the source: "." for itself
}

// copy does COPY and ADD: it writes the layer itself.
func (s *stage) copy(ctx context.Context, t transfer, n int) error {
	src, err := s.sources(ctx, t, n)
	if err != nil {
		return err
	}
	inline, err := s.inline(t)
	if err != nil {
		return err
	}
	src = append(src, inline...)
	if len(src) == 0 {
		return api.Errorf(api.Invalid, "nothing is copied")
	}
	attrs, err := s.attributes(ctx, t)
	if err != nil {
		return err
	}
	digest, err := digestOf(ctx, src)
	if err != nil {
		return err
	}
	// The directory decides where a file goes, so its name alone does not do.
	key := s.key("COPY", s.abs(t.DestPath), trailing(t.DestPath), attrs.String(), digest)
	return s.step(ctx, key, func(w io.Writer) error {
		root, err := s.root(ctx)
		if err != nil {
			return err
		}
		items, err := s.arrange(root, t, src)
		if err != nil {
			return err
		}
		// A running sandbox gets the layer too, so it is kept for a second reading.
		return s.tee(ctx, w, func(w io.Writer) error { return writeLayer(ctx, w, root, items, attrs) })
	})
}

// tee writes a layer, and unpacks it in the sandbox where one runs.
func (s *stage) tee(ctx context.Context, w io.Writer, write func(io.Writer) error) error {
	if s.sand == nil {
		return write(w)
	}
	f, err := os.OpenFile(s.scratch(), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(io.MultiWriter(w, f)); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return s.sand.Extract(ctx, f)
}

// sources finds what a COPY names.
func (s *stage) sources(ctx context.Context, t transfer, n int) ([]found, error) {
	if t.from != "" {
		return s.fromImage(ctx, t, n)
	}
	var out []found
	for _, p := range t.SourcePaths {
		if t.add && isURL(p) {
			return nil, api.Errorf(api.Invalid, "ADD %s: a build has no network yet", p).WithCode("unsupported_instruction").
				WithRecovery("Fetch the file first and COPY it.")
		}
		f, err := s.src.find(p)
		if err != nil {
			return nil, err
		}
		if t.add {
			f = unpacked(f)
		}
		out = append(out, f...)
	}
	return out, nil
}

// isURL reports whether ADD's source is somewhere else.
func isURL(p string) bool {
	return strings.Contains(p, "://") || strings.HasPrefix(p, "git@")
}

// inline are here-documents.
func (s *stage) inline(t transfer) ([]found, error) {
	var out []found
	for _, c := range t.SourceContents {
		data := c.Data
		if c.Expand {
			var err error
			if data, _, err = s.f.lex.ProcessWord(data, env(s.vars())); err != nil {
				return nil, api.Errorf(api.Invalid, "<<%s: %w", c.Path, err)
			}
		}
		out = append(out, found{name: c.Path, items: []item{{
			hdr:  tar.Header{Name: ".", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))},
			open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(data)), nil },
		}}})
	}
	return out, nil
}

// fromImage finds what COPY --from names, in another stage or an image.
func (s *stage) fromImage(ctx context.Context, t transfer, n int) ([]found, error) {
	layers, err := s.layersOf(ctx, t.from, n)
	if err != nil {
		return nil, err
	}
	tree := rootfs.NewTree(s.o.Limits)
	for _, l := range s.b.Open(layers) {
		if err := tree.Add(ctx, l); err != nil {
			return nil, err
		}
	}
	ts := &treeSource{tree: tree, chain: image.Chain(layers)}
	var out []found
	for _, p := range t.SourcePaths {
		f, err := ts.find(p)
		if err != nil {
			return nil, err
		}
		out = append(out, f...)
	}
	ts.fetch = func() error { return ts.fetchAll(ctx, s.scratch) }
	return out, nil
}

// layersOf returns the layers of a stage before the n-th, or of an image.
func (s *stage) layersOf(ctx context.Context, from string, n int) ([]image.Layer, error) {
	if from == "scratch" {
		return nil, api.Errorf(api.Invalid, "--from=scratch: there is nothing in it")
	}
	if i := s.f.find(from, n); i >= 0 {
		other, err := s.stage(ctx, i)
		if err != nil {
			return nil, err
		}
		return other.layers, nil
	}
	i, err := s.useImage(ctx, from)
	return i.Layers, err
}

func trailing(dest string) string {
	if strings.HasSuffix(dest, "/") || dest == "." || strings.HasSuffix(dest, "/.") {
		return "/"
	}
	return ""
}

// arrange gives every item its place in the image.
func (s *stage) arrange(root *rootfs.Tree, t transfer, src []found) ([]item, error) {
	dest := s.abs(t.DestPath)
	into := trailing(t.DestPath) != "" // files keep their names in a directory
	if e, ok := root.Stat(dest); ok && e.IsDir() {
		into = true
	}
	if len(src) > 1 && !into {
		return nil, api.Errorf(api.Invalid, "%d sources do not fit into one file %s", len(src), t.DestPath).
			WithRecovery("End the destination with a slash.")
	}
	var out []item
	for _, f := range src {
		at := dest
		if !f.isDir && into && f.items[0].pack == "" {
			at = path.Join(dest, f.name)
		}
		at, err := root.Resolve(at) // no entry may stand where a link leads elsewhere
		if err != nil {
			return nil, err
		}
		for _, i := range f.items {
			i.hdr.Name = path.Join(at, i.hdr.Name)
			out = append(out, i)
		}
	}
	if len(out) > maxFiles {
		return nil, api.Errorf(api.Exhausted, "more than %d files", maxFiles)
	}
	return out, nil
}

// workdir does WORKDIR: it makes the directory where it is not there.
func (s *stage) workdir(ctx context.Context, p string) error {
	p = s.abs(p)
	s.config.WorkingDir = p
	return s.step(ctx, s.key("WORKDIR", p), func(w io.Writer) error {
		root, err := s.root(ctx)
		if err != nil {
			return err
		}
		at, err := root.Resolve(p)
		if err != nil {
			return err
		}
		dir := item{hdr: tar.Header{Name: at, Typeflag: tar.TypeDir, Mode: 0o755}}
		return s.tee(ctx, w, func(w io.Writer) error {
			return writeLayer(ctx, w, root, []item{dir}, attributes{})
		})
	})
}

// sorted orders found sources by name, so that a pattern gives the same order
// everywhere.
func sorted(f []found) []found {
	slices.SortFunc(f, func(a, b found) int { return strings.Compare(a.name, b.name) })
	return f
}
