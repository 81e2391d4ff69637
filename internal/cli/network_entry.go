package cli

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// entryPrinter prints entries of the network's record for people, a line each.
type entryPrinter struct{ colour bool }

// Widths of columns. What is wider pushes the rest of its line.
const (
	wordWidth   = 6
	protoWidth  = 5
	flowWidth   = 5
	targetWidth = 44
)

// entryTime is UTC, so that lines compare with other logs.
const entryTime = "2006-01-02T15:04:05.000Z"

// maxArgv is how much of a command line is shown.
const maxArgv = 60

// line returns an entry as a line: when, what became of it, protocol, flow, where
// to, details, and who.
func (p entryPrinter) line(e smolvm.NetworkEntry) string {
	word, colour := entryWord(e)
	flow := ""
	if e.Flow > 0 {
		flow = "#" + strconv.FormatUint(e.Flow, 10)
	}
	when := e.Time.UTC().Format(entryTime)
	rest := fmt.Sprintf("%-*s %-*s %-*s  %s", protoWidth, clean(entryProto(e)), flowWidth, flow,
		targetWidth, clean(entryTarget(e)), clean(strings.Join(entryDetails(e), ", ")))
	word = painted(fmt.Sprintf("%-*s", wordWidth, clean(word)), colour, p.colour)
	return strings.TrimRight(when+" "+word+" "+rest, " ") + "\n"
}

// entryWord says in a word what became of an event, and its colour.
func entryWord(e smolvm.NetworkEntry) (word, colour string) {
	switch e.Kind {
	case api.EventDNS, api.EventFlow, api.EventHTTP, api.EventPort:
		return cmp.Or(string(e.Verdict), "-"), verdictColours[e.Verdict]
	case api.EventAnswer:
		return string(e.Verdict), verdictColours[e.Verdict]
	case api.EventAsk, api.EventLimit:
		return string(e.Kind), amber
	case api.EventDrop:
		return string(e.Kind), red
	case api.EventAlarm, api.EventLost, api.EventBroken:
		return strings.ToUpper(string(e.Kind)), bold + red
	case api.EventStart, api.EventStop, api.EventPolicy:
		return string(e.Kind), cyan
	}
	return string(e.Kind), ""
}

func entryProto(e smolvm.NetworkEntry) string {
	switch {
	case e.HTTP != nil:
		return cmp.Or(e.HTTP.Scheme, "http")
	case e.Kind == api.EventDNS:
		return "dns"
	}
	return e.Proto
}

// entryTarget says where an event leads.
func entryTarget(e smolvm.NetworkEntry) string {
	switch {
	case e.HTTP != nil:
		return e.HTTP.Method + " " + cmp.Or(e.HTTP.Host, e.Host) + e.HTTP.Path
	case e.DNS != nil:
		return e.Host + " " + e.DNS.Type
	case e.Kind == api.EventPort:
		return "from " + e.Address + " to port " + strconv.Itoa(e.Port)
	}
	where := cmp.Or(e.Host, e.Address)
	if e.Port > 0 {
		where = net.JoinHostPort(where, strconv.Itoa(e.Port))
	}
	if e.Host != "" && e.Address != "" && e.Host != e.Address {
		where += " (" + e.Address + ")"
	}
	return where
}

// entryDetails says the rest, the most telling first.
func entryDetails(e smolvm.NetworkEntry) []string {
	var d []string
	say := func(format string, args ...any) { d = append(d, fmt.Sprintf(format, args...)) }
	if h := e.HTTP; h != nil && h.Status > 0 {
		say("%d", h.Status)
	}
	if n := e.DNS; n != nil {
		d = append(d, dnsDetails(n)...)
	}
	if e.Kind == api.EventHTTP && e.Verdict == api.PolicyAllow || e.Kind == api.EventEnd {
		say("%s up, %s down", size(e.Sent), size(e.Received))
		say("%s", shortTime(e.DurationMS))
	}
	d = append(d, whyDetails(e)...)
	if len(e.Secrets) > 0 {
		say("secret %s", strings.Join(e.Secrets, " "))
	}
	if e.Count > 1 {
		say("%d times", e.Count)
	}
	if e.Ask != "" {
		say("question %s", e.Ask)
	}
	if e.Process != nil {
		say("by %s", processText(e.Process))
	}
	return d
}

func dnsDetails(n *api.NetworkDNS) []string {
	var d []string
	if n.Result != "" && n.Result != "NOERROR" {
		d = append(d, n.Result)
	}
	if len(n.Addresses) > 0 {
		d = append(d, "-> "+strings.Join(n.Addresses, " "))
	}
	if len(n.Removed) > 0 {
		d = append(d, "denied "+strings.Join(n.Removed, " "))
	}
	return d
}

// whyDetails says which rule decided, and where something was not simply allowed,
// why.
func whyDetails(e smolvm.NetworkEntry) []string {
	failed := e.Kind == api.EventEnd || e.Kind == api.EventHTTP && (e.HTTP == nil || e.HTTP.Status == 0 || e.HTTP.Status == http.StatusBadGateway)
	switch {
	case e.Verdict == api.PolicyDeny, failed && e.Reason != "":
	case e.Verdict != "" && e.Rule != "":
		return []string{"rule " + e.Rule}
	case e.Verdict == api.PolicyAllow && e.Code == "default":
		return []string{"default"}
	}
	if why := strings.TrimSuffix(cmp.Or(e.Reason, e.Code), "."); why != "" {
		return []string{why}
	}
	return nil
}

func processText(p *api.NetworkProcess) string {
	argv := strings.Join(p.Argv, " ")
	if len(argv) > maxArgv {
		argv = strings.ToValidUTF8(argv[:maxArgv], "") + "..."
	}
	return strings.TrimSpace(fmt.Sprintf("%s [%d]", argv, p.PID))
}

// shortTime prints milliseconds in the unit that fits.
func shortTime(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
