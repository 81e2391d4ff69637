package cli

import (
	"context"
	"errors"
	"io"
	"maps"
	"path"
	"strings"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/agents"
	"github.com/smolvm/smolvm/internal/image/dockerfile"
	"github.com/smolvm/smolvm/internal/store"
)

// agentData is the data of agent.
type agentData struct {
	*commandData
	Sandbox smolvm.Info     `json:"sandbox"`
	Changes []smolvm.Change `json:"changes"`         // of the project's copy
	Patch   string          `json:"patch,omitempty"` // file that holds them
	Applied bool            `json:"applied"`
}

func (a *app) agent(ctx context.Context, o *agentOptions, name string, argv []string) (outcome, error) {
	p, err := agents.Find(name)
	if err != nil {
		return outcome{}, err
	}
	spec, err := o.prepare(p)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	if spec.Image == "" {
		if spec.Image, err = a.agentImage(ctx, agents.Recipe{Preset: p, Version: o.version}); err != nil {
			return outcome{}, notOurs(err)
		}
	}
	sb, err := a.client().Create(ctx, spec)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	if !o.keep {
		defer a.discard(ctx, sb)
	}
	r := agentRun{a: a, o: o, preset: p, sb: sb}
	data, err := r.run(ctx, argv)
	if data == nil {
		return outcome{}, err
	}
	return outcome{data: *data}, err
}

// agentImage returns the name of the image with an agent, and makes it where it is
// not there.
func (a *app) agentImage(ctx context.Context, r agents.Recipe) (string, error) {
	im, err := a.images()
	if err != nil {
		return "", err
	}
	base, err := im.Resolve(ctx, api.DefaultImage)
	if err != nil {
		return "", api.Errorf(api.ClassOf(err), "find the default image: %w", err).WithRecovery("Get it with: smolvm setup")
	}
	r.Base = base.Digest
	name := r.Image()
	if _, err := im.Resolve(ctx, name); !errors.Is(err, api.ErrNotFound) {
		return name, err
	}
	s, err := store.Open("")
	if err != nil {
		return "", err
	}
	dir, err := s.Scratch("agent")
	if err != nil {
		return "", err
	}
	defer dir.Close()
	a.progress.tell("fetch "+r.Preset.Title+" from npm", 0, 0)
	if err := r.Write(ctx, dir.Path()); err != nil {
		return "", err
	}
	a.progress.tell("make the image "+name, 0, 0)
	_, err = dockerfile.Build(ctx, im, nil, dockerfile.Options{
		Name: name, Context: dir.Path(), Output: io.Discard, Progress: a.progress.report,
	})
	return name, err
}

// agentRun is one run of an agent in its sandbox.
type agentRun struct {
	a      *app
	o      *agentOptions
	preset agents.Preset
	sb     *smolvm.Sandbox
	step   int // of the history: the project as it was copied
}

func (r *agentRun) run(ctx context.Context, argv []string) (*agentData, error) {
	info, err := r.sb.Info(ctx)
	if err != nil {
		return nil, notOurs(err)
	}
	if err := r.fill(ctx); err != nil {
		return nil, notOurs(err)
	}
	c, err := r.command(argv)
	if err != nil {
		return nil, notOurs(err)
	}
	r.a.progress.clear()
	cmd, err := r.a.execute(ctx, r.sb, c)
	if cmd == nil {
		return nil, err
	}
	data := &agentData{commandData: cmd, Sandbox: info, Changes: []smolvm.Change{}}
	if r.o.keep {
		r.a.note("kept %s", clean(info.Name))
	}
	if r.o.rw {
		r.a.note("what %s changed, it changed in %s itself", r.preset.Title, clean(r.o.project))
		return data, err
	}
	if failed := r.changes(ctx, data); failed != nil {
		return data, notOurs(failed)
	}
	return data, err
}

// command is the agent on this terminal, or between these pipes.
func (r *agentRun) command(argv []string) (smolvm.Command, error) {
	a := r.a
	tty := a.Keyboard != nil && a.OutTerm && !a.json
	f := commandFlags{
		dir: r.o.project, user: agents.User, tty: tty, interactive: tty || a.InPiped, timeout: r.o.timeout,
	}
	c, err := a.command(&f, append([]string{r.preset.Name}, argv...))
	c.Env = maps.Clone(r.preset.Env)
	for _, word := range r.o.env { // what was asked for comes before what we thought of
		name, _, _ := strings.Cut(word, "=")
		delete(c.Env, name)
	}
	return c, err
}

// fill puts the project and the agent's own files into the sandbox.
func (r *agentRun) fill(ctx context.Context) error {
	if !r.o.rw {
		if err := r.copyProject(ctx); err != nil {
			return err
		}
	}
	if err := r.writeFiles(ctx); err != nil {
		return err
	}
	if r.o.rw {
		return nil
	}
	step, err := r.sb.Checkpoint(ctx, smolvm.Checkpoint{Label: "the project as it was"})
	r.step = step.Step
	return err
}

// copyProject copies the project to the same path, which in the image must be free.
func (r *agentRun) copyProject(ctx context.Context) error {
	dir := r.o.project
	if list, err := r.sb.ReadDir(ctx, dir); err == nil && len(list) > 0 {
		return api.Errorf(api.Conflict, "copy the project: the image has files of its own in %s", dir).
			WithRecovery("Copy or move the project elsewhere, such as into your home.")
	}
	owner := agents.User + ":" + agents.User
	if err := r.sb.Mkdir(ctx, dir, smolvm.FileOptions{Parents: true, Owner: owner}); err != nil {
		return err
	}
	_, err := r.sb.CopyIn(ctx, dir+"/.", dir, smolvm.CopyOptions{
		Owner: owner, Progress: func(done int64) { r.a.progress.tell("copy the project", done, 0) },
	})
	if err != nil {
		return err
	}
	return r.openWay(ctx)
}

// openWay lets the agent's user through the folders above the project, of which some,
// such as /root, are closed in the image.
func (r *agentRun) openWay(ctx context.Context) error {
	var above []string
	for dir := path.Dir(r.o.project); dir != "/"; dir = path.Dir(dir) {
		above = append(above, dir)
	}
	if len(above) == 0 {
		return nil
	}
	return r.asRoot(ctx, append([]string{"chmod", "o+x", "--"}, above...)...)
}

func (r *agentRun) asRoot(ctx context.Context, argv ...string) error {
	res, err := r.sb.Run(ctx, smolvm.Command{Argv: argv, User: "root", Dir: "/", Timeout: guestStep})
	if err == nil && !res.OK() {
		err = api.Errorf(api.Internal, "prepare the sandbox: %s: %s", argv[0], cleanText(string(res.Stderr)))
	}
	return err
}

// guestStep bounds a small step in the guest, far above what it takes.
const guestStep = time.Minute

// writeFiles writes what the agent must find in its home. Placeholders of keys may
// be in it, keys are not.
func (r *agentRun) writeFiles(ctx context.Context) error {
	list, err := r.sb.Secrets(ctx)
	if err != nil {
		return err
	}
	start := agents.Start{Project: r.o.project, Keys: map[string]string{}}
	for _, s := range list {
		start.Keys[s.Name] = s.Placeholder
	}
	for _, f := range r.preset.Files(start) {
		err := r.sb.WriteFile(ctx, path.Join(agents.Home, f.Path), strings.NewReader(f.Content), smolvm.FileOptions{
			Mode: 0o600, Owner: agents.User + ":" + agents.User, Parents: true,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
