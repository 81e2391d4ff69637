package main

import (
	"os/exec"
	"testing"
	"time"
)

// TestVersionIsFast bounds what every command pays before it begins. The best of
// several tries is what the program takes; the rest is what else runs here.
func TestVersionIsFast(t *testing.T) {
	const tries, limit = 30, 20 * time.Millisecond
	best := time.Hour
	for range tries {
		begin := time.Now()
		if err := exec.Command("smolvm", "version").Run(); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(begin))
	}
	t.Logf("smolvm version: %v", best)
	if best > limit {
		t.Errorf("smolvm version takes %v, want at most %v: something does work before it is asked to", best, limit)
	}
}
