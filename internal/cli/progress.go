package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/smolvm/smolvm/internal/image/progress"
)

// redrawEvery bounds how often the line is drawn again: fast enough to look
// alive, slow enough not to cost anything.
const redrawEvery = 100 * time.Millisecond

// meter tells people what takes long: on a terminal one line that is drawn
// again and again, elsewhere one line a step. The zero value says nothing.
type meter struct {
	w    io.Writer // nil: say nothing
	term bool

	mu    sync.Mutex
	step  string
	drawn time.Time
	shown bool // a line stands on the terminal
}

// tell is the SDK's Progress.
func (p *meter) tell(step string, done, total int64) {
	p.report(progress.Progress{Step: step, Done: done, Total: total})
}

// report is the image store's and setup's. A tool's own output is shown on a
// terminal only.
func (p *meter) report(s progress.Progress) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := s.Step != p.step
	p.step = s.Step
	if !p.term {
		if fresh {
			fmt.Fprintf(p.w, "%s\n", clean(s.Step))
		}
		return
	}
	now := time.Now()
	if !fresh && now.Sub(p.drawn) < redrawEvery && s.Done != s.Total {
		return
	}
	p.drawn, p.shown = now, true
	fmt.Fprintf(p.w, "\r\x1b[K%s%s%s", clean(s.Step), amount(s.Done, s.Total), brief(s.Line))
}

// clear takes the line off the terminal.
func (p *meter) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

func amount(done, total int64) string {
	switch {
	case total > 0:
		return fmt.Sprintf("  %3d%%  %s of %s", 100*done/total, size(done), size(total))
	case done > 0:
		return "  " + size(done)
	}
	return ""
}

// maxLineShown keeps the line of a tool from wrapping: a line that wraps cannot
// be drawn over.
const maxLineShown = 50

func brief(line string) string {
	if line == "" {
		return ""
	}
	line = clean(line)
	if utf8.RuneCountInString(line) > maxLineShown {
		line = string([]rune(line)[:maxLineShown-1]) + "…"
	}
	return "  " + line
}
