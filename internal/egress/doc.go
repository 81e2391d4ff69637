// Package egress decides what a sandbox may reach.
//
//	policy, err := egress.Parse(text, now)
//	d := egress.Decide(policy, host, egress.Request{
//		At: now, Protocol: egress.TCP, Addr: addr, Port: 443, Names: []string{"pypi.org"},
//	})
//	switch d.Action {
//	case egress.Allow, egress.Deny, egress.Ask: // final; d.Why says it to a person
//	case egress.More: // show what d.Need names, then ask again
//	}
//
// A Policy is an immutable value: Append, Insert and Remove return another one.
// Everything here is a pure function of its arguments. There are no sockets, no
// files, no goroutines and no clock, so a decision can be explained, replayed
// and tested without a machine.
//
// # One flow, several questions
//
// What a flow is becomes known step by step: a DNS question, the first packet,
// the first bytes, an HTTP request. At each step Decide answers with what it
// knows, and with More only where the next step can change the answer. A rule
// that needs a fact which the flow can never show (the name behind a bare
// address, the name in an encrypted hello) does not allow anything, and denies
// whatever it could deny: doubt never opens.
//
// # What is never open by accident
//
// Addresses that are not the public internet (Ranges) and names that are not
// public names are denied unless a rule names them itself, whatever the default
// says; see Range.
package egress
