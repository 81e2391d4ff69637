package api

import "fmt"

// Isolation says what stands between a guest and its host.
type Isolation string

const (
	// Hardware: guest kernel, KVM, and QEMU as an unprivileged process without network.
	Hardware Isolation = "hardware"
	// Emulated: guest kernel and QEMU TCG as an unprivileged process without
	// network. QEMU's authors do not call TCG a security boundary.
	Emulated Isolation = "emulated"
)

// AtLeast reports whether i is as strong as min. An empty min asks for nothing.
func (i Isolation) AtLeast(min Isolation) bool {
	return min == "" || i == min || i == Hardware
}

// ParseIsolation reads a level. The empty string means no demand.
func ParseIsolation(s string) (Isolation, error) {
	switch i := Isolation(s); i {
	case "", Hardware, Emulated:
		return i, nil
	}
	return "", Errorf(Invalid, "isolation level %q is not known", s).WithRecovery("Use %s or %s.", Hardware, Emulated)
}

// Accel names how guest instructions are executed.
type Accel string

const (
	AccelAuto Accel = "auto" // KVM where it can really be used, else TCG
	AccelKVM  Accel = "kvm"  // hardware virtualisation; refused where it cannot be had
	AccelTCG  Accel = "tcg"  // software emulation; works everywhere
)

// ParseAccel reads an accelerator. The empty string means AccelAuto.
func ParseAccel(s string) (Accel, error) {
	switch a := Accel(s); a {
	case "":
		return AccelAuto, nil
	case AccelAuto, AccelKVM, AccelTCG:
		return a, nil
	}
	return "", Errorf(Invalid, "accelerator %q is not known", s).
		WithRecovery("Use %s, %s or %s.", AccelAuto, AccelKVM, AccelTCG)
}

// Isolation returns the level that a resolved accelerator gives.
func (a Accel) Isolation() Isolation {
	switch a {
	case AccelKVM:
		return Hardware
	case AccelTCG:
		return Emulated
	}
	panic(fmt.Sprintf("api: accelerator %q is not resolved", a))
}
