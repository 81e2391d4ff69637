package cli

import (
	"fmt"
	"slices"

	"github.com/smolvm/smolvm"
)

// tree is a history to be drawn. The branch that leads to the head goes straight
// down, and else the one that goes on last; only others step aside, so that a long
// history is not a wide one.
type tree struct {
	head     int
	steps    map[int]smolvm.Step
	children map[int][]int
	roots    []int
	trunk    map[int]bool // the head and what it came after
}

func newTree(h smolvm.History) *tree {
	t := &tree{head: h.Head, steps: map[int]smolvm.Step{}, children: map[int][]int{}, trunk: map[int]bool{}}
	for _, s := range h.Steps {
		t.steps[s.Step] = s
	}
	for _, s := range h.Steps {
		if p, ok := t.parent(s.Step); ok {
			t.children[p] = append(t.children[p], s.Step)
		} else {
			t.roots = append(t.roots, s.Step)
		}
	}
	for at, ok := h.Head, true; ok; at, ok = t.parent(at) {
		t.trunk[at] = true
	}
	return t
}

// parent returns the step that a step came after. It is an earlier one: nothing
// that was read can make a circle.
func (t *tree) parent(step int) (int, bool) {
	p := t.steps[step].Parent
	if p == nil || *p >= step {
		return 0, false
	}
	_, ok := t.steps[*p]
	return *p, ok
}

// treeLine is a step as it is drawn.
type treeLine struct {
	drawn string
	step  smolvm.Step
}

func (t *tree) lines() []treeLine {
	var out []treeLine
	for _, r := range t.roots {
		out = t.draw(out, r, "", "")
	}
	return out
}

// draw draws a step and all after it. The first line begins with lead, the others
// with indent.
func (t *tree) draw(out []treeLine, step int, lead, indent string) []treeLine {
	for {
		out = append(out, treeLine{lead + t.mark(step), t.steps[step]})
		next := t.children[step]
		if len(next) == 0 {
			return out
		}
		straight := t.straight(next)
		for _, c := range next {
			if c != straight {
				out = t.draw(out, c, indent+"├─", indent+"│ ")
			}
		}
		step, lead = straight, indent
	}
}

// straight chooses the child that is drawn in its parent's column.
func (t *tree) straight(children []int) int {
	if i := slices.IndexFunc(children, func(c int) bool { return t.trunk[c] }); i >= 0 {
		return children[i]
	}
	return children[len(children)-1]
}

func (t *tree) mark(step int) string {
	if step == t.head {
		return fmt.Sprintf("● %d head", step)
	}
	return fmt.Sprintf("○ %d", step)
}
