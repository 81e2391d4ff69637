package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/store"
)

// realImage matches the package that holds a kernel; the one that is asked for
// only depends on the newest of them.
var realImage = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`linux-image-[0-9][a-z0-9.+-]*`) })

// packageName returns the name under which Debian keeps the newest kernel for
// virtual machines.
func packageName() string { return "linux-image-cloud-" + runtime.GOARCH }

// Fetch gets Debian's newest cloud kernel with the host's own apt, which
// verifies the archive's signature, and makes it the current one. It installs
// nothing on the host and works as any user. Class Unavailable where apt is
// missing or has no such package.
func Fetch(ctx context.Context, s store.Store, o Options) (Kernel, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return Kernel{}, api.Errorf(api.Unavailable, "fetch kernel: %w", err).WithCode("missing_dependency").
			WithRecovery("On a host without apt give a kernel: smolvm setup --kernel FILE.")
	}
	work, err := s.Scratch("kernel")
	if err != nil {
		return Kernel{}, api.Errorf(api.Unavailable, "fetch kernel: %w", err)
	}
	defer work.Close()
	d, err := download(ctx, work, o.Progress)
	if err != nil {
		return Kernel{}, api.Errorf(api.Unavailable, "fetch kernel: %w", err).
			WithRecovery("Check the host's package sources with: apt-get update.")
	}
	k, err := fromDeb(ctx, s, work, d, o)
	if err != nil {
		return Kernel{}, api.Errorf(api.Unavailable, "fetch kernel: %w", err)
	}
	return k, nil
}

// download gets the package that holds the newest kernel into the scratch directory.
func download(ctx context.Context, work *store.Scratch, report progress.Func) (deb, error) {
	report.Report(progress.Progress{Step: "download kernel", Total: 1})
	a := apt{work: work}
	meta, err := a.show(ctx, packageName())
	if err != nil {
		// The host's package lists may be missing or older than the archive.
		report.Report(progress.Progress{Step: "download kernel", Line: "reading package lists", Total: 1})
		if err := a.ownLists(ctx); err != nil {
			return deb{}, err
		}
		if meta, err = a.show(ctx, packageName()); err != nil {
			return deb{}, err
		}
	}
	name := realImage().FindString(meta["Depends"])
	if name == "" {
		return deb{}, fmt.Errorf("package %s depends on no kernel", packageName())
	}
	d, err := a.get(ctx, name)
	if err == nil {
		report.Report(progress.Progress{Step: "download kernel", Done: 1, Total: 1})
	}
	return d, err
}

// apt runs the host's apt, with the host's package lists or with its own.
type apt struct {
	work *store.Scratch
	opts []string
}

// ownLists makes apt keep its state in the scratch directory, which needs no
// root, and fetches the package lists there.
func (a *apt) ownLists(ctx context.Context) error {
	for _, d := range []string{"apt/lists/partial", "apt/cache/archives/partial"} {
		if err := os.MkdirAll(a.work.Path(d), 0o700); err != nil {
			return err
		}
	}
	a.opts = []string{
		"-o", "Dir::State::Lists=" + a.work.Path("apt/lists"),
		"-o", "Dir::Cache=" + a.work.Path("apt/cache"),
	}
	_, err := a.run(ctx, "apt-get", "-q", "update")
	return err
}

// show returns the fields of the newest version of a package.
func (a *apt) show(ctx context.Context, name string) (map[string]string, error) {
	out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return nil, err
	}
	return parseControl(out), nil
}

// get downloads a package and returns its file with the hash that the signed
// archive states.
func (a *apt) get(ctx context.Context, name string) (deb, error) {
	meta, err := a.show(ctx, name)
	if err != nil {
		return deb{}, err
	}
	if meta["SHA256"] == "" {
		return deb{}, fmt.Errorf("the archive states no hash for %s", name)
	}
	if _, err := a.run(ctx, "apt-get", "-q", "download", name+"="+meta["Version"]); err != nil {
		return deb{}, err
	}
	files, err := filepath.Glob(a.work.Path(name + "_*.deb"))
	if err != nil || len(files) != 1 {
		return deb{}, errors.Join(err, fmt.Errorf("apt-get download left %d files for %s", len(files), name))
	}
	return deb{path: files[0], source: filepath.Base(files[0]), sha256: meta["SHA256"]}, nil
}

// maxStderr bounds what of a tool's complaint goes into an error.
const maxStderr = 2 << 10

func (a *apt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, append(append([]string{}, a.opts...), args...)...)
	cmd.Dir = a.work.Path()
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		text := strings.TrimSpace(stderr.String())
		if len(text) > maxStderr {
			text = text[len(text)-maxStderr:]
		}
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, text)
	}
	return out, nil
}
