// Package gateway serves the SDK over HTTP: on a Unix socket for this user, and on TCP
// for who holds a key.
//
//	s := gateway.New(gateway.Options{Client: client, Keys: keys, Log: log})
//	err := s.Serve(ctx, listener)
//
// It has no logic of its own: what a route does, the SDK does. Routes are described by
// their Go types, from which the OpenAPI document is made. A file for each subject
// registers its routes in a method that routes.go calls:
//
//	func (s *Server) thingRoutes() {
//		route(s, op{ID: "list-things", Method: "GET", Path: "/v1/things", Scope: apikey.Read, Summary: "List things"}, s.listThings)
//		stream(s, op{...}, s.followThings)
//	}
package gateway
