package egress

import (
	"net/netip"
	"time"
)

// App is what the first bytes of a TCP client are.
type App string

// The kinds of first bytes. Their zero value: not seen yet.
const (
	AppTLS   App = "tls"   // a client hello; set Request.TLS
	AppHTTP  App = "http"  // an HTTP request in clear; set Request.HTTP when it is parsed
	AppOther App = "other" // neither: nothing more will be known
)

// Request is what is known of a flow at one moment.
type Request struct {
	At       time.Time // now, for rules that expire
	Protocol string    // TCP, UDP, ICMP or DNS

	// A DNS question.
	Question string // name as asked, without escapes
	Type     string // "A", "AAAA", "TXT", ... as in the IANA registry

	// A flow. Addr is the address that will really be dialled. Names are those
	// that our resolver answered with this address, to this sandbox and none other;
	// empty: the guest used a bare address. More than one: the flow may go to any.
	Addr  netip.Addr
	Port  uint16
	Names []string

	// What TCP shows once the client has sent something.
	App  App
	TLS  *TLS
	HTTP *HTTP // of this one request; asked anew for each on a connection
}

// TLS is what a client hello shows.
type TLS struct {
	SNI string // empty: there was none
	ECH bool   // it has an encrypted hello, perhaps with another name
}

// HTTP is what the head of a request shows. Within TLS, Request.TLS is set too.
type HTTP struct {
	Method string
	Host   string // the Host header or :authority, perhaps with a port; of CONNECT the target
	Path   string // as on the wire, perhaps with a query
}

// Need says what must be shown before a decision can be made.
type Need string

// The needs.
const (
	// NeedBytes: App, and with it TLS or HTTP. The caller looks at the client's
	// first bytes and forwards none before the next decision.
	NeedBytes Need = "bytes"
	// NeedHTTP: HTTP. The caller ends the connection itself, TLS included
	// (interception), and asks for each request.
	NeedHTTP Need = "http"
)

// Code says why, for programs. Codes never change their meaning.
type Code string

// Codes of decisions.
const (
	CodeRule    Code = "rule"    // a rule was met
	CodeDefault Code = "default" // no rule was met
	CodeMore    Code = "more"    // undecided

	// No rule was met, but one nearly was.
	CodePort     Code = "port"
	CodeProtocol Code = "protocol"
	CodeExpired  Code = "expired"
	CodeAddress  Code = "address" // the name leads outside of the rule's cidrs
	CodeMethod   Code = "method"
	CodePath     Code = "path"
	CodeNotHTTP  Code = "not_http" // the rule is about HTTP requests

	// The name that counts cannot be known, or is not the one it seems to be.
	CodeBareAddress  Code = "bare_address"   // not reached by a name
	CodeAmbiguous    Code = "ambiguous_name" // its address has several names, and nothing shows which
	CodeNoSNI        Code = "no_sni"         // a client hello without a name
	CodeECH          Code = "ech"            // its name may be hidden
	CodeSNIMismatch  Code = "sni_mismatch"   // not a name of the dialled address
	CodeHostMismatch Code = "host_mismatch"  // not the name of the connection
	CodeQUIC         Code = "quic"           // HTTP/3 hides its name; clients fall back to TCP

	// Never open by accident.
	CodeDeniedAddress Code = "denied_address" // in a Range that no rule names
	CodeNameToDenied  Code = "name_to_denied" // the same, reached by a name: rebinding, or a private name
	CodeSpecialName   Code = "special_name"   // not a public name, and no rule names it

	// The request itself.
	CodeBadName    Code = "bad_name" // no name, or an address spelled as one
	CodeBadRequest Code = "bad_request"
	CodeDNSType    Code = "dns_type" // answered empty: only common types are asked for
)

// Decision is the answer to a Request.
type Decision struct {
	Action Action
	Rule   int    // index of the rule that decided; -1: none
	RuleID string // empty: none
	Code   Code
	Why    string // one sentence for a person

	// With More: what to show, and whether the caller may dial meanwhile and pass
	// on what the server says, for protocols in which it speaks first. Where it may
	// not, a client that waits for the server waits in vain.
	Need Need
	Dial bool

	Range *Range // with CodeDeniedAddress and CodeNameToDenied
}
