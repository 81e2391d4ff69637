package remote

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
)

// Create makes a sandbox and waits until it runs.
func (c *Client) Create(ctx context.Context, spec api.Spec) (*Handle, error) {
	var l *lease
	if spec.Ephemeral {
		var err error
		if l, err = c.newLease(ctx, 1); err != nil {
			return nil, err
		}
	}
	list, err := c.makeSandboxes(ctx, "create sandbox", path("sandboxes"), spec, l)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// makeSandboxes posts in for an act that makes sandboxes, and takes them back where ctx
// has ended meanwhile. On an error the lease has ended.
func (c *Client) makeSandboxes(ctx context.Context, act, path string, in any, l *lease) ([]*Handle, error) {
	out, err := c.make(ctx, act, path, in, l)
	if out.Sandbox != nil {
		out.Sandboxes = append(out.Sandboxes, *out.Sandbox)
	}
	if err == nil && len(out.Sandboxes) == 0 {
		err = c.missing("what it made")
	}
	list := make([]*Handle, len(out.Sandboxes))
	for i, s := range out.Sandboxes {
		list[i] = &Handle{c: c, id: s.ID, lease: l}
	}
	if err == nil && ctx.Err() != nil {
		err = errors.Join(ended(ctx, act), removeAll(ctx, list))
	}
	if err != nil && l != nil {
		l.end()
	}
	return list, err
}

func removeAll(ctx context.Context, list []*Handle) error {
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	var errs []error
	for _, h := range list {
		errs = append(errs, h.Remove(ctx))
	}
	return errors.Join(errs...)
}

// missing is the error of an answer that lacks what it has to have.
func (c *Client) missing(what string) error {
	return api.Errorf(api.Internal, "%s answered without %s", c.peer.Name, what)
}

// Get finds a sandbox by id, name or unique beginning of an id.
func (c *Client) Get(ctx context.Context, ref string) (*Handle, error) {
	// Before it becomes part of a path.
	if api.CheckName(ref) != nil {
		return nil, api.Errorf(api.NotFound, "find sandbox %.80q: there is none of that id or name", ref).
			WithRecovery("List what there is with: smolvm ls")
	}
	var info api.Sandbox
	if err := c.call(ctx, http.MethodGet, path("sandboxes", ref), nil, &info); err != nil {
		return nil, err
	}
	if api.CheckName(info.ID) != nil {
		return nil, c.missing("the sandbox's id")
	}
	return &Handle{c: c, id: info.ID}, nil
}

// List describes the sandboxes that o lets through, oldest first.
func (c *Client) List(ctx context.Context, o api.ListOptions) ([]api.Sandbox, error) {
	var pairs []string
	for _, s := range o.States {
		pairs = append(pairs, "state", string(s))
	}
	for _, k := range slices.Sorted(maps.Keys(o.Labels)) {
		pairs = append(pairs, "label", k+"="+o.Labels[k])
	}
	var out struct {
		Sandboxes []api.Sandbox `json:"sandboxes"`
	}
	err := c.call(ctx, http.MethodGet, query(path("sandboxes"), pairs...), nil, &out)
	return out.Sandboxes, err
}

// GC removes at the gateway what no live sandbox owns.
func (c *Client) GC(ctx context.Context, dryRun bool) (out api.Collected, err error) {
	err = c.call(ctx, http.MethodPost, query(path("gc"), "dry_run", flag(dryRun)), nil, &out)
	return out, err
}

// Templates lists the templates, the one used last first.
func (c *Client) Templates(ctx context.Context) ([]api.Template, error) {
	var out struct {
		Templates []api.Template `json:"templates"`
	}
	err := c.call(ctx, http.MethodGet, path("templates"), nil, &out)
	return out.Templates, err
}

// BuildTemplate makes a template where it is not there yet.
func (c *Client) BuildTemplate(ctx context.Context, spec api.Spec) (api.Template, error) {
	out, err := c.make(ctx, "template sandbox", path("templates"), spec, nil)
	if err == nil && out.Template == nil {
		err = c.missing("the template")
	}
	if err != nil {
		return api.Template{}, err
	}
	return *out.Template, nil
}

// RemoveTemplate removes a template by its key or a unique beginning of it.
func (c *Client) RemoveTemplate(ctx context.Context, key string) error {
	if api.CheckName(key) != nil {
		return api.Errorf(api.NotFound, "find template %.80q: there is none", key).
			WithRecovery("List what there is with: smolvm template ls")
	}
	return c.call(ctx, http.MethodDelete, path("templates", key), nil, nil)
}

// Snapshots lists the snapshots, oldest first.
func (c *Client) Snapshots(ctx context.Context) ([]api.Snapshot, error) {
	var out struct {
		Snapshots []api.Snapshot `json:"snapshots"`
	}
	err := c.call(ctx, http.MethodGet, path("snapshots"), nil, &out)
	return out.Snapshots, err
}

// snapshot is the path of a snapshot.
func snapshot(name string, more ...string) (string, error) {
	if api.CheckName(name) != nil {
		return "", api.Errorf(api.NotFound, "find snapshot %.80q: there is none of that name", name).
			WithRecovery("List what there is with: smolvm snapshot ls")
	}
	return path(append([]string{"snapshots", name}, more...)...), nil
}

// Snapshot describes a snapshot after all of it was verified.
func (c *Client) Snapshot(ctx context.Context, name string) (out api.Snapshot, err error) {
	p, err := snapshot(name)
	if err == nil {
		err = c.call(ctx, http.MethodGet, p, nil, &out)
	}
	return out, err
}

// RemoveSnapshot removes a snapshot, also one that was altered.
func (c *Client) RemoveSnapshot(ctx context.Context, name string) error {
	p, err := snapshot(name)
	if err == nil {
		err = c.call(ctx, http.MethodDelete, p, nil, nil)
	}
	return err
}

// SaveSnapshot writes a snapshot as one file.
func (c *Client) SaveSnapshot(ctx context.Context, name string, w io.Writer) error {
	p, err := snapshot(name, "archive")
	if err == nil {
		_, err = c.download(ctx, p, w)
	}
	return err
}

// LoadSnapshot takes in a snapshot's file.
func (c *Client) LoadSnapshot(ctx context.Context, r io.Reader, o api.LoadSnapshot) (out api.Snapshot, err error) {
	body := &lent{ctx: ctx, r: r}
	defer body.takeBack()
	req := c.request(http.MethodPost, query(path("snapshots", "archive"),
		"name", o.Name, "digest", o.Digest, "disk_only", flag(o.DiskOnly)))
	req.Header = http.Header{"Content-Type": {"application/octet-stream"}}
	req.Body = body
	err = c.peer.Call(ctx, req, nil, &out)
	return out, err
}

// pools is the answer of the routes about pools.
type pools struct {
	Pools []api.Pool `json:"pools"`
}

// SetPool has the gateway's keeper keep a pool.
func (c *Client) SetPool(ctx context.Context, p api.Pool) (out api.Pool, err error) {
	want := api.SetPool{Image: p.Image, CPUs: p.CPUs, MemoryMiB: p.MemoryMiB, DiskMiB: p.DiskMiB, Size: p.Size}
	err = c.call(ctx, http.MethodPut, path("pools"), want, &out)
	return out, err
}

// Pools lists the pools.
func (c *Client) Pools(ctx context.Context) ([]api.Pool, error) {
	var out pools
	err := c.call(ctx, http.MethodGet, path("pools"), nil, &out)
	return out.Pools, err
}

// DrainPools ends the pools of an image, or all.
func (c *Client) DrainPools(ctx context.Context, image string) ([]api.Pool, error) {
	var out pools
	err := c.call(ctx, http.MethodDelete, query(path("pools"), "image", image), nil, &out)
	return out.Pools, err
}
