package qemu

import (
	"context"
	"errors"
	"fmt"
)

// restore makes a QEMU that waits for a saved machine be that machine, paused.
// Memory comes first: devices look into it while they are loaded.
func (m *machine) restore(ctx context.Context, p plan) error {
	if fill := p.Restore.Fill; fill != nil {
		r, err := m.Region()
		if err != nil {
			return err
		}
		if err := fill(r); err != nil {
			return startError(m.name, fmt.Errorf("fill its memory: %w", err))
		}
	}
	p.reach("filled")
	err := m.load(ctx)
	p.reach("loaded")
	return err
}

// load loads the state of the devices.
func (m *machine) load(ctx context.Context) error {
	const act = "load"
	events := map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}
	if err := m.query(ctx, act, "migrate-set-capabilities", events, nil); err != nil {
		return err
	}
	// A QEMU that cannot load it says why and ends, sooner or later.
	if err := m.query(ctx, act, "migrate-incoming", map[string]any{"uri": fmt.Sprintf("fd:%d", fdState)}, nil); err != nil {
		return m.unloadable(ctx, err)
	}
	select {
	case status := <-m.loaded:
		if status == "completed" {
			return nil
		}
		return m.unloadable(ctx, errors.New("loading "+status))
	case <-m.process.ended:
		return m.unloadable(ctx, errors.New("qemu ended"))
	case <-ctx.Done():
		return startError(m.name, context.Cause(ctx))
	}
}

// unloadable makes the error of a state that QEMU does not take.
func (m *machine) unloadable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return startError(m.name, context.Cause(ctx))
	}
	m.Kill() // if it is about to end: all its words are read then
	return startError(m.name, badState(fmt.Sprintf("%v\n%s", err, m.LastWords())))
}
