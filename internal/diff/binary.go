package diff

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
)

// binary writes what a file is to hold as git's binary patches do: compressed, in
// lines of base 85. Without the way back, which git apply does not need.
func (p *patcher) binary(data []byte) {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write(data)
	w.Close()
	fmt.Fprintf(p.w, "GIT binary patch\nliteral %d\n", len(data))
	for z.Len() > 0 {
		line := z.Next(binaryLine)
		p.w.WriteByte(lineLength(len(line)))
		p.w.Write(base85(line))
		p.w.WriteByte('\n')
	}
	p.w.WriteByte('\n')
}

// binaryLine is how many bytes go into one line.
const binaryLine = 52

// lineLength is the letter that says how many bytes a line has.
func lineLength(n int) byte {
	if n <= 26 {
		return 'A' + byte(n) - 1
	}
	return 'a' + byte(n) - 27
}

// digits85 are the digits of base 85 in git, which are not those of others.
const digits85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"

// base85 writes each 4 bytes as 5 digits; missing bytes count as zero.
func base85(b []byte) []byte {
	out := make([]byte, 0, (len(b)+3)/4*5)
	for len(b) > 0 {
		var group [4]byte
		b = b[copy(group[:], b):]
		v := binary.BigEndian.Uint32(group[:])
		var d [5]byte
		for i := len(d) - 1; i >= 0; i-- {
			d[i] = digits85[v%85]
			v /= 85
		}
		out = append(out, d[:]...)
	}
	return out
}
