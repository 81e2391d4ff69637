package diff

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

const (
	// maxText bounds each side of a text that is compared line by line, in bytes.
	maxText = 1 << 20
	// maxPatched bounds a file in a patch, which is held in memory, in bytes.
	maxPatched = 64 << 20
)

func (c Change) file(s Side) File {
	if s == Before {
		return c.Before
	}
	return c.After
}

// content reads what a path holds, which is the target of a symbolic link and
// nothing for what is neither. It has at most limit bytes, else class Exhausted.
func (c Change) content(s Side, open Open, limit int64) ([]byte, error) {
	f := c.file(s)
	switch f.Type {
	case guest.TypeSymlink:
		return []byte(f.Target), nil
	case guest.TypeFile:
	default:
		return nil, nil
	}
	if f.Size > limit {
		return nil, tooLarge(c.Path, limit)
	}
	if f.Size == 0 {
		return nil, nil
	}
	r, err := open(s, c.Path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = tooLarge(c.Path, limit)
	}
	return b, err
}

func tooLarge(path string, limit int64) error {
	return api.Errorf(api.Exhausted, "read %q: it has more than %d bytes", path, limit)
}

// sameContent reports whether a file holds the same in both states.
func sameContent(c Change, open Open) (bool, error) {
	a, err := open(Before, c.Path)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := open(After, c.Path)
	if err != nil {
		return false, err
	}
	defer b.Close()
	var bufs [2][32 << 10]byte
	for {
		n, aerr := io.ReadFull(a, bufs[0][:])
		m, berr := io.ReadFull(b, bufs[1][:])
		if err := errors.Join(failure(aerr), failure(berr)); err != nil {
			return false, err
		}
		if !bytes.Equal(bufs[0][:n], bufs[1][:m]) {
			return false, nil
		}
		if aerr != nil {
			return true, nil
		}
	}
}

// failure is an error of io.ReadFull that is not the end.
func failure(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// isText reports whether people read it by lines.
func isText(b []byte) bool {
	return len(b) <= maxText && bytes.IndexByte(b, 0) < 0 && utf8.Valid(b)
}

// quote writes a name as git does: in quotes where a byte of it would mislead.
func quote(name string) string {
	plain := func(c byte) bool { return c >= ' ' && c < 0x7f && c != '"' && c != '\\' }
	i := 0
	for i < len(name) && plain(name[i]) {
		i++
	}
	if i == len(name) {
		return name
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(name) {
		c := name[i]
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('\\')
		if j := strings.IndexByte("\a\b\t\n\v\f\r\"\\", c); j >= 0 {
			b.WriteByte("abtnvfr\"\\"[j])
			continue
		}
		b.Write([]byte{'0' + c>>6, '0' + c>>3&7, '0' + c&7})
	}
	b.WriteByte('"')
	return b.String()
}
