package api

import (
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// NamePattern is what a sandbox's name looks like.
const NamePattern = `[a-z0-9][a-z0-9-]{0,62}`

var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^` + NamePattern + `$`) })

// CheckName refuses what cannot be a sandbox's name.
func CheckName(name string) error {
	if !nameRE().MatchString(name) {
		return Errorf(Invalid, "name %.80q is not valid", name).
			WithRecovery("Use 1 to 63 lower-case letters, digits and dashes, not starting with a dash.")
	}
	return nil
}

// WithDefaults returns s with every empty field that has a default filled in.
func (s Spec) WithDefaults() Spec {
	if s.Image == "" {
		s.Image = DefaultImage
	}
	if s.CPUs == 0 {
		s.CPUs = DefaultCPUs
	}
	if s.MemoryMiB == 0 {
		s.MemoryMiB = DefaultMemoryMiB
	}
	if s.DiskMiB == 0 {
		s.DiskMiB = DefaultDiskMiB
	}
	if s.Accel == "" {
		s.Accel = AccelAuto
	}
	return s
}

// Check refuses a spec that no host could honour. It expects defaults filled in.
func (s Spec) Check() error {
	if s.Name != "" {
		if err := CheckName(s.Name); err != nil {
			return err
		}
	}
	if len(s.Image) > MaxImageRef {
		return Errorf(Invalid, "image %.80q is longer than %d bytes", s.Image, MaxImageRef)
	}
	for _, r := range []struct {
		what          string
		n, low, high  int
		unit, example string
	}{
		{"cpus", s.CPUs, 1, MaxCPUs, "", "--cpus 2"},
		{"memory", s.MemoryMiB, MinMemoryMiB, MaxMemoryMiB, " MiB", "--memory 1024"},
		{"disk", s.DiskMiB, MinDiskMiB, MaxDiskMiB, " MiB", "--disk 4096"},
	} {
		if r.n < r.low || r.n > r.high {
			return Errorf(Invalid, "%s is %d%s, outside %d to %d%s", r.what, r.n, r.unit, r.low, r.high, r.unit).
				WithRecovery("For example: %s.", r.example)
		}
	}
	for _, t := range []struct {
		what    string
		seconds float64
	}{{"time to live", s.TTLSeconds}, {"idle timeout", s.IdleTimeoutSeconds}} {
		// Written so that a NaN is refused too.
		if !(t.seconds >= 0 && t.seconds <= MaxTTL.Seconds()) {
			return Errorf(Invalid, "%s of %v seconds is outside 0 to %v", t.what, t.seconds, MaxTTL.Seconds())
		}
	}
	if _, err := ParseIsolation(string(s.MinIsolation)); err != nil {
		return err
	}
	if _, err := ParseAccel(string(s.Accel)); err != nil {
		return err
	}
	if err := s.checkSaved(); err != nil {
		return err
	}
	if err := CheckEnv(s.Env); err != nil {
		return err
	}
	if err := s.Network.Check(); err != nil {
		return err
	}
	if err := checkPorts(s.Ports); err != nil {
		return err
	}
	if err := s.checkSecrets(); err != nil {
		return err
	}
	if err := s.checkMounts(); err != nil {
		return err
	}
	return checkLabels(s.Labels)
}

// checkSaved checks what has to do with saving and continuing.
func (s Spec) checkSaved() error {
	if s.FromSnapshot != "" {
		if err := CheckName(s.FromSnapshot); err != nil {
			return Errorf(Invalid, "snapshot: %w", err)
		}
	}
	switch s.IdleAction {
	case "", IdleStop, IdleHibernate, IdleRemove:
	default:
		return Errorf(Invalid, "idle action %.80q is not known", s.IdleAction).WithRecovery("Use stop, hibernate or remove.")
	}
	if s.IdleAction == IdleHibernate && s.Ephemeral {
		return Errorf(Invalid, "an ephemeral sandbox cannot hibernate: it ends with its client").
			WithRecovery("Leave out one of the two.")
	}
	switch s.Checkpoint {
	case CheckpointNever, CheckpointEachCommand:
		return nil
	}
	return Errorf(Invalid, "checkpoint %.80q is not known", s.Checkpoint).WithRecovery("Use %s.", CheckpointEachCommand)
}

// TTL is TTLSeconds as a duration.
func (s Spec) TTL() time.Duration { return seconds(s.TTLSeconds) }

// IdleTimeout is IdleTimeoutSeconds as a duration.
func (s Spec) IdleTimeout() time.Duration { return seconds(s.IdleTimeoutSeconds) }

func seconds(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }

// CheckEnv refuses names and values that cannot stand in an environment.
func CheckEnv(env map[string]string) error {
	if len(env) > MaxEnv {
		return Errorf(Exhausted, "%d environment variables are more than %d", len(env), MaxEnv)
	}
	total := 0
	for k, v := range env {
		if err := CheckEnvName(k); err != nil {
			return err
		}
		if strings.ContainsRune(v, 0) {
			return Errorf(Invalid, "value of environment variable %q holds a NUL byte", k)
		}
		// JSON would change it silently on its way.
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return Errorf(Invalid, "environment variable %q is not UTF-8 text", k).
				WithRecovery("Put other bytes into a file in the sandbox.")
		}
		total += len(k) + len(v)
	}
	if total > MaxEnvBytes {
		return Errorf(Exhausted, "environment of %d bytes is larger than %d", total, MaxEnvBytes).
			WithRecovery("Put large values into a file in the sandbox.")
	}
	return nil
}

// CheckEnvName refuses what cannot name an environment variable.
func CheckEnvName(k string) error {
	if k == "" || len(k) > 256 || strings.ContainsAny(k, "=\x00\n") {
		return Errorf(Invalid, "environment variable name %.80q is not valid", k).
			WithRecovery("Use KEY=VALUE.")
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return Errorf(Exhausted, "%d labels are more than %d", len(labels), MaxLabels)
	}
	for k, v := range labels {
		if k == "" || len(k) > 128 || len(v) > 1024 || !utf8.ValidString(k+v) || strings.ContainsAny(k, "=\x00\n") {
			return Errorf(Invalid, "label %.80q is not valid", k).
				WithRecovery("Use KEY=VALUE with a key of up to 128 bytes and a value of up to 1024.")
		}
	}
	return nil
}
