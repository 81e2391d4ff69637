package hostfs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The words of the protocol are those of linux/fuse.h, version 7.31 to 7.38. Guests
// are little-endian machines.
const (
	protoMajor = 7
	// minMinor is that of Linux 5.4. Structures have not changed since.
	minMinor = 31
	ourMinor = 38

	inHeaderLen  = 40
	outHeaderLen = 16
	attrLen      = 88
	entryLen     = 40 + attrLen
	direntLen    = 24
)

type opcode uint32

const (
	opLookup      opcode = 1
	opForget      opcode = 2
	opGetattr     opcode = 3
	opSetattr     opcode = 4
	opReadlink    opcode = 5
	opSymlink     opcode = 6
	opMknod       opcode = 8
	opMkdir       opcode = 9
	opUnlink      opcode = 10
	opRmdir       opcode = 11
	opRename      opcode = 12
	opLink        opcode = 13
	opOpen        opcode = 14
	opRead        opcode = 15
	opWrite       opcode = 16
	opStatfs      opcode = 17
	opRelease     opcode = 18
	opFsync       opcode = 20
	opInit        opcode = 26
	opReaddir     opcode = 28
	opCreate      opcode = 35
	opInterrupt   opcode = 36
	opDestroy     opcode = 38
	opBatchForget opcode = 42
	opFallocate   opcode = 43
	opReaddirplus opcode = 44
	opRename2     opcode = 45
)

// silent reports whether the kernel expects no answer.
func (o opcode) silent() bool {
	return o == opForget || o == opBatchForget || o == opInterrupt || o == opDestroy
}

// Flags of INIT.
const (
	initAsyncRead     = 1 << 0
	initAtomicTrunc   = 1 << 3
	initBigWrites     = 1 << 5
	initAutoInval     = 1 << 12 // a new time or size drops the guest's pages of a file
	initReaddirplus   = 1 << 13
	initAsyncDIO      = 1 << 15
	initParallelDirs  = 1 << 18
	initMaxPages      = 1 << 22
	initCacheSymlinks = 1 << 23
)

// Valid bits of SETATTR.
const (
	setMode = 1 << iota
	setUID
	setGID
	setSize
	setAtime
	setMtime
	setFH
	setAtimeNow
	setMtimeNow
)

const (
	getattrFH = 1 << 0
	// openKeepCache leaves pages of the file that the guest has in place.
	openKeepCache = 1 << 1

	notifyInvalInode = 2
	notifyInvalEntry = 3
)

// header is what each request begins with.
type header struct {
	op     opcode
	unique uint64
	node   uint64
}

// parseHeader checks a message's frame and returns what follows its header.
func parseHeader(m []byte) (header, []byte, bool) {
	if len(m) < inHeaderLen || int(binary.LittleEndian.Uint32(m)) != len(m) {
		return header{}, nil, false
	}
	return header{
		op:     opcode(binary.LittleEndian.Uint32(m[4:])),
		unique: binary.LittleEndian.Uint64(m[8:]),
		node:   binary.LittleEndian.Uint64(m[16:]),
	}, m[inHeaderLen:], true
}

// reader takes a request's fields apart. After the first that is missing bad is set
// and all that follow are zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *reader) skip(n int)  { r.take(n) }

// text takes a string that ends with a zero byte.
func (r *reader) text() string {
	for i, c := range r.b {
		if c == 0 {
			s := string(r.b[:i])
			r.b = r.b[i+1:]
			return s
		}
	}
	r.bad = true
	return ""
}

// maxName is the longest name of a file, in bytes.
const maxName = 255

// name takes the name of one file in a directory: never a path, and never the
// directory itself or the one above.
func (r *reader) name() string {
	s := r.text()
	if s == "" || s == "." || s == ".." || len(s) > maxName {
		r.bad = true
		return ""
	}
	for i := range len(s) {
		if s[i] == '/' {
			r.bad = true
			return ""
		}
	}
	return s
}

// writer puts an answer together.
type writer struct{ b []byte }

func (w *writer) u16(v uint16) { w.b = binary.LittleEndian.AppendUint16(w.b, v) }
func (w *writer) u32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *writer) zero(n int)   { w.b = append(w.b, make([]byte, n)...) }

// reset begins a message anew, with room for its header.
func (w *writer) reset() { w.b = append(w.b[:0], make([]byte, outHeaderLen)...) }

// seal fills the header in. Of an error only the header goes.
func (w *writer) seal(unique uint64, err unix.Errno) []byte {
	if err != 0 {
		w.reset()
	}
	binary.LittleEndian.PutUint32(w.b, uint32(len(w.b)))
	binary.LittleEndian.PutUint32(w.b[4:], uint32(-int32(err)))
	binary.LittleEndian.PutUint64(w.b[8:], unique)
	return w.b
}

// notice is a message that the kernel did not ask for.
func notice(code uint32, body func(*writer)) []byte {
	var w writer
	w.reset()
	body(&w)
	binary.LittleEndian.PutUint32(w.b, uint32(len(w.b)))
	binary.LittleEndian.PutUint32(w.b[4:], code)
	return w.b
}

// invalidInode has the kernel ask for a file's attributes again and drop its pages.
func invalidInode(id uint64) []byte {
	return notice(notifyInvalInode, func(w *writer) {
		w.u64(id)
		w.u64(0) // from its begin
		w.u64(0) // to its end
	})
}

// invalidEntry has the kernel look a name up again.
func invalidEntry(parent uint64, name string) []byte {
	return notice(notifyInvalEntry, func(w *writer) {
		w.u64(parent)
		w.u32(uint32(len(name)))
		w.u32(0)
		w.b = append(append(w.b, name...), 0)
	})
}

// attr is what is told of a file.
type attr struct {
	ino, size, blocks    uint64
	atime, mtime, ctime  unix.StatxTimestamp
	mode, nlink, blksize uint32
}

// put appends an attribute with its owner.
func (w *writer) attr(a *attr, uid, gid uint32) {
	w.u64(a.ino)
	w.u64(a.size)
	w.u64(a.blocks)
	w.u64(uint64(a.atime.Sec))
	w.u64(uint64(a.mtime.Sec))
	w.u64(uint64(a.ctime.Sec))
	w.u32(a.atime.Nsec)
	w.u32(a.mtime.Nsec)
	w.u32(a.ctime.Nsec)
	w.u32(a.mode)
	w.u32(a.nlink)
	w.u32(uid)
	w.u32(gid)
	w.u32(0) // device
	w.u32(a.blksize)
	w.u32(0) // flags
}
