package api

import "time"

// PolicyAction is what a rule does with a flow.
type PolicyAction string

// The actions of rules.
const (
	PolicyAllow PolicyAction = "allow"
	PolicyDeny  PolicyAction = "deny"
	PolicyAsk   PolicyAction = "ask" // hold it and ask a person
)

// What to do where a TLS client hello has an encrypted part that may hold
// another name than the one to be seen.
const (
	ECHDeny  = "deny"       // rules with domains do not allow it
	ECHOuter = "outer-name" // believe the visible name
)

// Policy says what may leave a sandbox, as people write it and as it is kept: the
// one form for YAML, JSON and Go. Its zero value denies everything.
type Policy struct {
	Version int          `yaml:"version" json:"version" required:"false"` // 1; 0 means 1
	Default PolicyAction `yaml:"default" json:"default" required:"false"` // where no rule decides; empty: deny
	ECH     string       `yaml:"ech,omitempty" json:"ech,omitempty"`      // ECHDeny or ECHOuter; empty: ECHDeny
	Rules   []Rule       `yaml:"rules,omitempty" json:"rules,omitempty"`
}

// Rule says what to do with flows that meet all its conditions. The first rule
// that is met decides. A condition left out is always met.
type Rule struct {
	ID     string       `yaml:"id,omitempty" json:"id,omitempty"` // unique; empty: one is given
	Action PolicyAction `yaml:"action" json:"action"`

	// Destination. Domains are exact names, *.suffix for all names below, or *
	// for any public name. Groups are lists of domains that come with smolvm; they
	// and Domains are alternatives. CIDRs are prefixes or addresses. With Domains
	// or Groups, CIDRs must hold as well: they say where such a name may lead.
	Domains []string `yaml:"domains,omitempty,flow" json:"domains,omitempty"`
	Groups  []string `yaml:"groups,omitempty,flow" json:"groups,omitempty"`
	CIDRs   []string `yaml:"cidrs,omitempty,flow" json:"cidrs,omitempty"`

	// Ports are numbers and ranges ("443", "8000-8100"). Empty: all, and for a
	// group its own.
	Ports []string `yaml:"ports,omitempty,flow" json:"ports,omitempty"`

	// Protocols are tcp, udp, icmp. Empty: all, but for a rule that allows domains
	// tcp, the only one in which a name can be checked.
	Protocols []string `yaml:"protocols,omitempty,flow" json:"protocols,omitempty"`

	// Methods and Paths are of HTTP requests. Either needs Domains or Groups. A
	// path means itself and all below it, with = in front itself alone, or is a glob
	// with * and **.
	Methods []string `yaml:"methods,omitempty,flow" json:"methods,omitempty"`
	Paths   []string `yaml:"paths,omitempty,flow" json:"paths,omitempty"`

	// Expires ends the rule; zero: never. TTL is read once, by the parser, and becomes
	// Expires.
	Expires time.Time `yaml:"expires,omitempty" json:"expires,omitzero"`
	Note    string    `yaml:"note,omitempty" json:"note,omitempty"` // for people
}

// InternetSettings are network settings as the Python original takes them; they
// stand for a Policy. Nil lists mean what "*" means: all.
type InternetSettings struct {
	AllowedDomains     []string `yaml:"allowed_domains" json:"allowed_domains" required:"false"` // names, *.suffix, addresses, URLs
	AllowedHTTPMethods []string `yaml:"allowed_http_methods" json:"allowed_http_methods" required:"false"`
}

// Live reports whether a rule has not expired.
func (r Rule) Live(at time.Time) bool { return r.Expires.IsZero() || at.Before(r.Expires) }
