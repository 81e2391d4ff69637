// Package secret keeps the values of a sandbox's secrets out of its guest.
//
//	v := secret.NewVault(key)
//	err := v.Set(api.Secret{Name: "API_KEY", Hosts: []string{"api.example.com"}, Value: "..."})
//	env := v.Env()                         // API_KEY=smolvm_secret_..., for the guest's processes
//	if v.For("api.example.com") { ... }    // its requests have to be looked at
//	err = v.Rewrite(&secret.Request{...}, func(f secret.Finding) { ... })
//	for _, name := range v.Find(bytes) { ... } // what leaves some other way
//
// A guest holds placeholders. Rewrite is called for every request that is looked
// at, whatever its host, after it was allowed. In one that goes to a host of the
// secret, over TLS with a server that was verified for that very name, placeholders
// become values; in all others they travel as they are, and that is a finding.
//
// # Where values are put
//
//   - In the values of headers, those of Authorization: Basic within its base64
//     too. They stand there as they are.
//   - In the query of the path, with percent-encoding.
//   - In the body: percent-encoded in a form, as JSON writes strings in JSON, and
//     as they are elsewhere. A body of known length is held to tell its new length,
//     so one longer than MaxHeld is left alone, and its placeholders are findings. One
//     of unknown length is changed while it streams. A compressed body is left alone,
//     and nobody sees what is in it; so are headers' names, trailers, the frames
//     of a WebSocket, and the path before its query.
//
// What a server sends back is not looked at: one that echoes a secret tells it to
// the guest. A secret is as safe as its hosts.
package secret
