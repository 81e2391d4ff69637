package dockerfile

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/image"
)

// host is a Sandboxer whose sandboxes are directories of the host: programs run
// on the host, with the sandbox's root as the variable ROOT and their working
// directory below it.
type host struct {
	t       *testing.T
	started int
	open    int
	ran     []RunRequest
}

func (h *host) Sandbox(_ context.Context, i image.Image) (Sandbox, error) {
	dir := h.t.TempDir()
	out, err := exec.Command("/usr/sbin/debugfs", "-R", "rdump / "+dir, i.RootFS).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	h.started++
	h.open++
	return &hostSandbox{h: h, dir: dir}, nil
}

type hostSandbox struct {
	h      *host
	dir    string
	before map[string]string
	closed bool
}

func (s *hostSandbox) Run(ctx context.Context, r RunRequest) (int, error) {
	s.h.ran = append(s.h.ran, r)
	cmd := exec.CommandContext(ctx, r.Argv[0], r.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = filepath.Join(s.dir, r.Dir), append(r.Env, "ROOT="+s.dir), r.Stdin
	cmd.Stdout, cmd.Stderr = r.Output, r.Output
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

func (s *hostSandbox) Extract(ctx context.Context, r io.Reader) error {
	cmd := exec.CommandContext(ctx, "tar", "x", "-C", s.dir)
	cmd.Stdin = r
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// scan describes every file, by path.
func (s *hostSandbox) scan() (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == s.dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, p)
		all[rel] = fmt.Sprint(st.Mode(), st.Size(), st.ModTime().UnixNano())
		if st.IsDir() {
			all[rel] = st.Mode().String()
		}
		return err
	})
	return all, err
}

func (s *hostSandbox) Mark(context.Context) error {
	var err error
	s.before, err = s.scan()
	return err
}

func (s *hostSandbox) Changes(_ context.Context, w io.Writer) error {
	after, err := s.scan()
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for p, is := range after {
		if s.before[p] != is {
			if err := s.put(t, p); err != nil {
				return err
			}
		}
	}
	for p := range s.before {
		if _, ok := after[p]; ok {
			continue
		}
		name := filepath.Join(filepath.Dir(p), ".wh."+filepath.Base(p))
		if err := t.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
	}
	return t.Close()
}

func (s *hostSandbox) put(t *tar.Writer, rel string) error {
	st, err := os.Lstat(filepath.Join(s.dir, rel))
	if err != nil {
		return err
	}
	target, _ := os.Readlink(filepath.Join(s.dir, rel))
	h, err := tar.FileInfoHeader(st, target)
	if err != nil {
		return err
	}
	h.Name = rel
	if st.IsDir() {
		h.Name += "/"
	}
	if err := t.WriteHeader(h); err != nil || !st.Mode().IsRegular() {
		return err
	}
	b, err := os.ReadFile(filepath.Join(s.dir, rel))
	if err != nil {
		return err
	}
	_, err = t.Write(b)
	return err
}

func (s *hostSandbox) Close() error {
	if !s.closed {
		s.closed = true
		s.h.open--
	}
	return nil
}

// list shows an image's files as "name=content", "name/" or "name->target", with
// mode and owner where they are not the usual ones.
func list(t *testing.T, i image.Image) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("/usr/sbin/debugfs", "-R", "rdump / "+dir, i.RootFS).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var lines []string
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir || d.Name() == "lost+found" {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		lines = append(lines, rel+describe(t, p, d))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, " ")
}

func describe(t *testing.T, p string, d fs.DirEntry) string {
	st, err := d.Info()
	if err != nil {
		t.Fatal(err)
	}
	usual := fs.FileMode(0o644)
	kind := ""
	switch {
	case st.IsDir():
		kind, usual = "/", 0o755
	case st.Mode()&fs.ModeSymlink != 0:
		target, _ := os.Readlink(p)
		return "->" + target
	}
	if st.Mode().Perm() != usual {
		kind += fmt.Sprintf("(%o)", st.Mode().Perm())
	}
	if st.Mode().IsRegular() {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		kind += "=" + strings.TrimSpace(string(b))
	}
	return kind
}
