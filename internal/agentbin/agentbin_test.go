package agentbin

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestBytesFromEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(path, []byte("agent"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvAgent, path)
	b, err := Bytes()
	if err != nil || string(b) != "agent" {
		t.Fatalf("Bytes() = %q, %v", b, err)
	}
}

func TestBytesFromMissingFile(t *testing.T) {
	t.Setenv(EnvAgent, filepath.Join(t.TempDir(), "nothing"))
	if _, err := Bytes(); !errors.Is(err, api.ErrUnavailable) {
		t.Fatalf("Bytes() = %v, want class unavailable", err)
	}
}

func TestBytesFromOversizedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxAgent+1); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvAgent, path)
	if _, err := Bytes(); !errors.Is(err, api.ErrInvalid) {
		t.Fatalf("Bytes() = %v, want class invalid", err)
	}
}

func TestDigestIsOfBytes(t *testing.T) {
	for _, path := range []string{"", filepath.Join(t.TempDir(), "agent")} {
		t.Setenv(EnvAgent, path)
		if path != "" {
			if err := os.WriteFile(path, []byte("agent"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b, berr := Bytes()
		sum, err := Digest()
		if (err == nil) != (berr == nil) {
			t.Errorf("agent %q: Digest says %v, Bytes %v", path, err, berr)
		}
		if err == nil && sum != sha256.Sum256(b) {
			t.Errorf("agent %q: Digest is not that of Bytes", path)
		}
	}
}
