package dockerfile

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/rootfs"
)

// attributes are what --chown and --chmod set. The zero value leaves all to root.
type attributes struct {
	owned    bool
	uid, gid int
	moded    bool
	mode     int64
}

// String is all of them, for a key.
func (a attributes) String() string {
	return fmt.Sprint(a.owned, a.uid, a.gid, a.moded, a.mode)
}

// apply sets them on a file.
func (a attributes) apply(h *tar.Header) {
	if a.owned {
		h.Uid, h.Gid = a.uid, a.gid
	}
	if a.moded && h.Typeflag != tar.TypeSymlink && h.Typeflag != tar.TypeLink {
		h.Mode = a.mode
	}
	h.Uname, h.Gname = "", ""
}

// applyDir sets them on a directory: a copied one, or one made above the copied.
func (a attributes) applyDir(h *tar.Header, copied bool) {
	mode := h.Mode
	a.apply(h)
	if !copied {
		h.Mode = mode // --chmod is for what is copied
	}
}

// attributes reads --chown and --chmod.
func (s *stage) attributes(ctx context.Context, t transfer) (attributes, error) {
	var a attributes
	if t.chmod != "" {
		mode, err := strconv.ParseInt(t.chmod, 8, 32)
		if err != nil || mode < 0 || mode > 0o7777 {
			return a, api.Errorf(api.Invalid, "--chmod=%s is not an octal mode such as 755", t.chmod)
		}
		a.moded, a.mode = true, mode
	}
	if t.chown == "" {
		return a, nil
	}
	user, group, hasGroup := strings.Cut(t.chown, ":")
	a.owned = true
	var err error
	if a.uid, a.gid, err = s.lookup(ctx, "/etc/passwd", user); err != nil {
		return a, err
	}
	if hasGroup {
		if a.gid, _, err = s.lookup(ctx, "/etc/group", group); err != nil {
			return a, err
		}
	}
	return a, nil
}

// lookup finds a user or group of the image by name or number: its id, and for a
// user that of its group.
func (s *stage) lookup(ctx context.Context, file, name string) (id, group int, err error) {
	n, numErr := strconv.ParseUint(name, 10, 31)
	root, err := s.root(ctx)
	if err != nil {
		return 0, 0, err
	}
	text, err := readText(ctx, root, file)
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(text) {
		f := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(f) < 4 || (f[0] != name && f[2] != name) {
			continue
		}
		u, uerr := strconv.ParseUint(f[2], 10, 31)
		g, gerr := strconv.ParseUint(f[3], 10, 31)
		if uerr == nil && (gerr == nil || file == "/etc/group") {
			return int(u), int(g), nil
		}
	}
	if numErr == nil {
		return int(n), int(n), nil // a number need not be known; its group is the same
	}
	return 0, 0, api.Errorf(api.Invalid, "--chown: %q is not in the image's %s", name, file)
}

// readText reads a small file of a root; one that is not there is empty.
func readText(ctx context.Context, root *rootfs.Tree, name string) ([]byte, error) {
	e, ok := root.Stat(name)
	if !ok || e.Type != tar.TypeReg || e.Size > maxPasswd {
		return nil, nil
	}
	var text []byte
	err := root.Read(ctx, []rootfs.Entry{e}, func(_ []int, body io.Reader) error {
		var err error
		text, err = io.ReadAll(io.LimitReader(body, maxPasswd))
		return err
	})
	return text, err
}
