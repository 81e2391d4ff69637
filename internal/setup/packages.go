package setup

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
)

// need is a program that smolvm calls and the Debian package that holds it.
type need struct{ program, pkg string }

// needs lists the programs that smolvm calls on this host.
func needs() []need {
	list := []need{
		{"mkfs.ext4", "e2fsprogs"}, // writable disks, and the read-only base
		{"mmdebstrap", "mmdebstrap"},
	}
	switch runtime.GOARCH {
	case "arm64":
		list = append(list, need{"qemu-system-aarch64", "qemu-system-arm"})
	default:
		list = append(list, need{"qemu-system-x86_64", "qemu-system-x86"})
	}
	if os.Getuid() != 0 {
		// mmdebstrap maps a range of user ids, which takes a helper.
		list = append(list, need{"newuidmap", "uidmap"})
	}
	return list
}

func packageStep() Step {
	s := Step{Name: "packages"}
	var have, missing []string
	for _, n := range needs() {
		if _, err := findTool(n.program); err != nil {
			missing = append(missing, n.pkg)
		} else {
			have = append(have, n.pkg)
		}
	}
	slices.Sort(missing)
	if len(missing) == 0 {
		s.Done, s.Detail = true, strings.Join(have, " ")
		return s
	}
	s.Detail = "install the Debian packages " + strings.Join(missing, " ")
	s.run = func(ctx context.Context, p progress.Func) (string, error) {
		return strings.Join(missing, " "), install(ctx, missing, p)
	}
	return s
}

// installArgs installs packages without what they merely recommend: for QEMU
// that is a display, sound and 300 MB.
func installArgs(pkgs []string) []string {
	return append([]string{"install", "-y", "-q", "--no-install-recommends"}, pkgs...)
}

// install installs Debian packages: as root, or by sudo where it asks nothing.
func install(ctx context.Context, pkgs []string, p progress.Func) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return api.Errorf(api.Unavailable, "install %s: this host has no apt-get", strings.Join(pkgs, " ")).
			WithCode("missing_dependency").
			WithRecovery("Install what gives the programs %s with your own package manager, then run this again.", programsOf(pkgs))
	}
	var sudo []string
	if os.Getuid() != 0 {
		sudo = []string{"sudo", "-n"}
		if err := exec.CommandContext(ctx, "sudo", "-n", "true").Run(); err != nil {
			return api.Errorf(api.Denied, "install %s: it takes root", strings.Join(pkgs, " ")).
				WithCode("missing_dependency").
				WithRecovery("Run: sudo apt-get update && sudo apt-get %s", strings.Join(installArgs(pkgs), " "))
		}
	}
	// Without fresh lists a new machine knows no package and an old one wrong versions.
	if err := apt(ctx, sudo, []string{"update", "-q"}, p); err != nil {
		return err
	}
	return apt(ctx, sudo, installArgs(pkgs), p)
}

func programsOf(pkgs []string) string {
	var out []string
	for _, n := range needs() {
		if slices.Contains(pkgs, n.pkg) {
			out = append(out, n.program)
		}
	}
	return strings.Join(out, ", ")
}

// lastLines is how many lines of apt's output an error shows.
const lastLines = 20

// apt runs apt-get. What it says is progress, and part of an error.
func apt(ctx context.Context, sudo, args []string, p progress.Func) error {
	argv := append(slices.Clone(sudo), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get")
	argv = append(argv, args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	said := make(chan []string)
	go func() { said <- follow(r, p) }()
	err := cmd.Run()
	w.Close()
	last := <-said
	if err != nil {
		return api.Errorf(api.Unavailable, "apt-get %s: %w\n%s", args[0], err, strings.Join(last, "\n")).
			WithRecovery("Mend what it says, then run this again.")
	}
	return nil
}

// follow tells the lines of r to p and returns the last ones.
func follow(r io.Reader, p progress.Func) []string {
	var last []string
	in := bufio.NewScanner(r)
	for in.Scan() {
		if line := lines(in.Text()); line != "" {
			last = append(last, line)
			last = last[max(0, len(last)-lastLines):]
			p.Report(progress.Progress{Step: "install packages", Line: line})
		}
	}
	io.Copy(io.Discard, r) // a line too long for the scanner must not stop apt
	return last
}

// isDeb reports whether a file is a Debian package, which is an ar archive.
func isDeb(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 8)
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == "!<arch>\n"
}

// modulesOf finds the modules of a kernel file: beside it, or where Debian puts
// those of vmlinuz-VERSION.
func modulesOf(file string) (string, error) {
	base := filepath.Base(file)
	_, version, _ := strings.Cut(base, "-")
	for _, dir := range []string{
		filepath.Join(filepath.Dir(file), "modules"),
		filepath.Join("/lib/modules", version),
	} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() && dir != "/lib/modules" {
			return dir, nil
		}
	}
	return "", api.Errorf(api.Invalid, "take kernel %s: its modules are not there", file).
		WithRecovery("%s", fmt.Sprintf("Give a linux-image package, or put the modules into %s.", filepath.Join(filepath.Dir(file), "modules")))
}
