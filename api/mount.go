package api

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxMounts bounds the host folders of one sandbox.
const MaxMounts = 32

// maxMountPath bounds each path of a Mount, in bytes: with what stands before it, it
// names a directory of the guest's disk, which has 255.
const maxMountPath = 120

// Target is where the folder is in the sandbox.
func (m Mount) Target() string {
	if m.Guest == "" {
		return m.Host
	}
	return m.Guest
}

// reserved are directories of a guest that a folder would break.
var reserved = [...]string{"/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot"}

// checkMounts refuses folders that no guest could have.
func (s Spec) checkMounts() error {
	if len(s.Mounts) > MaxMounts {
		return Errorf(Exhausted, "%d mounts are more than %d", len(s.Mounts), MaxMounts)
	}
	var seen []string
	for _, m := range s.Mounts {
		if err := m.check(); err != nil {
			return err
		}
		for _, other := range seen {
			if other == m.Target() {
				return Errorf(Invalid, "mount at %q: another folder is there already", other)
			}
			if under(other, m.Target()) || under(m.Target(), other) {
				return Errorf(Invalid, "mount at %q: it and %q are one below the other", m.Target(), other)
			}
		}
		seen = append(seen, m.Target())
	}
	return nil
}

func (m Mount) check() error {
	for what, p := range map[string]string{"folder of the host": m.Host, "path in the sandbox": m.Target()} {
		if !path.IsAbs(p) || path.Clean(p) != p || len(p) > maxPathOf(what) || !utf8.ValidString(p) || strings.ContainsAny(p, "\x00\n\\,") {
			return Errorf(Invalid, "mount %.200q: the %s is no absolute, clean path", p, what).
				WithRecovery("Use /HOST/FOLDER:/GUEST/PATH, without commas, backslashes and \"..\", the guest's not longer than %d bytes.", maxMountPath)
		}
	}
	t := m.Target()
	if t == "/" || slices.Contains(reserved[:], t) || under("/proc", t) || under("/sys", t) || under("/dev", t) {
		return Errorf(Invalid, "mount at %q: the sandbox needs what is there", t).
			WithRecovery("Choose a path such as /work.")
	}
	return nil
}

func maxPathOf(what string) int {
	if what == "path in the sandbox" {
		return maxMountPath
	}
	return 4095
}

// under reports whether path is below dir.
func under(dir, path string) bool { return strings.HasPrefix(path, dir+"/") }
