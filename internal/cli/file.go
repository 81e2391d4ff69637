package cli

import (
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
)

// writeWhole makes or replaces a file of the host: whole, or not at all.
func writeWhole(path string, mode os.FileMode, write func(f *os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".smolvm-*")
	if err != nil {
		return api.Errorf(api.Invalid, "write %q: %w", path, err)
	}
	defer os.Remove(f.Name()) // fails, rightly, once renamed
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return f.Chmod(mode) },
		f.Close,
		func() error { return os.Rename(f.Name(), path) },
	} {
		if err := step(); err != nil {
			return api.Errorf(api.Invalid, "write %q: %w", path, err)
		}
	}
	return nil
}
