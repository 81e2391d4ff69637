package diff

import (
	"bufio"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// Patch writes the changes below a directory as a patch with names relative to it,
// for git apply: files and symbolic links with what they hold and whether they are
// executable. Git knows no directories, owners or other modes. It returns the paths
// that a patch cannot carry: devices, sockets, pipes, and all below a .git, which
// git apply refuses. A file of more than 64 MiB is an error of class Exhausted.
func Patch(w io.Writer, dir string, changes Changes, open Open) (skipped []string, err error) {
	p := patcher{w: bufio.NewWriter(w), open: open}
	for c, err := range changes {
		if err != nil {
			return p.skipped, err
		}
		name, ok := within(dir, c.Path)
		if !ok {
			continue
		}
		if err := p.change(name, c); err != nil {
			return p.skipped, exportError(c.Path, err)
		}
	}
	return p.skipped, p.w.Flush()
}

func exportError(path string, err error) error {
	e := api.Errorf(api.ClassOf(err), "export %q: %w", path, err)
	if api.ClassOf(err) == api.Exhausted {
		return e.WithRecovery("Export a tar archive instead; it has no limit.")
	}
	return e
}

// patcher writes a patch. What fails to be written fails at the end, too.
type patcher struct {
	w       *bufio.Writer
	open    Open
	skipped []string
}

// blob is one side of a patched file, as git sees it.
type blob struct {
	mode string // of git; empty where there is none
	hash string
	data []byte
}

// noHash is the hash of what is not there.
var noHash = strings.Repeat("0", 2*sha1.Size)

func (p *patcher) change(name string, c Change) error {
	if c.Before.Type == guest.TypeOther || c.After.Type == guest.TypeOther || inGit(name) {
		p.skipped = append(p.skipped, c.Path)
		return nil
	}
	before, err := p.blob(c, Before)
	if err != nil {
		return err
	}
	after, err := p.blob(c, After)
	if err != nil {
		return err
	}
	if before.mode != "" && after.mode != "" && before.mode[:3] != after.mode[:3] {
		// A file became a link or the other way round: git wants two steps.
		p.file(name, before, blob{hash: noHash})
		before = blob{hash: noHash}
	}
	p.file(name, before, after)
	return nil
}

// inGit reports whether git apply refuses a name for where it is.
func inGit(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.EqualFold(part, ".git") {
			return true
		}
	}
	return false
}

func (p *patcher) blob(c Change, s Side) (blob, error) {
	b := blob{hash: noHash}
	switch f := c.file(s); {
	case f.Type == guest.TypeSymlink:
		b.mode = "120000"
	case f.Type == guest.TypeFile && f.Mode&0o100 != 0:
		b.mode = "100755"
	case f.Type == guest.TypeFile:
		b.mode = "100644"
	default:
		return b, nil
	}
	var err error
	if b.data, err = c.content(s, p.open, maxPatched); err != nil {
		return b, err
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(b.data))
	h.Write(b.data)
	b.hash = hex.EncodeToString(h.Sum(nil))
	return b, nil
}

// file writes the change of one file.
func (p *patcher) file(name string, before, after blob) {
	if before.mode == after.mode && before.hash == after.hash {
		return
	}
	fmt.Fprintf(p.w, "diff --git %s %s\n", quote("a/"+name), quote("b/"+name))
	mode := ""
	switch {
	case before.mode == "":
		fmt.Fprintf(p.w, "new file mode %s\n", after.mode)
	case after.mode == "":
		fmt.Fprintf(p.w, "deleted file mode %s\n", before.mode)
	case before.mode != after.mode:
		fmt.Fprintf(p.w, "old mode %s\nnew mode %s\n", before.mode, after.mode)
	default:
		mode = " " + before.mode
	}
	if before.hash == after.hash {
		return
	}
	fmt.Fprintf(p.w, "index %s..%s%s\n", before.hash, after.hash, mode)
	if !isText(before.data) || !isText(after.data) {
		p.binary(after.data)
		return
	}
	if h := hunks(string(before.data), string(after.data)); h != "" {
		p.w.WriteString(labels(name, before.file(), after.file()) + h)
	}
}

// file is as much of a File as a label needs.
func (b blob) file() File {
	if b.mode == "" {
		return File{}
	}
	return File{Type: guest.TypeFile}
}
