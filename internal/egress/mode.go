package egress

import (
	"fmt"

	"github.com/smolvm/smolvm/api"
)

// Modes of a sandbox's network.
const (
	ModeNone   = api.NetworkNone
	ModePolicy = api.NetworkPolicy // without a policy, the public internet
	ModeOpen   = api.NetworkOpen
)

// Mode returns the policy of a mode: of ModePolicy the one that holds where the
// user gave none.
//
// Open is as open as a policy can be by words. Loopback, the host itself and
// cloud metadata stay closed, because they lie in smaller ranges that it does
// not name.
func Mode(name string) (*Policy, error) {
	switch name {
	case ModeNone:
		return &Policy{doc: Document{Version: 1, Default: Deny}}, nil
	case ModePolicy, "":
		return &Policy{doc: Document{Version: 1, Default: Allow}}, nil
	case ModeOpen:
		return New(openDocument())
	}
	return nil, api.Errorf(api.Invalid, "network %q: there are %s, %s and %s", name, ModeNone, ModePolicy, ModeOpen)
}

func openDocument() Document {
	d := Document{Version: 1, Default: Allow}
	d.Rules = append(d.Rules, Rule{
		ID: "open-addresses", Action: Allow,
		CIDRs: []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7"},
		Note:  "private networks, carrier-grade NAT, link-local",
	})
	var names []string
	for _, n := range []string{"local", "home.arpa", "internal", "corp", "home", "lan", "localdomain", "intranet", "private"} {
		names = append(names, fmt.Sprintf("*.%s", n))
	}
	d.Rules = append(d.Rules, Rule{ID: "open-names", Action: Allow, Domains: names, Note: "names of such networks"})
	return d
}
