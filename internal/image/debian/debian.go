// Package debian makes a small Debian root file system from the host's own
// package sources.
//
//	err := debian.Build(ctx, debian.Options{Tar: path, Dir: dir})
//
// It needs mmdebstrap and apt, as any user, and changes nothing on the host.
// Apt verifies the archive's signature.
package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
)

// Suite is the Debian release of the image: Debian 12.
const Suite = "bookworm"

// User is the unprivileged user in the image, and UserID its number.
const (
	User   = "agent"
	UserID = 1000
)

// Options say where to build.
type Options struct {
	Tar      string        // the tar to write; it must not exist
	Dir      string        // private directory for what is half made
	Progress progress.Func // may be nil
}

// Available reports whether the tools for a build are here: nil, or an error of
// class Unavailable with code missing_dependency.
func Available() error {
	for _, tool := range []string{"mmdebstrap", "apt-get"} {
		if _, err := exec.LookPath(tool); err != nil {
			return api.Errorf(api.Unavailable, "build Debian image: %s is not installed", tool).
				WithCode("missing_dependency").WithRecovery("Install mmdebstrap, or run smolvm setup.")
		}
	}
	return nil
}

// packages are what an agent expects to find. Each costs every user disk and
// download: npm, which brings hundreds of packages in Debian, is left out.
func packages() []string {
	return []string{
		"bash", "ca-certificates", "curl", "git", "iproute2", "nodejs", "procps",
		"python3", "python3-pip", "python3-venv",
	}
}

// slim is run when the essential packages are in: it tells dpkg to leave out
// what nobody reads in a sandbox. It stays in the image, so that what is
// installed later is as small. Licences stay. Given to mmdebstrap as options the
// same patterns would send the essential packages through a slow filter.
const slim = `set -eu
cat > "$1/etc/dpkg/dpkg.cfg.d/slim" <<EOF
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/bash-completion/completions/*
# Character sets that only iconv(3) wants.
path-exclude=/usr/lib/*-linux-gnu/gconv/*
# Servers and mail of git, 2 MB each.
path-exclude=/usr/lib/git-core/git-daemon
path-exclude=/usr/lib/git-core/git-http-backend
path-exclude=/usr/lib/git-core/git-http-push
path-exclude=/usr/lib/git-core/git-imap-send
path-exclude=/usr/lib/git-core/scalar
path-exclude=/usr/bin/scalar
# A sandbox's disk is not worth a sync for every file.
force-unsafe-io
EOF
cd "$1/usr"
rm -rf share/man/* share/info/* share/locale/* share/lintian share/bash-completion/completions/* lib/*-linux-gnu/gconv/*
find share/doc -type f ! -name copyright -delete
`

// finish is run in the finished root. It takes out what is this host's and what
// differs between two builds. The first argument is the root. It must not touch
// /tmp: mmdebstrap keeps its configuration of apt there, and without it the
// clean-up that follows would work on the host's own package lists.
const finish = `set -eu
cd "$1"
chroot . useradd --create-home --shell /bin/bash --uid %[2]d %[1]s
chroot . ldconfig
echo sandbox > etc/hostname
printf '127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n' > etc/hosts
: > etc/resolv.conf
chmod 644 etc/hostname etc/hosts etc/resolv.conf
printf 'LANG=C.UTF-8\n' > etc/default/locale
# Debian forbids pip outside of virtual environments to protect the system; here
# the system is the sandbox's own and thrown away.
rm -f usr/lib/python3*/EXTERNALLY-MANAGED
rm -rf var/log/* var/cache/debconf/*-old var/lib/dpkg/*-old var/cache/ldconfig etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -f etc/*- etc/.pwd.lock
`

// Build makes the tar. Class Unavailable where a tool is missing or the archive
// cannot be reached. After an error the tar is not there.
func Build(ctx context.Context, o Options) error {
	if err := Available(); err != nil {
		return err
	}
	args := []string{
		"--variant=minbase", "--format=tar", "--include=" + strings.Join(packages(), ","),
		"--dpkgopt=force-unsafe-io", "--essential-hook=" + slim,
	}
	sources, opts := hostApt(ctx)
	for _, a := range append(opts, `Acquire::Languages "none"`, `APT::Install-Recommends "false"`) {
		args = append(args, "--aptopt="+a)
	}
	args = append(args, "--customize-hook="+fmt.Sprintf(finish, User, UserID), Suite, o.Tar)
	args = append(args, sources...)
	if err := run(ctx, o, args); err != nil {
		os.Remove(o.Tar)
		return err
	}
	return nil
}

