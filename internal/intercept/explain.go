package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"

	"github.com/smolvm/smolvm/api"
)

// explain says to the guest why there is no response of a server.
func explain(err error, name string) (status int, why, help string) {
	if why := certificateFault(err); why != "" {
		return http.StatusBadGateway, "The server's certificate is not valid for " + name + ": " + why + ". Nothing was sent to it.",
			"smolvm verifies servers in the sandbox's place, by the authorities of its host."
	}
	var alert tls.AlertError
	var record tls.RecordHeaderError
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &record):
		return http.StatusBadGateway, "The server " + name + " does not speak TLS on this port. Nothing was sent to it.", ""
	case errors.As(err, &alert), errors.As(err, &op) && op.Op == "remote error":
		return http.StatusBadGateway, "The server " + name + " ended the TLS handshake: " + err.Error() + ".",
			"One that wants a certificate of its client cannot be reached through interception."
	case errors.Is(err, api.ErrDenied), errors.Is(err, errSwitched), errors.Is(err, errPath):
		return http.StatusBadGateway, "The request was not passed on: " + err.Error() + ".", api.AsError(err).Recovery
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, api.ErrTimeout), errors.As(err, &timeout) && timeout.Timeout():
		return http.StatusGatewayTimeout, "The server " + name + " did not answer in time: " + err.Error() + ".", ""
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		// With TLS 1.3 a server refuses a client without a certificate when the request
		// may be under way, and then this is all there is to see (RFC 8446 section 4.4.2.4).
		return http.StatusBadGateway, "The server " + name + " ended the connection without a response.",
			"With TLS it may want a certificate of its client, which cannot be given through interception."
	}
	return http.StatusBadGateway, "The server " + name + " could not be asked: " + err.Error() + ".", api.AsError(err).Recovery
}

// certificateFault says what is wrong with a certificate; empty: it is something
// else.
func certificateFault(err error) string {
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var any *tls.CertificateVerificationError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "it has expired, or is not valid yet (" + invalid.Detail + ")"
	case errors.As(err, &host):
		return "it is for another name (" + host.Error() + ")"
	case errors.As(err, &unknown):
		return "its issuer is unknown (" + unknown.Error() + ")"
	case errors.As(err, &any):
		return any.Err.Error()
	case errors.As(err, &invalid):
		return invalid.Error()
	}
	return ""
}
