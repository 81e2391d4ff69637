package wire

// Raw is a message that is packed already; a relay passes requests on with it.
// It cannot be unpacked into.
type Raw []byte

// Wire appends the bytes as they are.
func (r Raw) Wire(c *Coder) {
	if c.unpack {
		c.fail()
		return
	}
	c.b = append(c.b, r...)
}
