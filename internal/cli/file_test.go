package cli

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestWriteWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write := func(text string, fail error) error {
		return writeWhole(path, 0o640, func(f *os.File) error {
			f.WriteString(text)
			return fail
		})
	}
	if err := write("old", nil); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := write("half", broken); !errors.Is(err, broken) {
		t.Fatalf("error %v, want the writer's", err)
	}
	b, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || string(b) != "old" || info.Mode().Perm() != 0o640 {
		t.Errorf("after a failed write: %q, %v, mode %v", b, err, info.Mode())
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("%d files, want the one: something half made was left", len(list))
	}
	missing := filepath.Join(dir, "no", "file")
	if err := writeWhole(missing, 0o600, func(*os.File) error { return nil }); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("without a directory: %v, want class invalid", err)
	}
}
