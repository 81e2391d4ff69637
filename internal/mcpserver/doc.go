// Package mcpserver gives sandboxes to models by the Model Context Protocol
// (modelcontextprotocol.io, revisions 2024-11-05 to 2026-07-28), over stdio and over
// streamable HTTP:
//
//	s := mcpserver.New(mcpserver.Options{Client: client})
//	defer s.Close()
//	err := s.Serve(ctx, os.Stdin, os.Stdout)  // one session
//	mux.Handle("/mcp", s.Handler(who))        // many
//
// Each session has its own sandboxes: the first tool that needs one makes it, and
// they are removed at the session's end, however that comes, but those that were
// asked to be kept. Tools are plain structs in and out, over package smolvm; what a
// model may do beyond its sandboxes is up to who starts the server.
package mcpserver
