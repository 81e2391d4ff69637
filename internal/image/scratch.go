package image

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// scratchPrefix begins the reference of an image that is being built. No other
// reference begins so: a registry's name has no upper case.
const scratchPrefix = "SCRATCH:"

// ScratchRef returns the reference by which a supervisor finds the root of an
// image that is being built, for as long as the build goes on.
func (im *Images) ScratchRef(i Image) (string, error) {
	rel, err := filepath.Rel(im.s.Tmp(), i.RootFS)
	if err != nil || !filepath.IsLocal(rel) {
		return "", api.Errorf(api.Internal, "root %s of a build is not in the state directory", i.RootFS)
	}
	return scratchPrefix + rel, nil
}

// FromScratch returns the image of a ScratchRef, which has a root and nothing
// else. It reports whether ref is one.
func (im *Images) FromScratch(ref string) (_ Image, ok bool, err error) {
	rel, ok := strings.CutPrefix(ref, scratchPrefix)
	if !ok {
		return Image{}, false, nil
	}
	path := filepath.Join(im.s.Tmp(), rel)
	// Nothing but roots that a build made: a reference comes from outside.
	if !filepath.IsLocal(rel) || filepath.Ext(rel) != ".ext4" {
		return Image{}, true, api.Errorf(api.Invalid, "image reference %q leads out of the builds", ref)
	}
	if _, err := os.Lstat(path); err != nil {
		return Image{}, true, api.Errorf(api.NotFound, "build %q is over", ref)
	}
	return Image{Digest: ref, RootFS: path}, true, nil
}
