package mcpserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// labelMade marks what is made by this server; what is kept is found again by it.
const (
	labelMade  = "made-by"
	labelValue = "mcp"
)

// where names the sandbox of a call; it is in the arguments of most tools.
type where struct {
	Sandbox string `json:"sandbox,omitempty" jsonschema:"name or id; default: the session's own sandbox, made on first use"`
}

// ran says in a result where something was done.
type ran struct {
	Sandbox string `json:"sandbox" jsonschema:"name"`
	Note    string `json:"note,omitempty" jsonschema:"what was done to the sandbox before"`
}

func (r ran) said() string {
	if r.Note == "" {
		return ""
	}
	return "[" + r.Note + "]\n"
}

// look finds a sandbox, as it is. Without a reference it is the default one, which
// must be there.
func (c *call) look(ctx context.Context, ref string) (*smolvm.Sandbox, smolvm.Info, error) {
	if ref == "" {
		if ref = c.standard(); ref == "" {
			return nil, smolvm.Info{}, api.Errorf(api.NotFound, "there is no default sandbox yet").
				WithRecovery("Name a sandbox of list_sandboxes, or make one with create_sandbox or run_command.")
		}
	}
	sb, err := c.s.o.Client.Get(ctx, ref)
	if err != nil {
		return nil, smolvm.Info{}, noSandbox(ref, err)
	}
	info, err := sb.Info(ctx)
	if err != nil {
		return nil, smolvm.Info{}, noSandbox(ref, err)
	}
	if !c.mayUse(info) {
		return nil, smolvm.Info{}, api.Errorf(api.NotFound, "sandbox %q is not one of those that this session may use", ref).
			WithRecovery("Use one of list_sandboxes. Others are reached only where the server was started with --all.")
	}
	return sb, info, nil
}

func noSandbox(ref string, err error) error {
	if !errors.Is(err, api.ErrNotFound) {
		return err
	}
	return api.Errorf(api.NotFound, "there is no sandbox %q (any more)", ref).
		WithRecovery("Call list_sandboxes, or leave \"sandbox\" out to use a new default sandbox.")
}

func (c *call) mayUse(info smolvm.Info) bool {
	if _, own := c.has(info.ID); own || c.s.o.All {
		return true
	}
	return info.Labels[labelMade] == labelValue && !info.Ephemeral
}

// running finds a sandbox that can work: the default one is made where there is
// none, and one that stands still is started.
func (c *call) running(ctx context.Context, ref string) (*smolvm.Sandbox, ran, error) {
	if ref == "" {
		return c.runningStandard(ctx)
	}
	sb, info, err := c.look(ctx, ref)
	if err != nil {
		return nil, ran{}, err
	}
	r := ran{Sandbox: info.Name}
	switch info.State {
	case api.StateStopped, api.StateError:
		if !c.caller.may(apikey.Manage) {
			return nil, r, scopeError("start_sandbox", apikey.Manage)
		}
		c.tell("starting sandbox %s", info.Name)
		if err := sb.Start(ctx); err != nil {
			return nil, r, err
		}
		r.Note = fmt.Sprintf("sandbox %s was %s and has been started again; its processes are gone, its files are there", info.Name, info.State)
	case api.StatePaused:
		return nil, r, api.Errorf(api.Conflict, "sandbox %q is paused", info.Name).
			WithRecovery("A person paused it: ask, or use another sandbox.")
	}
	return sb, r, nil
}

// runningStandard is running for the default sandbox.
func (c *call) runningStandard(ctx context.Context) (*smolvm.Sandbox, ran, error) {
	c.making.Lock() // several calls may come at once; one makes it
	defer c.making.Unlock()
	var lost string
	if id := c.standard(); id != "" {
		sb, r, err := c.running(ctx, id)
		if !errors.Is(err, api.ErrNotFound) {
			return sb, r, err
		}
		c.forget(id) // removed by others, or by its time to live
		lost = " in place of the one that is gone"
	}
	if !c.caller.may(apikey.Manage) {
		return nil, ran{}, scopeError("create_sandbox", apikey.Manage)
	}
	sb, info, err := c.create(ctx, createIn{})
	if err != nil {
		return nil, ran{}, err
	}
	return sb, ran{info.Name, fmt.Sprintf("sandbox %s was made%s", info.Name, lost)}, nil
}