// stopTime is how long a plain user's mmdebstrap may take to clean up when it is
// told to end.
const stopTime = 20 * time.Second

func run(ctx context.Context, o Options, args []string) error {
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	lines := &lines{report: o.Progress}
	cmd.Stdout, cmd.Stderr = lines, lines
	cmd.WaitDelay = stopTime
	contain(cmd, o.Dir)
	runtime.LockOSThread() // the signal at our death comes when this thread ends
	defer runtime.UnlockOSThread()
	o.Progress.Report(progress.Progress{Step: step})
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("build Debian image: %w", ctx.Err())
		}
		return api.Errorf(api.Unavailable, "build Debian image: mmdebstrap: %w\n%s", err, lines.tail()).
			WithRecovery("%s", recovery())
	}
	o.Progress.Report(progress.Progress{Step: step, Done: 1, Total: 1})
	return nil
}

// contain sees to it that nothing of mmdebstrap outlives it or us. As root it
// mounts things in its directory and is slow to end: it gets process and mount
// namespaces of its own, so that one kill ends all its processes and with them
// the mounts. A plain user's makes such namespaces itself and needs a signal to
// its group.
func contain(cmd *exec.Cmd, dir string) {
	if os.Geteuid() == 0 {
		cmd.Env = append(cmd.Env, "TMPDIR="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:   syscall.CLONE_NEWPID,
			Unshareflags: syscall.CLONE_NEWNS, // this one also makes its mounts private
			Pdeathsig:    syscall.SIGKILL,
		}
		return
	}
	// No TMPDIR: its helpers have other user ids, which cannot enter our directory.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
}

func recovery() string {
	if os.Geteuid() == 0 {
		return "Check the host's package sources with: apt-get update."
	}
	return "As a plain user it needs the package uidmap and an entry in /etc/subuid; root needs neither."
}

// hostApt returns the host's sources of the suite, as lines of a sources list,
// and the host's options for reaching them. Where the host has none of this
// suite (another distribution, or no lists yet) mmdebstrap takes its own default.
func hostApt(ctx context.Context) (sources, opts []string) {
	const format = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", format, "Created-By: Packages").Output()
	if err == nil {
		sources = parseTargets(string(out))
	}
	// A host behind a mirror of a fixed date has to say that its age is no fault.
	for _, key := range []string{"Acquire::Check-Valid-Until", "Acquire::Check-Date"} {
		out, err := exec.CommandContext(ctx, "apt-config", "dump", "--format", "%f \"%v\"%n", key).Output()
		if v := strings.TrimSpace(string(out)); err == nil && v != "" {
			opts = append(opts, v)
		}
	}
	return sources, opts
}

// parseTargets turns apt's list of indexes into lines of a sources list.
// Only Debian's own for our suite count: what else the host uses is not for the image.
func parseTargets(out string) []string {
	var sources []string
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 4 || f[0] != "Debian" || f[3] != "main" {
			continue
		}
		if f[2] == Suite || f[2] == Suite+"-updates" || f[2] == Suite+"-security" {
			sources = append(sources, fmt.Sprintf("deb %s %s %s", f[1], f[2], f[3]))
		}
	}
	return sources
}

const step = "build base image"

// keptLines is how much of the tool's output an error shows.
const keptLines = 12

// lines reports a tool's output line by line and keeps its end.
type lines struct {
	report progress.Func
	part   []byte
	last   []string
}

// maxLine bounds a line that is kept.
const maxLine = 500

func (l *lines) Write(b []byte) (int, error) {
	l.part = append(l.part, b...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok {
			break
		}
		l.add(strings.TrimSpace(string(line)))
		l.part = rest
	}
	if len(l.part) > maxLine {
		l.part = l.part[:0] // a progress bar without line ends
	}
	return len(b), nil
}

func (l *lines) add(line string) {
	// mmdebstrap's own lines begin with a letter for their kind; others' text
	// goes into errors only.
	if text, ok := strings.CutPrefix(line, "I: "); ok && !strings.Contains(text, "hook in shell") {
		l.report.Report(progress.Progress{Step: step, Line: text})
	}
	l.last = append(l.last, line[:min(len(line), maxLine)])
	if len(l.last) > keptLines {
		l.last = l.last[1:]
	}
}

func (l *lines) tail() string { return strings.Join(l.last, "\n") }
