package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// redrawEvery bounds how often the line is drawn again: fast enough to look
// alive, slow enough not to cost anything.
const redrawEvery = 100 * time.Millisecond

// progress tells people what takes long: on a terminal one line that is drawn
// again and again, elsewhere one line a step. The zero value says nothing.
type progress struct {
	w    io.Writer // nil: say nothing
	term bool

	mu    sync.Mutex
	step  string
	drawn time.Time
	shown bool // a line stands on the terminal
}

// tell is the SDK's Progress.
func (p *progress) tell(step string, done, total int64) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := step != p.step
	p.step = step
	if !p.term {
		if fresh {
			fmt.Fprintf(p.w, "%s\n", clean(step))
		}
		return
	}
	now := time.Now()
	if !fresh && now.Sub(p.drawn) < redrawEvery && done != total {
		return
	}
	p.drawn, p.shown = now, true
	fmt.Fprintf(p.w, "\r\x1b[K%s%s", clean(step), amount(done, total))
}

// clear takes the line off the terminal.
func (p *progress) clear() {
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
