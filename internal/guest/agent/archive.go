package agent

import (
	"bufio"
	"os"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/copytar"
)

// openRoot opens a directory to pack from or unpack into.
func (a *Agent) openRoot(path string) (*os.Root, error) {
	p, err := a.path(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(p)
	if err != nil {
		return nil, failed("open directory", path, err)
	}
	return root, nil
}

// tarOut serves OpTarOut.
func (a *Agent) tarOut(s stream, req []byte) error {
	var r guest.TarOut
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	root, err := a.openRoot(r.Base)
	if err != nil {
		return err
	}
	defer root.Close()
	if len(r.Paths) == 0 {
		r.Paths = []string{"."}
	}
	w := bufio.NewWriterSize(dataWriter{s}, guest.MaxPayload)
	if err := copytar.Pack(w, root, r.Paths, copytar.PackOptions{Xattrs: true}); err != nil {
		return err
	}
	return w.Flush()
}

// tarIn serves OpTarIn.
func (a *Agent) tarIn(s stream, req []byte) error {
	var r guest.TarIn
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	u, owned, err := a.owner(r.Owner)
	if err != nil {
		return err
	}
	root, err := a.openRoot(r.Dest)
	if err != nil {
		return err
	}
	defer root.Close()
	o := copytar.UnpackOptions{KeepOwner: true, KeepDirs: r.KeepDirs, Xattrs: true, Devices: true, Setid: true}
	if owned {
		o.Owner = &copytar.Owner{UID: int(u.uid), GID: int(u.gid)}
	}
	res, err := copytar.Unpack(&dataReader{s: s}, root, o)
	if err != nil {
		return err
	}
	return s.reply(&guest.TarResult{Files: res.Files, Bytes: res.Bytes})
}
