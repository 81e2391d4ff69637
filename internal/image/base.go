package image

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/debian"
	"github.com/smolvm/smolvm/internal/image/progress"
)

// Base is the name of the default image.
const Base = "base"

// EnvBaseImage names an OCI reference that the default image is pulled from
// instead of being built from Debian packages.
const EnvBaseImage = "SMOLVM_BASE_IMAGE"

// BaseOptions say how the default image is made. The zero value is fine.
type BaseOptions struct {
	From     string        // OCI reference to pull; empty means $SMOLVM_BASE_IMAGE, and without that a build
	Renew    bool          // make it again where it is there
	Progress progress.Func // may be nil
}

// EnsureBase returns the default image and makes it where it is not there:
// Debian 12 with Python, git, curl and Node.js, and an unprivileged user "agent".
// Several callers at once make it once. Class Unavailable where neither
// Debian's tools nor a reference to pull are there.
func (im *Images) EnsureBase(ctx context.Context, o BaseOptions) (Image, error) {
	l, err := im.lockKey(ctx, "base image")
	if err != nil {
		return Image{}, api.Errorf(api.ClassOf(err), "make base image: %w", err)
	}
	defer l.Unlock()
	if !o.Renew {
		i, err := im.Resolve(ctx, Base)
		if err == nil || !errors.Is(err, api.ErrNotFound) {
			return i, err
		}
	}
	if o.From == "" {
		o.From = os.Getenv(EnvBaseImage)
	}
	if o.From != "" {
		return im.pullBase(ctx, o)
	}
	return im.buildBase(ctx, o)
}

func (im *Images) pullBase(ctx context.Context, o BaseOptions) (Image, error) {
	i, err := im.Pull(ctx, o.From, PullOptions{Progress: o.Progress})
	if err != nil {
		return Image{}, err
	}
	if err := im.Tag(ctx, i.Digest, Base); err != nil {
		return Image{}, err
	}
	i.Ref = Base
	return i, nil
}

func (im *Images) buildBase(ctx context.Context, o BaseOptions) (Image, error) {
	var e *api.Error
	if err := debian.Available(); errors.As(err, &e) {
		return Image{}, e.WithRecovery("Install mmdebstrap (smolvm setup does), or set %s to an image to pull.", EnvBaseImage)
	}
	work, err := im.s.Scratch("base")
	if err != nil {
		return Image{}, api.Errorf(api.Unavailable, "make base image: %w", err)
	}
	defer work.Close()
	tar := work.Path("root.tar")
	if err := debian.Build(ctx, debian.Options{Tar: tar, Dir: work.Path(), Progress: o.Progress}); err != nil {
		return Image{}, err
	}
	return im.Import(ctx, tar, ImportOptions{Name: Base, Created: time.Now(), Progress: o.Progress, Config: Config{
		Env:  []string{defaultPath, "LANG=C.UTF-8"},
		User: "root",
		Cmd:  []string{"/bin/bash"},
	}})
}
