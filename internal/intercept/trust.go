package intercept

import (
	"context"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// hostBundles are where a host keeps its authorities, where SSL_CERT_FILE does
// not say it.
var hostBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// maxRoots bounds the host's authorities that are given to a guest, in bytes:
// with a Java store of the same they must fit in one message.
const maxRoots = guest.MaxMessage / 4

// Install has the programs of a guest trust the authority, and returns the
// variables, KEY=VALUE, by which those find it that do not ask the system. They are
// for every process that is started from then on. A guest without any authorities
// gets the host's. notes are for the log.
func (c *CA) Install(ctx context.Context, g guest.Client) (env, notes []string, err error) {
	s, err := c.open(time.Now())
	if err != nil {
		return nil, nil, err
	}
	hash, err := subjectHash(s.cert)
	if err != nil {
		return nil, nil, api.Errorf(api.Internal, "hash the authority's name: %w", err)
	}
	t := guest.Trust{Cert: s.pem(), Hash: hash}
	r, err := g.Trust(ctx, t)
	if err == nil && (r.NeedRoots || r.NeedJava) {
		roots := hostRoots()
		if len(roots) == 0 {
			notes = append(notes, "this host has no authorities to give to the guest")
		}
		t.Roots = append(roots, '\n') // never empty: then the guest would ask again
		if r.NeedJava {
			t.Java, err = s.javaStore(roots)
		}
		if err != nil {
			return nil, nil, api.Errorf(api.Internal, "make a store of authorities for Java: %w", err)
		}
		r, err = g.Trust(ctx, t)
	}
	if err != nil {
		return nil, nil, api.Errorf(api.ClassOf(err), "have the guest trust the sandbox's authority: %w", err)
	}
	return environment(r), append(notes, r.Failed...), nil
}

// environment returns the variables by which programs find authorities.
func environment(r guest.Trusted) []string {
	var env []string
	for _, name := range []string{
		"SSL_CERT_FILE", // OpenSSL, Go, Ruby, and much else
		"CURL_CA_BUNDLE",
		"REQUESTS_CA_BUNDLE", // Python requests has authorities of its own
		"PIP_CERT",
		"GIT_SSL_CAINFO",
		"AWS_CA_BUNDLE",
		"CARGO_HTTP_CAINFO",
		"NIX_SSL_CERT_FILE",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
		"HTTPLIB2_CA_CERTS",
	} {
		env = append(env, name+"="+r.Bundle)
	}
	// These add to what the program has.
	env = append(env, "NODE_EXTRA_CA_CERTS="+r.Cert, "DENO_CERT="+r.Cert)
	if r.Java != "" {
		env = append(env, "JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore="+r.Java+
			" -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword="+pkcs12.DefaultPassword)
	}
	return env
}

// hostRoots returns the host's authorities in PEM, nothing else that stands
// between them; empty: there are none.
func hostRoots() []byte {
	files := hostBundles
	if f := os.Getenv("SSL_CERT_FILE"); f != "" { // as crypto/x509 does
		files = []string{f}
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil || len(text) > 4*maxRoots {
			continue
		}
		var out []byte
		for _, c := range parseRoots(text) {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: c.Raw})...)
		}
		if len(out) > 0 && len(out) <= maxRoots {
			return out
		}
	}
	return nil
}

func parseRoots(text []byte) []*x509.Certificate {
	var list []*x509.Certificate
	for {
		b, rest := pem.Decode(text)
		if b == nil {
			return list
		}
		text = rest
		if c, err := x509.ParseCertificate(b.Bytes); err == nil && b.Type == pemCert {
			list = append(list, c)
		}
	}
}

// javaStore makes a store of authorities as Java from version 8 on reads it. It is
// no secret, so the password is the one that all have.
func (s *signer) javaStore(roots []byte) ([]byte, error) {
	return pkcs12.LegacyDES.EncodeTrustStore(append(parseRoots(roots), s.cert), pkcs12.DefaultPassword)
}

// subjectHash is OpenSSL's hash of a certificate's subject, by which it looks for
// an authority in a directory: SHA-1 of the name in its canonical form (lower case,
// UTF-8, spaces folded, without the outer sequence), the first four bytes, the
// lowest first (X509_NAME_hash_ex(3)). Our names have no spaces to fold.
func subjectHash(cert *x509.Certificate) (string, error) {
	var canonical []byte
	for _, n := range cert.Subject.ToRDNSequence() {
		var set []asn1.RawValue
		for _, a := range n {
			text, _ := a.Value.(string)
			pair, err := asn1.Marshal(struct {
				Type  asn1.ObjectIdentifier
				Value string `asn1:"utf8"`
			}{a.Type, strings.ToLower(text)})
			if err != nil {
				return "", err
			}
			set = append(set, asn1.RawValue{FullBytes: pair})
		}
		b, err := asn1.MarshalWithParams(set, "set")
		if err != nil {
			return "", err
		}
		canonical = append(canonical, b...)
	}
	sum := sha1.Sum(canonical)
	slices.Reverse(sum[:4])
	return hex.EncodeToString(sum[:4]), nil
}
