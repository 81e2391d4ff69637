package cli

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
)

// hostile is what a guest's user could call something.
const hostile = "rm\x1b[2J\r\n\u202e -rf\t/"

// step makes a step that came after parent; negative: after none.
func step(n, parent int, label string, exit int, made time.Time) smolvm.Step {
	s := smolvm.Step{Step: n, Label: label, Created: made, PauseMS: 12.6, Bytes: 3 << 20}
	if parent >= 0 {
		s.Parent = &parent
	}
	if exit >= 0 {
		s.Exit = &exit
	}
	return s
}

func TestHistory(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(seconds int) time.Time { return now.Add(-time.Duration(seconds) * time.Second) }
	for name, h := range map[string]smolvm.History{
		"none": {Head: -1},
		"line": {Head: 2, Steps: []smolvm.Step{
			step(0, -1, "install", 0, at(7200)), step(1, 0, hostile, 127, at(90)), step(2, 1, "", -1, at(5)),
		}},
		"branches": {Head: 6, Steps: []smolvm.Step{
			step(0, -1, "a", 0, at(80)), step(1, 0, "b", 0, at(70)), step(2, 1, "side", 1, at(60)),
			step(3, 2, "side goes on", 0, at(50)), step(4, 1, "c", 0, at(40)), step(5, 2, "side of the side", 0, at(30)),
			step(6, 4, "head", 0, at(20)), step(7, 6, "after the head", 0, at(10)), step(8, 6, "after it too", 0, at(1)),
		}},
		// Half of it is gone, and what is left says nonsense.
		"broken": {Head: 9, Steps: []smolvm.Step{
			step(3, 2, "an orphan", 0, at(3)), step(4, 4, "its own child", 0, at(2)), step(5, 6, "in a", 0, at(1)), step(6, 5, "circle", 0, at(0)),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			printHistory(&b, h, now)
			if strings.ContainsAny(b.String(), "\x1b\t\r\u202e") {
				t.Errorf("what a guest wrote reached the terminal: %q", b.String())
			}
			if n := strings.Count(b.String(), "\n"); n != len(h.Steps)+1 {
				t.Errorf("%d lines for %d steps", n, len(h.Steps))
			}
			golden(t, filepath.Join("testdata", "history-"+name+".txt"), []byte(b.String()))
		})
	}
}

// TestLongHistoryIsNotWide has a sandbox that was rewound again and again.
func TestLongHistoryIsNotWide(t *testing.T) {
	h := smolvm.History{Head: 1999}
	for i := range 2000 {
		h.Steps = append(h.Steps, step(i, max(i-1-i%3, -1), "x", 0, time.Now()))
	}
	for _, line := range newTree(h).lines() {
		if n := len([]rune(line.drawn)); n > 40 {
			t.Fatalf("drawn %d wide: %s", n, line.drawn)
		}
	}
}
