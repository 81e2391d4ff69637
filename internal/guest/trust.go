package guest

import (
	"context"

	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Trust has the guest's programs believe in a certificate authority, beside those
// that they know, in the place of the one of the last Trust.
type Trust struct {
	Cert []byte // its certificate, in PEM
	Hash string // of its subject, by which OpenSSL looks for it: 8 hex digits
	// Roots are authorities for a guest that has none at all, in PEM; Java is a
	// PKCS #12 store of those and Cert. Empty: they come when Trusted asks for them.
	Roots []byte
	Java  []byte
}

// Trusted is the reply to Trust.
type Trusted struct {
	Cert   string // file with the certificate alone; empty: the guest trusts nobody new yet
	Bundle string // file with all authorities
	Java   string // file of Java's; empty: there is no Java
	// NeedRoots and NeedJava ask for the same again, with these.
	NeedRoots, NeedJava bool
	Failed              []string // stores that could not be changed, for the log
}

func (m *Trust) Wire(c *wire.Coder) {
	c.Bytes(&m.Cert)
	c.String(&m.Hash)
	c.Bytes(&m.Roots)
	c.Bytes(&m.Java)
}

func (m *Trusted) Wire(c *wire.Coder) {
	c.String(&m.Cert)
	c.String(&m.Bundle)
	c.String(&m.Java)
	c.Bool(&m.NeedRoots)
	c.Bool(&m.NeedJava)
	c.Strings(&m.Failed)
}

// Trust has the guest's programs believe in an authority.
func (c Client) Trust(ctx context.Context, t Trust) (Trusted, error) {
	var r Trusted
	err := c.call(ctx, OpTrust, &t, &r)
	return r, err
}
