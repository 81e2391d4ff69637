package copytar

import (
	"path"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// Kind is what stands at a path.
type Kind int

const (
	Missing Kind = iota
	File         // anything but a directory; a symbolic link to one counts as File at the source
	Dir
)

// Decision says how a copy is made: the source is packed as Name, or what it
// holds where Name is ".", and unpacked into Into.
type Decision struct {
	Into string // directory at the destination
	Make bool   // Into has to be made; its parent is there or the copy fails
	Name string
}

// Decide decides a copy as cp -a and docker cp do. The paths are slash-separated;
// a slash at the end demands a directory, and "/." at the source's means what it
// holds:
//
//	source      destination       result
//	file        missing           the file, named so; an error with a slash at its end
//	file        file              replaced
//	file        directory         in it
//	directory   missing           made, with what the source holds
//	directory   file              an error
//	directory   directory         in it; with "/." only what the source holds
func Decide(src string, srcKind Kind, dst string, dstKind Kind) (Decision, error) {
	if src == "" || dst == "" {
		return Decision{}, api.Errorf(api.Invalid, "copy %q to %q: a path is empty", src, dst)
	}
	contents := src == "." || strings.HasSuffix(src, "/.")
	slash := strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")
	switch {
	case srcKind == Missing:
		return Decision{}, api.Errorf(api.NotFound, "copy %q: it does not exist", src)
	case srcKind == File && (contents || strings.HasSuffix(src, "/")):
		return Decision{}, api.Errorf(api.Invalid, "copy %q: it is not a directory", src)
	case srcKind == File && dstKind == Missing && slash:
		return Decision{}, api.Errorf(api.NotFound, "copy %q to %q: the directory does not exist", src, dst)
	case dstKind == File && (slash || srcKind == Dir):
		return Decision{}, api.Errorf(api.Conflict, "copy %q to %q: the destination is not a directory", src, dst)
	case dstKind == Dir && !contents:
		return Decision{Into: dst, Name: baseName(src)}, nil
	case dstKind == Dir:
		return Decision{Into: dst, Name: "."}, nil
	case srcKind == Dir:
		return Decision{Into: dst, Make: true, Name: "."}, nil
	}
	return Decision{Into: path.Dir(dst), Name: path.Base(dst)}, nil
}

// baseName names a copy after its source; the root has no name.
func baseName(src string) string {
	if b := path.Base(path.Clean(src)); b != "/" && b != ".." {
		return b
	}
	return "."
}
