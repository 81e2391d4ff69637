package image

import (
	"os"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
)

// cached returns the layer of a build step by its key, a hex hash. Class
// NotFound where the cache does not have it.
func (im *Images) cached(key string) (Layer, error) {
	var l Layer
	err := store.ReadJSON(im.path(cacheDir, key+".json"), &l)
	if err == nil {
		_, err = os.Stat(im.path(blobsDir, hexOf(l.Digest)))
	}
	if os.IsNotExist(err) {
		return Layer{}, api.Errorf(api.NotFound, "build step %.12s is not in the cache", key)
	}
	return l, err
}
