package guest

import (
	"context"

	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Folder asks for a folder of the host to be mounted, and stays open for as long as
// the host serves it. KindData carries one FUSE message each, KindEvent what beside
// them has to be said: a FolderEvent and its payload. The guest begins with
// FolderBegin. When the folder can be used it sends a reply.
//
// When the stream ends the folder stays where it is, and who uses it waits for the
// next stream of the same folder: a guest that was restored, or whose host has lost
// its connection, goes on.
type Folder struct {
	Path     string // in the guest, absolute
	User     string // whom all files belong to, as in Exec; empty: root
	Writable bool   // else what is written stays in the guest, in a layer over the folder
}

// Folders names all folders that a guest is to keep.
type Folders struct{ Paths []string }

// FolderEvent is the first byte of a KindEvent of OpFolder.
type FolderEvent uint8

const (
	// FolderBegin is the guest's first: a FolderBegun. States may follow it.
	FolderBegin FolderEvent = 1 + iota
	// FolderState is a part of what the host knows of the guest's files: from the host
	// before the guest is saved, to the host when the guest goes on elsewhere.
	FolderState
	// FolderSave is from a guest that is about to be saved and has no request under
	// way. The host answers with states and FolderSaved.
	FolderSave
	FolderSaved
	// FolderFresh says that there may be files on the host under names that had none.
	FolderFresh
	// FolderAhead names a directory, a FolderPath, whose files the guest will ask for
	// one by one if it does not ask for all of them now.
	FolderAhead
	// FolderShrink has the guest forget the files that it does not use.
	FolderShrink
)

// FolderBegun says who the files belong to, and how the folder comes to be.
type FolderBegun struct {
	UID, GID int
	Resumed  bool // it was mounted before: as many states follow as Parts
	Parts    int
}

// FolderPart is a FolderState's payload.
type FolderPart struct {
	Nodes   []FolderNode
	Handles []FolderHandle
	Next    int64 // no number beyond has been given to a node or handle; zero: unchanged
	Fresh   bool  // what was kept before is void
}

// FolderNode is a file that the guest's kernel has a number for.
type FolderNode struct {
	ID, Parent int64
	Name       string
	Kind       int // of stat(2)'s st_mode
	Lookups    int64
}

// FolderHandle is a file that the guest has open.
type FolderHandle struct {
	ID, Node int64
	Flags    int // of open(2)
}

// FolderPath is a FolderAhead's payload: a path below the folder.
type FolderPath struct{ Path string }

func (m *FolderPath) Wire(c *wire.Coder) { c.String(&m.Path) }

func (m *Folder) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.String(&m.User)
	c.Bool(&m.Writable)
}

func (m *Folders) Wire(c *wire.Coder) { c.Strings(&m.Paths) }

func (m *FolderBegun) Wire(c *wire.Coder) {
	c.Int(&m.UID)
	c.Int(&m.GID)
	c.Bool(&m.Resumed)
	c.Int(&m.Parts)
}

func (m *FolderPart) Wire(c *wire.Coder) {
	wire.List(c, &m.Nodes)
	wire.List(c, &m.Handles)
	c.Int64(&m.Next)
	c.Bool(&m.Fresh)
}

func (m *FolderNode) Wire(c *wire.Coder) {
	c.Int64(&m.ID)
	c.Int64(&m.Parent)
	c.String(&m.Name)
	c.Int(&m.Kind)
	c.Int64(&m.Lookups)
}

func (m *FolderHandle) Wire(c *wire.Coder) {
	c.Int64(&m.ID)
	c.Int64(&m.Node)
	c.Int(&m.Flags)
}

// KeepFolders unmounts all folders but those at paths.
func (c Client) KeepFolders(ctx context.Context, paths []string) error {
	return c.call(ctx, OpFolders, &Folders{Paths: paths}, &Empty{})
}
