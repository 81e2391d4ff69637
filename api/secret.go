package api

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Limits of secrets.
const (
	MaxSecrets     = 32
	MaxSecretHosts = 32
	MaxSecretBytes = 8 << 10 // of a value: most servers take no longer head
)

// SecretStatus describes a secret of a sandbox, without its value.
type SecretStatus struct {
	Name  string   `json:"name"`
	Hosts []string `json:"hosts"`
	// Placeholder is what stands for the value in the guest.
	Placeholder string `json:"placeholder"`
	// Ready says that the value is here. It is lost when the sandbox's supervisor
	// ends, and has to be set again.
	Ready bool `json:"ready"`
}

var secretNameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`) })

// CheckSecretName refuses what cannot name a secret.
func CheckSecretName(name string) error {
	if !secretNameRE().MatchString(name) {
		return Errorf(Invalid, "secret: %.80q cannot name an environment variable", name).
			WithRecovery("Use letters, digits and underscores, such as API_KEY.")
	}
	return nil
}

// Check refuses what cannot be a secret. It does not show the value.
func (s Secret) Check() error {
	if err := CheckSecretName(s.Name); err != nil {
		return err
	}
	if len(s.Hosts) == 0 {
		return Errorf(Invalid, "secret %s: it names no host, and so could never be used", s.Name).
			WithRecovery("Say where it goes: --secret %s=api.example.com.", s.Name)
	}
	if len(s.Hosts) > MaxSecretHosts {
		return Errorf(Exhausted, "secret %s: %d hosts are more than %d", s.Name, len(s.Hosts), MaxSecretHosts)
	}
	for _, h := range s.Hosts {
		if err := checkSecretHost(s.Name, h); err != nil {
			return err
		}
	}
	return s.checkValue()
}

func (s Secret) checkValue() error {
	if len(s.Value) > MaxSecretBytes {
		return Errorf(Exhausted, "secret %s: its value has %d bytes, more than %d", s.Name, len(s.Value), MaxSecretBytes)
	}
	// A line break in a header would begin another header.
	control := strings.IndexFunc(s.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
	if control >= 0 || !utf8.ValidString(s.Value) {
		return Errorf(Invalid, "secret %s: its value is not one line of text", s.Name)
	}
	if s.Value != strings.TrimSpace(s.Value) {
		return Errorf(Invalid, "secret %s: its value begins or ends in white space", s.Name)
	}
	return nil
}

var hostLabelRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`) })

func checkSecretHost(secret, host string) error {
	name, below := strings.CutPrefix(strings.ToLower(host), "*.")
	labels := strings.Split(name, ".")
	_, isAddr := netip.ParseAddr(name)
	switch {
	case isAddr == nil:
		return Errorf(Invalid, "secret %s: %q is an address, and no name that a server could be verified for", secret, host)
	case len(name) > 253, slices.ContainsFunc(labels, func(l string) bool { return !hostLabelRE().MatchString(l) }):
		return Errorf(Invalid, "secret %s: %.80q is no host name", secret, host).
			WithRecovery("Use exact names such as api.example.com, or *.example.com for all below.")
	case below && len(labels) < 2:
		return Errorf(Invalid, "secret %s: %q takes in too much", secret, host)
	}
	return nil
}

// checkSecrets checks the secrets of a spec.
func (s Spec) checkSecrets() error {
	if len(s.Secrets) > MaxSecrets {
		return Errorf(Exhausted, "%d secrets are more than %d", len(s.Secrets), MaxSecrets)
	}
	seen := map[string]bool{}
	for _, secret := range s.Secrets {
		if err := secret.Check(); err != nil {
			return err
		}
		if seen[secret.Name] {
			return Errorf(Invalid, "secret %s is given twice", secret.Name)
		}
		seen[secret.Name] = true
		if _, ok := s.Env[secret.Name]; ok {
			return Errorf(Invalid, "%s is a secret and an environment variable", secret.Name).WithRecovery("Leave out one of the two.")
		}
	}
	return nil
}
