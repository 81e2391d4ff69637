// Package network is the network of one sandbox in its supervisor: a policy,
// and everything that makes it hold.
//
//	n, err := network.Start(conn, network.Config{Spec: spec.Network, Owner: owner, Log: record})
//	defer n.Close()
//	n.SetPolicy(policy)                     // at any time; flows that it forbids end
//	for _, p := range n.Pending() { ... }   // flows that wait for a person
//	n.Answer(api.FlowAnswer{ID: p.ID, Allow: true, For: api.AnswerSandbox})
//
// conn carries the frames of the guest's only card; package netstack makes flows
// and DNS questions of them, and asks here about each. Package egress decides.
// What lies between is this package:
//
//   - A flow whose first packet does not tell enough is served: its first bytes
//     are looked at, and nothing of them goes out before there is a decision.
//   - A flow that must be asked about is held, shown by Pending and Watch, and
//     goes on or ends with the answer. Flows that ask the same share a question.
//   - HTTP that a rule, a secret or the record wants to see is handed to package
//     intercept, which asks anew for each request.
//   - Whatever is decided is recorded, with rule, code and reason, and with the
//     guest's process where it can be found.
//
// A flow that is denied looks to the guest as the kernel's own refusals do. One
// that speaks HTTP in clear, or TLS, is told more: a page that says which rule
// it was and how to ask, or an alert.
package network
