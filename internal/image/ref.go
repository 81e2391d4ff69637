package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
)

// minDigits is how much of a digest must be given to mean an image by it: as
// much as tables show.
const minDigits = 12

// ref is a name's file.
type ref struct {
	Name    string    `json:"name"` // canonical
	Digest  string    `json:"digest"`
	Updated time.Time `json:"updated"`
}

// maxRef bounds a reference that a user gives.
const maxRef = 512

func parseRef(s string) (name.Reference, error) {
	if len(s) > maxRef {
		return nil, api.Errorf(api.Invalid, "image reference of %d bytes: longer than %d", len(s), maxRef)
	}
	r, err := name.ParseReference(s)
	if err == nil && (strings.HasPrefix(s, ".") || strings.HasPrefix(s, "/")) {
		err = errors.New("it looks like a path") // else ".." is asked for as a registry
	}
	if err != nil {
		return nil, api.Errorf(api.Invalid, "image reference %q: %w", s, err).
			WithRecovery("Write NAME, NAME:TAG or REGISTRY/NAME:TAG, in lower case.")
	}
	return r, nil
}

// canonicalTag returns the full name that a new image gets.
func canonicalTag(s string) (string, error) {
	r, err := parseRef(s)
	if err != nil {
		return "", err
	}
	if _, ok := r.(name.Tag); !ok {
		return "", api.Errorf(api.Invalid, "image name %q holds a digest", s)
	}
	return r.Name(), nil
}

// familiar shortens a canonical name to what people write.
func familiar(canonical string) string {
	s := strings.TrimPrefix(canonical, name.DefaultRegistry+"/")
	s = strings.TrimPrefix(s, "library/")
	return strings.TrimSuffix(s, ":latest")
}

func (im *Images) refPath(canonical string) string {
	sum := sha256.Sum256([]byte(canonical))
	return im.path(refsDir, hex.EncodeToString(sum[:])+".json")
}

// setRef points a name at an image. The caller holds the lock.
func (im *Images) setRef(canonical, digest string) error {
	return store.WriteJSON(im.refPath(canonical), ref{canonical, digest, time.Now().UTC()})
}

// refs returns all names, in order.
func (im *Images) refs() ([]ref, error) {
	paths, err := filepath.Glob(im.path(refsDir, "*.json"))
	if err != nil {
		return nil, err
	}
	var out []ref
	for _, p := range paths {
		var r ref
		if err := store.ReadJSON(p, &r); os.IsNotExist(err) {
			continue // removed since
		} else if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b ref) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// find returns the record of an image by name, digest or the beginning of one.
// Its Ref is the canonical name by which it was found, if it was one.
func (im *Images) find(s string) (record, error) {
	if hex, ok := digits(s); ok {
		r, err := im.findDigits(hex)
		if err == nil || !errors.Is(err, api.ErrNotFound) || strings.HasPrefix(s, "sha256:") {
			return r, err
		}
	}
	n, err := parseRef(s)
	if err != nil {
		return record{}, err
	}
	var x ref
	err = store.ReadJSON(im.refPath(n.Name()), &x)
	if os.IsNotExist(err) {
		return record{}, api.Errorf(api.NotFound, "no image of this name is here")
	}
	if err != nil {
		return record{}, err
	}
	r, err := im.record(hexOf(x.Digest))
	r.Ref = x.Name
	return r, err
}

// digits returns the hex digits of what may be a digest or its beginning.
func digits(s string) (string, bool) {
	h := strings.TrimPrefix(s, "sha256:")
	if len(h) < minDigits || len(h) > 2*sha256.Size || strings.Trim(h, "0123456789abcdef") != "" {
		return "", false
	}
	return h, true
}

func (im *Images) findDigits(h string) (record, error) {
	paths, err := filepath.Glob(im.path(recordsDir, h+"*.json"))
	if err != nil {
		return record{}, err
	}
	switch len(paths) {
	case 0:
		return record{}, api.Errorf(api.NotFound, "no image of this digest is here")
	case 1:
		return im.record(strings.TrimSuffix(filepath.Base(paths[0]), ".json"))
	}
	return record{}, api.Errorf(api.Conflict, "%d images have digests that begin so", len(paths))
}

// hexOf returns the hex part of a digest that we wrote or checked.
func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
