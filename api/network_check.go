package api

import (
	"net/netip"
	"slices"
	"time"
)

// Bounds of a Network.
const (
	MaxAsk      = time.Hour // that a flow waits for an answer: its guest gives up long before
	MaxRateKiB  = 1 << 30   // KiB a second
	MaxConns    = 1 << 16
	MaxQuotaMiB = 1 << 40
	MaxDNS      = 8 // name servers
)

// Check refuses a network that no host could give. What its policy says is checked
// by who enforces it.
func (n Network) Check() error {
	switch n.Mode {
	case "", NetworkNone, NetworkPolicy, NetworkOpen:
	default:
		return Errorf(Invalid, "network %.80q is not known", n.Mode).
			WithRecovery("Use %s, %s or %s.", NetworkNone, NetworkPolicy, NetworkOpen)
	}
	if n.Policy != nil && n.InternetSettings != nil {
		return Errorf(Invalid, "network policy and internet_settings exclude each other").WithRecovery("Leave one of the two out.")
	}
	if (n.Policy != nil || n.InternetSettings != nil) && n.Mode != "" && n.Mode != NetworkPolicy {
		return Errorf(Invalid, "network %s takes no policy", n.Mode).WithRecovery("Leave one of the two out.")
	}
	switch n.Log {
	case "", NetworkLogFlows, NetworkLogHTTP:
	default:
		return Errorf(Invalid, "network log %.80q is not known", n.Log).
			WithRecovery("Use %s or %s.", NetworkLogFlows, NetworkLogHTTP)
	}
	if err := n.checkBounds(); err != nil {
		return err
	}
	return n.checkDNS()
}

func (n Network) checkBounds() error {
	// Written so that a NaN is refused too.
	if !(n.AskSeconds >= 0 && n.AskSeconds <= MaxAsk.Seconds()) {
		return Errorf(Invalid, "time to wait for an answer is %v seconds, outside 0 to %v", n.AskSeconds, MaxAsk.Seconds())
	}
	for _, b := range []struct {
		what    string
		n, most int64
	}{
		{"network rate", int64(n.RateKiB), MaxRateKiB},
		{"number of connections", int64(n.Conns), MaxConns},
		{"network quota", n.QuotaMiB, MaxQuotaMiB},
	} {
		if b.n < 0 || b.n > b.most {
			return Errorf(Invalid, "%s is %d, outside 0 to %d", b.what, b.n, b.most)
		}
	}
	return nil
}

func (n Network) checkDNS() error {
	if len(n.DNS) > MaxDNS {
		return Errorf(Exhausted, "%d name servers are more than %d", len(n.DNS), MaxDNS)
	}
	for _, text := range n.DNS {
		if _, err := netip.ParseAddr(text); err == nil {
			continue
		}
		if ap, err := netip.ParseAddrPort(text); err != nil || ap.Port() == 0 {
			return Errorf(Invalid, "name server %.80q is no address", text).
				WithRecovery("Use ADDRESS or ADDRESS:PORT, such as 9.9.9.9 or [2620:fe::fe]:53.")
		}
	}
	return nil
}

// NetworkChange is another mode or policy for a sandbox that is there.
type NetworkChange struct {
	Mode   string  `json:"mode,omitempty"` // empty: NetworkPolicy
	Policy *Policy `json:"policy,omitempty"`
	// InternetSettings are another way to write a Policy.
	InternetSettings *InternetSettings `json:"internet_settings,omitempty"`
	// Add are rules to put in front of the policy that there is, instead of another.
	// Mode and Policy must then be empty.
	Add []Rule `json:"add,omitempty"`
}

// Apply returns n with the change made, or an error of class Invalid.
func (c NetworkChange) Apply(n Network) (Network, error) {
	if len(c.Add) == 0 {
		n.Mode, n.Policy, n.InternetSettings = c.Mode, c.Policy, c.InternetSettings
		return n, n.Check()
	}
	if c.Mode != "" || c.Policy != nil || c.InternetSettings != nil {
		return n, Errorf(Invalid, "change network: rules to add and another mode or policy exclude each other")
	}
	if n.Mode != "" && n.Mode != NetworkPolicy {
		return n, Errorf(Invalid, "change network: network %s takes no rules", n.Mode).
			WithRecovery("Use --network %s with them.", NetworkPolicy)
	}
	p := Policy{Version: 1, Default: PolicyAllow} // what holds without one
	if n.Policy != nil {
		p = *n.Policy
	}
	p.Rules = slices.Concat(c.Add, p.Rules)
	n.Policy = &p
	return n, n.Check()
}
