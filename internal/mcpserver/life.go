package mcpserver

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

func (s *Server) addTools() {
	s.addLife()
	s.addRun()
	s.addFiles()
	s.addSaved()
	s.addNetwork()
}

func (s *Server) addLife() {
	add(s, tool[createIn, createOut]{
		name: "create_sandbox", title: "Create a sandbox", scope: apikey.Manage,
		about: "Make a disposable Linux microVM. The first one of a session becomes its default sandbox. " +
			"Not needed before run_command or write_file: they make one. Removed at the end of the session unless keep is true.",
		hints: hints{open: true},
		call:  (*call).createSandbox,
	})
	add(s, tool[struct{}, listOut]{
		name: "list_sandboxes", title: "List sandboxes", scope: apikey.Read,
		about: "List the sandboxes that this session may use, with their state and ports.",
		hints: hints{readOnly: true, idempotent: true},
		call:  (*call).list,
	})
	add(s, tool[named, startOut]{
		name: "start_sandbox", title: "Start a sandbox", scope: apikey.Manage,
		about: "Start a sandbox that is stopped, or had an error. Its files are as they were. Tools that run something do it by themselves.",
		hints: hints{idempotent: true},
		call:  (*call).start,
	})
	add(s, tool[named, removeOut]{
		name: "remove_sandbox", title: "Remove a sandbox", scope: apikey.Manage,
		about: "End a sandbox at once and delete everything in it.",
		hints: hints{destructive: true},
		call:  (*call).remove,
	})
	add(s, tool[exposeIn, exposeOut]{
		name: "expose_port", title: "Expose a port", scope: apikey.Manage,
		about: "Make a server that listens in a sandbox reachable at 127.0.0.1 of the user's machine. Returns the address.",
		call:  (*call).expose,
	})
}

// named is the argument of what must name its sandbox.
type named struct {
	Sandbox string `json:"sandbox" jsonschema:"name or id"`
}

type createIn struct {
	Name         string            `json:"name,omitempty" jsonschema:"default: generated"`
	Image        string            `json:"image,omitempty" jsonschema:"OCI image such as debian:12 or python:3.12; default: Debian with Python, Node and common tools"`
	CPUs         int               `json:"cpus,omitempty" jsonschema:"virtual CPUs"`
	MemoryMiB    int               `json:"memory_mib,omitempty"`
	DiskMiB      int               `json:"disk_mib,omitempty" jsonschema:"size of the writable disk"`
	Env          map[string]string `json:"env,omitempty" jsonschema:"environment variables of every process"`
	Offline      bool              `json:"offline,omitempty" jsonschema:"true: no network at all"`
	AllowHosts   []string          `json:"allow_hosts,omitempty" jsonschema:"reach only these: names, *.suffix for all names below, addresses; default: what the server allows, usually the public internet"`
	FromSnapshot string            `json:"from_snapshot,omitempty" jsonschema:"continue this snapshot; image, cpus, memory and disk are then its own"`
	EachCommand  bool              `json:"checkpoint_each_command,omitempty" jsonschema:"record a step of the history after every command"`
	Keep         bool              `json:"keep,omitempty" jsonschema:"true: it stays when the session ends"`
	TTLSeconds   float64           `json:"ttl_seconds,omitempty" jsonschema:"remove it after this time in any case"`
}

// described is a sandbox in results.
type described struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	State     string   `json:"state"`
	Image     string   `json:"image"`
	CPUs      int      `json:"cpus"`
	MemoryMiB int      `json:"memory_mib"`
	DiskMiB   int      `json:"disk_mib"`
	Ports     []string `json:"ports,omitempty" jsonschema:"address on the user's machine, and port in the sandbox"`
	Default   bool     `json:"default,omitempty" jsonschema:"used where a tool names no sandbox"`
	Own       bool     `json:"own,omitempty" jsonschema:"made by this session"`
	Kept      bool     `json:"kept,omitempty" jsonschema:"stays when the session ends"`
}

