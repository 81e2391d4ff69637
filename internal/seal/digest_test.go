package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/api"
)

// content is four chunks: data, zeros, data that begins late, and a short one.
func content() []byte {
	b := make([]byte, 3*chunk+1000)
	r := rand.NewChaCha8([32]byte{4})
	r.Read(b[:chunk])
	r.Read(b[2*chunk+block+5:])
	return b
}

// sparse writes content with holes wherever it can.
func sparse(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for at := 0; at < len(content); at += page {
		p := content[at:min(at+page, len(content))]
		if allZero(p) {
			continue
		}
		if _, err := f.WriteAt(p, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	sum, err := Digest(path)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum[:])
}

// TestDigestStays keeps what was saved by earlier versions valid.
func TestDigestStays(t *testing.T) {
	for _, c := range []struct {
		name, content, want string
	}{
		{"empty", "", "e01be2da670f2baac3bf3be20d33d2209dcc209196336afe0ca52d41d64a2b04"},
		{"short", "abc", "1f5b81d655aaee729a4c42314abeb03df22c75c61f03271aa3dbbce77576c36f"},
		{"four chunks", string(content()), "d1e4267f851e8e9259e17bf0637b69505b40d17a9d89b8e88973bb98e171b176"},
	} {
		if got := digestOf(t, write(t, c.content)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestDigestOfHoles(t *testing.T) {
	full := content()
	want := digestOf(t, write(t, string(full)))
	path := sparse(t, full)
	if got := digestOf(t, path); got != want {
		t.Error("holes and written zeros have different digests")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, chunk+chunk/2); err != nil {
		t.Fatal(err)
	}
	if digestOf(t, path) == want {
		t.Error("a one in a hole is not seen")
	}
	if _, err := f.WriteAt([]byte{0}, chunk+chunk/2); err != nil {
		t.Fatal(err)
	}
	if digestOf(t, path) != want {
		t.Error("a written zero counts")
	}
}

func TestDigestSeesChanges(t *testing.T) {
	full := content()
	seen := map[string]string{digestOf(t, write(t, string(full))): "the original"}
	differs := func(name string, b []byte) {
		t.Helper()
		sum := digestOf(t, write(t, string(b)))
		if before, ok := seen[sum]; ok {
			t.Errorf("%s has the digest of %s", name, before)
		}
		seen[sum] = name
	}
	for _, at := range []int{0, block - 1, block, chunk - 1, chunk, 2*chunk - 1, 2 * chunk, 3*chunk - 1, 3 * chunk, len(full) - 1} {
		for bit := range 8 {
			b := bytes.Clone(full)
			b[at] ^= 1 << bit
			differs("a flipped bit", b)
		}
	}
	differs("one byte less", full[:len(full)-1])
	differs("one zero more", append(bytes.Clone(full), 0))
	differs("whole chunks", full[:3*chunk])
	differs("a chunk of zeros more", append(bytes.Clone(full[:3*chunk]), make([]byte, chunk)...))
	differs("chunks in another order", bytes.Join([][]byte{full[chunk : 2*chunk], full[:chunk], full[2*chunk:]}, nil))
	differs("nothing", nil)
	differs("a zero", []byte{0})
	differs("zeros", make([]byte, chunk))
}

func TestDigestOfHugeHole(t *testing.T) {
	path := write(t, "x")
	if err := os.Truncate(path, 8<<40); err != nil {
		t.Fatal(err)
	}
	empty := write(t, "")
	if err := os.Truncate(empty, 8<<40); err != nil {
		t.Fatal(err)
	}
	if digestOf(t, path) == digestOf(t, empty) {
		t.Error("one byte in a huge hole is not seen")
	}
}

func TestDigestRefuses(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir(), "/dev/zero"} {
		if _, err := Digest(path); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func FuzzDigest(f *testing.F) {
	f.Add([]byte("abc"), uint32(1), byte(1))
	f.Add(make([]byte, 5000), uint32(4096), byte(0x80))
	f.Fuzz(func(t *testing.T, b []byte, at uint32, flip byte) {
		path := sparse(t, b)
		before := digestOf(t, path)
		if before != digestOf(t, write(t, string(b))) {
			t.Error("holes and written zeros have different digests")
		}
		if len(b) == 0 || flip == 0 {
			return
		}
		b[int(at)%len(b)] ^= flip
		if digestOf(t, sparse(t, b)) == before {
			t.Error("a change is not seen")
		}
	})
}

func BenchmarkDigest(b *testing.B) {
	data := make([]byte, 100<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	path := write(b, string(data))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Digest(path); err != nil {
			b.Fatal(err)
		}
	}
}
