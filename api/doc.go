// Package api holds what every door of smolvm shares: the words of the wire
// (specs, states, results) and the classes of errors.
//
// The SDK, the CLI, the supervisor's socket and every later gateway speak these
// types and nothing else, so that what one can say all can say. The package
// imports only the standard library and does no input or output.
package api
