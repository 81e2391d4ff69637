// Package intercept stands between a guest and a server and looks at each HTTP
// request before it goes on.
//
//	ca := intercept.NewCA(path) // one for each sandbox
//	env, notes, err := ca.Install(ctx, guestClient)
//	in, err := intercept.New(intercept.Config{CA: ca})
//	err = in.Serve(ctx, intercept.Replay(seen, conn), intercept.Flow{
//		TLS: true, Name: "pypi.org", Port: 443,
//		Dial:   func(ctx context.Context, name string) (net.Conn, error) { ... },
//		Decide: func(ctx context.Context, r *intercept.Request) intercept.Answer { ... },
//	})
//
// Serve ends the guest's connection itself, TLS included, with a certificate of
// the sandbox's own authority, which the guest's agent has installed (CA.Install).
// It speaks HTTP/1.1, and HTTP/2 within TLS, with the guest, and whatever the
// server prefers with the server; WebSocket, trailers, informational responses and
// bodies of any length pass through, streaming both ways.
//
// # What a decision is worth
//
// Decide is asked for each request, also for the second on a connection, before
// anything is dialled for it. What goes to the server is written anew from what
// Decide saw: method, host and path are those bytes, framing is ours. So a request
// that two readers could take differently reaches the server as the one that was
// decided, or not at all. Within TLS a request for another host than the flow's is
// answered 421 whatever Decide says, and the connection's name is the only one that
// is dialled. CONNECT and switches to other protocols than WebSocket carry what
// nobody looks at: they need Answer.Opaque.
//
// # The server's identity
//
// Servers are verified by the host's authorities for the flow's name. Where that
// fails nothing of the request is sent, and the guest gets a page of status 502
// that says why. There is no way to turn this off.
//
// # Bounds
//
// Heads are bounded, bodies are never held: a flow holds its copy buffers and what
// HTTP/2's windows allow. A guest that does not read stops the server.
package intercept
