package decompress

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func TestNewReader(t *testing.T) {
	text := strings.Repeat("some text ", 10_000)
	for format, open := range map[Format]func(io.Writer) (io.WriteCloser, error){
		Gzip: func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		Zstd: func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		XZ:   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		None: func(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil },
	} {
		var packed bytes.Buffer
		w, err := open(&packed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, got, err := NewReader(bytes.NewReader(packed.Bytes()))
		if err != nil || got != format {
			t.Errorf("%s: found %s, %v", format, got, err)
			continue
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != text {
			t.Errorf("%s: %d bytes, %v", format, len(b), err)
		}
		r.Close()
		if format == None {
			continue
		}
		if r, _, err := NewReader(bytes.NewReader(packed.Bytes()[:packed.Len()/2])); err == nil {
			if _, err = io.ReadAll(r); err == nil {
				t.Errorf("%s: a stream that is cut off was taken", format)
			}
		}
	}
	for _, short := range []string{"", "a", "\x1f"} {
		r, _, err := NewReader(strings.NewReader(short))
		if err != nil {
			t.Errorf("%q: %v", short, err)
			continue
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != short {
			t.Errorf("%q: %q, %v", short, b, err)
		}
	}
}

type nopCloser struct{ io.Writer }

// Close does nothing.
func (nopCloser) Close() error { return nil }
