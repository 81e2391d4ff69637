package agentbin

import (
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
