// Package netlog is the record of a sandbox's network: what it asked for, where
// it went, what was decided and why. Use it so:
//
//	w, err := netlog.Open(dir, netlog.Options{Key: key})
//	defer w.Close()
//	w.Record(netlog.Entry{Kind: api.EventFlow, Verdict: api.PolicyDeny, Host: "example.com", ...})
//
//	err := netlog.Read(ctx, dir, netlog.ReadOptions{Follow: true}, func(e netlog.Entry) error { ... })
//	report, err := netlog.Verify(dir, key)
//
// # The files
//
// dir holds files of JSON lines, numbered from 000001.jsonl; a new one is begun
// where one is full, and the oldest is removed where there are too many. Each
// line is an Entry with its number and the SHA-256 of the line before, also over
// files, so that a line cannot be changed, moved or taken out without the next
// one telling. The file head tells number and hash of the last line, and where
// the first that is kept begins; it is authenticated with the installation's key
// (package seal). So the end cannot be cut off either.
//
// What this shows is that somebody without the key touched the files. It is no
// defence against the user whose installation it is.
//
// # What a guest can do to it
//
// Guests choose names, paths and command lines. Each is cut to a bound, and what
// does not print is escaped, so a line is safe to show and at most MaxLine bytes.
// A guest that makes many events pushes old ones out; it cannot make the record
// larger than Options says.
package netlog
