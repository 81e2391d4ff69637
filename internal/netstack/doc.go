// Package netstack is the network of one sandbox: a user-mode router at the other
// end of the guest's only network card, which asks before it lets anything out.
//
// Use it as a library in the process that owns the machine:
//
//	ours, theirs := socketpair() // theirs: QEMU's -netdev stream,addr.type=fd
//	n, err := netstack.New(ours, netstack.Config{Decider: policy, Recorder: log})
//	defer n.Close()
//	conn, err := n.DialGuest(ctx, netstack.TCP, 8080)
//
// # The wire
//
// The stream carries Ethernet frames, each with its length in four bytes, the
// highest first. Every sandbox has the same addresses (see DefaultGuest4 and its
// neighbours), for each has a Network of its own. The guest is configured with a
// fixed address, the gateway as its default route and name server, and the MTU;
// there is no DHCP and there are no router advertisements.
//
// A frame is looked at before the stack sees it: one that is not from the guest's
// card and address, is malformed or too large, goes to an address that cannot be
// on a wire (loopback, multicast, IPv4 in an IPv6 disguise), or carries another
// protocol than TCP, UDP and echo is dropped and counted by its DropReason. Behind
// that gVisor's stack plays the whole world: it takes packets for any address.
//
// # Decisions
//
// Nothing is dialled without a Decision. Network.dial takes one and is the only
// place that makes connections for flows; it refuses all that are not Allow, and
// the zero Decision denies. A Decider may answer Wait, and the flow is then held
// without an answer to the guest until there is one. Serve hands the guest's end
// of a TCP flow to a Handler, for those that must see what the guest sends (the
// name in a TLS greeting, an HTTP request) before they can decide; it gets a
// function to dial with, which takes a Decision again, and Relay for the rest. Its
// guest is answered at once, or with DialFirst after the host has connected.
//
// # TCP
//
// The guest's first segment is answered after the decision and after the host has
// connected, so the guest sees what the host saw: a refused port is refused, a
// host that is silent stays silent, an unreachable one is unreachable. Each
// direction ends by itself; a reset on one side is a reset on the other. A side
// that does not read fills its buffers and stops the other: a flow holds no more
// than its two windows and its copy buffers. Closed flows keep their place until
// the guest has taken all, or for Limits.Linger.
//
// # UDP and echo
//
// A flow is what two ports say to each other until they are silent for
// Limits.UDPIdle. A denied one swallows what follows for two seconds, so a flood
// asks once. Echo to the gateway is answered by the stack, echo to outside by the
// kernel's unprivileged ICMP sockets; where the host forbids those, the guest hears
// that it is prohibited.
//
// # DNS
//
// Port 53 of every address, UDP and TCP, is answered here. Only names that the
// Decider lets resolve are asked for, so a denied zone cannot carry data out. Of
// an answer we keep the aliases from the asked name on and the records of the
// asked type at their end; addresses that the Decider denies to the name are taken
// out. What is left is remembered as the name's addresses for its TTL and a grace
// time, and a later flow to one of them carries the name in Flow.Names. A, AAAA,
// CNAME, TXT, MX, SRV and PTR are served; HTTPS and SVCB questions get an empty
// answer, all others NOTIMP. A denied name does not exist (NXDOMAIN), with the
// reason as an extended error. Upstream are the host's name servers from
// resolv.conf, for the system's resolver tells no TTLs and would show the guest
// the host's own files of names; Servers makes others.
//
// A guest that is saved and goes on elsewhere believes in the addresses it was
// given: Network.Names and Config.Names carry them over.
//
// # The host's loopback
//
// The host's loopback is closed like everything else, and a guest that is told of
// 127.0.0.1 would talk to itself. So the gateway's address stands for it: answers
// that lead to 127.0.0.1 or ::1, where policy lets them, name the gateway instead,
// and a flow to the gateway is decided as one to 127.0.0.1 or ::1 (Flow.Dst).
//
// # Bounds
//
// Limits bounds the number of everything a guest can make us hold; frames, DNS
// messages, names, answers and queues have bounds of their own. What is beyond a
// bound is dropped, which the guest sees as a slow network, and counted.
// Limits.RateBytes makes flows wait instead, in turn; Limits.QuotaBytes ends them.
package netstack