func (c *call) describe(info smolvm.Info) described {
	d := described{
		ID: info.ID, Name: info.Name, State: string(info.State), Image: info.Image,
		CPUs: info.CPUs, MemoryMiB: info.MemoryMiB, DiskMiB: info.DiskMiB,
		Default: info.ID == c.standard(), Kept: !info.Ephemeral,
	}
	_, d.Own = c.has(info.ID)
	for _, p := range info.Ports {
		p = p.WithDefaults()
		d.Ports = append(d.Ports, fmt.Sprintf("%s:%d -> %d/%s", p.HostIP, p.HostPort, p.GuestPort, p.Proto))
	}
	return d
}

func (d described) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s): %s, image %s, %d CPUs, %d MiB memory", d.Name, d.ID, d.State, d.Image, d.CPUs, d.MemoryMiB)
	for _, p := range d.Ports {
		b.WriteString(", port " + p)
	}
	for _, w := range []struct {
		yes  bool
		word string
	}{{d.Default, "the default sandbox"}, {d.Kept, "kept"}, {!d.Own, "of another session or person"}} {
		if w.yes {
			b.WriteString(", " + w.word)
		}
	}
	return b.String()
}

type createOut struct{ described }

func (o createOut) text() string { return "made " + o.described.text() }

func (c *call) createSandbox(ctx context.Context, in createIn) (createOut, error) {
	_, info, err := c.create(ctx, in)
	if err != nil {
		return createOut{}, err
	}
	return createOut{c.describe(info)}, nil
}

// create makes a sandbox of the session.
func (c *call) create(ctx context.Context, in createIn) (*smolvm.Sandbox, smolvm.Info, error) {
	spec, err := c.spec(in)
	if err != nil {
		return nil, smolvm.Info{}, err
	}
	release, err := c.reserve(1)
	if err != nil {
		return nil, smolvm.Info{}, err
	}
	defer release()
	c.tell("making a sandbox")
	client := *c.s.o.Client // for the progress of this call alone
	client.Progress = c.progress
	sb, err := client.Create(ctx, spec)
	if err != nil {
		return nil, smolvm.Info{}, err
	}
	if err := c.adopt(ctx, in.Keep, sb); err != nil {
		return nil, smolvm.Info{}, err
	}
	c.setStandard(sb.ID())
	info, err := sb.Info(ctx)
	return sb, info, err
}

// progress tells what making a sandbox is at.
func (c *call) progress(step string, done, total int64) {
	if total > 0 {
		c.tell("%s, %d of %d MiB", step, done>>20, total>>20)
		return
	}
	c.tell("%s", step)
}

// spec is what to make: what the server was started with, and what the model asks
// for within that.
func (c *call) spec(in createIn) (smolvm.Spec, error) {
	spec := c.s.o.Spec
	spec.Name, spec.Ephemeral = in.Name, !in.Keep
	spec.Labels = merged(spec.Labels, map[string]string{labelMade: labelValue})
	spec.Env = merged(spec.Env, in.Env)
	if in.Image != "" {
		spec.Image, spec.FromSnapshot = in.Image, ""
	}
	if in.CPUs > 0 {
		spec.CPUs = in.CPUs
	}
	if in.MemoryMiB > 0 {
		spec.MemoryMiB = in.MemoryMiB
	}
	if in.DiskMiB > 0 {
		spec.DiskMiB = in.DiskMiB
	}
	if in.TTLSeconds > 0 {
		spec.TTLSeconds = in.TTLSeconds
	}
	if in.EachCommand {
		spec.Checkpoint = api.CheckpointEachCommand
	}
	if in.FromSnapshot != "" {
		if in.Image != "" || in.CPUs+in.MemoryMiB+in.DiskMiB > 0 {
			return spec, api.Errorf(api.Invalid, "create a sandbox from snapshot %q: image, cpus, memory_mib and disk_mib are the snapshot's own", in.FromSnapshot).
				WithRecovery("Leave them out.")
		}
		spec.FromSnapshot = in.FromSnapshot
		spec.Image, spec.CPUs, spec.MemoryMiB, spec.DiskMiB = "", 0, 0, 0
	}
	var err error
	spec.Network, err = narrowed(spec.Network, in)
	return spec, err
}

