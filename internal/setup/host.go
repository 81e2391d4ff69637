// Package setup brings a machine to where sandboxes start, and says what it
// still lacks.
//
//	h := setup.Host{Store: s, Driver: driver, Images: images}
//	report := h.Doctor(ctx)             // what is there, what is not, what to do
//	plan, err := h.Plan(ctx, setup.Options{})
//	err = plan.Run(ctx, setup.Watcher{}) // only what is missing
package setup

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Images is what setup needs of the image store.
type Images interface {
	// Has returns nil for an image that is here and class NotFound otherwise.
	Has(ctx context.Context, ref string) error
	// Get makes an image be here.
	Get(ctx context.Context, ref string, p progress.Func) error
}

// Host is a machine that runs sandboxes.
type Host struct {
	Store  store.Store
	Driver vmm.Driver
	Images Images
}

func arch() string { return runtime.GOARCH }

// systemName is the name of the host's distribution.
func systemName() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return runtime.GOOS
}

// findTool finds a program also where a plain user's PATH does not look.
func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err == nil {
			return path, nil
		}
		path, err = exec.LookPath(dir + name)
	}
	return path, err
}
