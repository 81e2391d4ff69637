// Package archtest tests rules about the code itself: who may import whom, that
// packages and exported names are explained, that nothing grows without being
// noticed, and that only a main decides the exit status.
//
//	go test ./internal/archtest
//
// A rule that is in the way is changed here, in the open, with its reason.
package archtest