// narrowed is a network with what a model asks for, which may be less than the
// server was started with and never more.
func narrowed(n api.Network, in createIn) (api.Network, error) {
	switch {
	case in.Offline && len(in.AllowHosts) > 0:
		return n, api.Errorf(api.Invalid, "offline and allow_hosts exclude each other")
	case in.Offline:
		return api.Network{Mode: api.NetworkNone}, nil
	case len(in.AllowHosts) == 0:
		return n, nil
	case n.Mode == api.NetworkNone || n.Policy != nil || n.InternetSettings != nil:
		return n, api.Errorf(api.Denied, "allow_hosts: what sandboxes of this server reach was set when it was started").
			WithRecovery("Leave allow_hosts out, or ask the person who started the server.")
	}
	n.Mode = api.NetworkPolicy
	n.InternetSettings = &api.InternetSettings{AllowedDomains: in.AllowHosts}
	return n, nil
}

func merged(a, b map[string]string) map[string]string {
	m := map[string]string{}
	maps.Copy(m, a)
	maps.Copy(m, b)
	return m
}

type listOut struct {
	Sandboxes []described `json:"sandboxes"`
}

func (o listOut) text() string {
	if len(o.Sandboxes) == 0 {
		return "There is no sandbox yet. The first tool that needs one makes it."
	}
	var lines []string
	for _, d := range o.Sandboxes {
		lines = append(lines, d.text())
	}
	return strings.Join(lines, "\n")
}

func (c *call) list(ctx context.Context, _ struct{}) (listOut, error) {
	all, err := c.s.o.Client.List(ctx, smolvm.ListOptions{})
	out := listOut{Sandboxes: []described{}}
	for _, info := range all {
		if c.mayUse(info) {
			out.Sandboxes = append(out.Sandboxes, c.describe(info))
		}
	}
	return out, err
}

type startOut struct{ described }

func (c *call) start(ctx context.Context, in named) (startOut, error) {
	sb, _, err := c.look(ctx, in.Sandbox)
	if err != nil {
		return startOut{}, err
	}
	if err := sb.Start(ctx); err != nil {
		return startOut{}, err
	}
	info, err := sb.Info(ctx)
	return startOut{c.describe(info)}, err
}

type removeOut struct {
	Removed string `json:"removed" jsonschema:"its name"`
}

func (o removeOut) text() string { return "removed " + o.Removed }

func (c *call) remove(ctx context.Context, in named) (removeOut, error) {
	sb, info, err := c.look(ctx, in.Sandbox)
	if err != nil {
		return removeOut{}, err
	}
	if err := sb.Remove(ctx); err != nil {
		return removeOut{}, err
	}
	c.forget(info.ID)
	return removeOut{info.Name}, nil
}

type exposeIn struct {
	where
	Port     int    `json:"port" jsonschema:"that the server listens at in the sandbox"`
	HostPort int    `json:"host_port,omitempty" jsonschema:"on the user's machine; 0: any that is free"`
	Protocol string `json:"protocol,omitempty" jsonschema:"default tcp"`
}

type exposeOut struct {
	ran
	Address string `json:"address" jsonschema:"HOST:PORT on the user's machine"`
	URL     string `json:"url,omitempty" jsonschema:"where it is a web server"`
	Port    int    `json:"port" jsonschema:"in the sandbox"`
}

func (o exposeOut) text() string {
	return fmt.Sprintf("%sport %d of %s is reached at %s (%s for a web server)", o.said(), o.Port, o.Sandbox, o.Address, o.URL)
}

func (c *call) expose(ctx context.Context, in exposeIn) (exposeOut, error) {
	sb, r, err := c.running(ctx, in.Sandbox)
	if err != nil {
		return exposeOut{}, err
	}
	p, err := sb.Expose(ctx, smolvm.Port{GuestPort: in.Port, HostPort: in.HostPort, Proto: in.Protocol})
	if err != nil {
		return exposeOut{}, err
	}
	p = p.WithDefaults()
	out := exposeOut{ran: r, Address: fmt.Sprintf("%s:%d", p.HostIP, p.HostPort), Port: p.GuestPort}
	out.URL = "http://" + out.Address + "/"
	return out, nil
}
