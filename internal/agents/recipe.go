package agents

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/api"
)

// Recipe says how an image with an agent is made.
type Recipe struct {
	Preset  Preset
	Version string // empty: the preset's
	Base    string // digest of the default image, which it is made from
}

// folder is where the packages are in the image.
const folder = "/opt/agent/node_modules"

// dockerfile copies; nothing is run, so no sandbox starts for it.
const dockerfile = "FROM " + api.DefaultImage + `
COPY node_modules ` + folder + `
COPY bin /usr/local/bin
USER ` + User + "\n"

// versionRE keeps what else npm would take for a version away from it: a path, an
// address, a flag.
var versionRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`) })

// Check refuses a version that is none. Class Invalid.
func (r Recipe) Check() error {
	if !versionRE().MatchString(r.version()) {
		return api.Errorf(api.Invalid, "version %.80q of %s is no exact version", r.Version, r.Preset.Name).
			WithRecovery("Give all three numbers, such as %s.", r.Preset.Version)
	}
	return nil
}

func (r Recipe) version() string {
	if r.Version == "" {
		return r.Preset.Version
	}
	return r.Version
}

// Image returns the name of the image: it holds a hash of all that goes into it, so
// an image of this name need not be made again.
func (r Recipe) Image() string {
	h := sha256.New()
	for _, part := range append([]string{r.Base, dockerfile}, r.arguments()...) {
		fmt.Fprintf(h, "%d:%s,", len(part), part)
	}
	for _, link := range slices.Sorted(maps.Keys(r.Preset.programs)) {
		fmt.Fprintf(h, "%s>%s,", link, r.fill(r.Preset.programs[link]))
	}
	return fmt.Sprintf("agent-%s:%s-%x", r.Preset.Name, r.version(), h.Sum(nil)[:6])
}

// Write makes the directory of a build: the Dockerfile and what it copies. npm on this
// host fetches the packages and checks them; nothing that is in them is run here.
// Class Unavailable where there is no npm or it cannot fetch them.
func (r Recipe) Write(ctx context.Context, dir string) error {
	if err := r.Check(); err != nil {
		return err
	}
	if err := r.fetch(ctx, dir); err != nil {
		return err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	for link, program := range r.Preset.programs {
		program = r.fill(program)
		if err := os.Chmod(filepath.Join(dir, "node_modules", program), 0o755); err != nil {
			return api.Errorf(api.Unavailable, "install %s %s: the package holds no %s", r.Preset.Name, r.version(), program).
				WithRecovery("Take another version; %s is known to work.", r.Preset.Version)
		}
		if err := os.Symlink(filepath.Join(folder, program), filepath.Join(bin, link)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644)
}

// arguments are npm's. Scripts of packages would run on this host: they do not.
func (r Recipe) arguments() []string {
	args := []string{
		"install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--no-save", "--omit=dev",
		"--engine-strict=false", // that is about this host's Node, which runs nothing of it
		"--os=linux", "--libc=glibc", "--cpu=" + arch(), "--loglevel=error", "--",
	}
	for _, p := range r.Preset.packages {
		args = append(args, r.fill(p))
	}
	return args
}

func (r Recipe) fetch(ctx context.Context, dir string) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return api.Errorf(api.Unavailable, "install %s: there is no npm on this host to fetch it", r.Preset.Name).
			WithCode("missing_dependency").
			WithRecovery("Install it (on Debian: apt install npm), or give an image that has %s with --image.", r.Preset.Name)
	}
	// Else npm looks upwards for a project, and takes its settings.
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte("{}\n"), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, npm, r.arguments()...)
	cmd.Dir = dir
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		return api.Errorf(api.Unavailable, "fetch %s %s with npm: %w", r.Preset.Name, r.version(), errors.Join(err, ctx.Err())).
			WithRecovery("npm said: %s", strings.TrimSpace(string(said.b)))
	}
	return nil
}

// maxSaid is how much of what npm says is kept for an error: its end.
const maxSaid = 2 << 10

type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxSaid; over > 0 {
		t.b = bytes.Clone(t.b[over:])
	}
	return len(p), nil
}

// fill puts what is known of host and version into a text of a preset.
func (r Recipe) fill(s string) string {
	return strings.NewReplacer("{version}", r.version(), "{arch}", arch(), "{machine}", machine()).Replace(s)
}

// arch is this processor's name in npm's words, and machine in the kernel's.
func arch() string {
	if runtime.GOARCH == "amd64" {
		return "x64"
	}
	return runtime.GOARCH
}

func machine() string {
	if runtime.GOARCH == "amd64" {
		return "x86_64"
	}
	return "aarch64"
}
