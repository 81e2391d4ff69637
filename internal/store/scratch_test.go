package store

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSweepTmpSparesTheLiving(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	live, err := s.Scratch("live")
	if err != nil {
		t.Fatal(err)
	}
	dead, err := s.Scratch("dead")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dead.Path("half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dead.lock.Unlock() // what a kill leaves: the files without the lock
	if err := os.MkdirAll(filepath.Join(s.Tmp(), "stray", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	swept, err := s.SweepTmp(false)
	if err != nil || len(swept) != 2 {
		t.Fatalf("swept %v, %v; want the two without an owner", swept, err)
	}
	if _, err := os.Stat(live.Path()); err != nil {
		t.Fatalf("a living entry was swept: %v", err)
	}
	if err := live.Close(); err != nil {
		t.Fatal(err)
	}
	if err := live.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	left, err := os.ReadDir(s.Tmp())
	if err != nil || len(left) != 0 {
		t.Fatalf("left in tmp: %v, %v", left, err)
	}
}
