package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
)

// figure is one thing that was measured, in milliseconds.
type figure struct {
	Name  string  `json:"name"`
	N     int     `json:"n"`
	Min   float64 `json:"min_ms"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	Max   float64 `json:"max_ms"`
	Floor string  `json:"floor,omitempty"` // name of the figure that is its floor
	Ratio float64 `json:"floor_ratio,omitempty"`
}

func newFigure(name string, samples []time.Duration) figure {
	s := slices.Sorted(slices.Values(samples))
	at := func(percent int) float64 { return inMS(s[min(len(s)*percent/100, len(s)-1)]) }
	return figure{Name: name, N: len(s), Min: at(0), P50: at(50), P95: at(95), Max: inMS(s[len(s)-1])}
}

func inMS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Names of what is measured.
const (
	floorGreeted = "floor: VMM alone, its first answer"
	floorLoaded  = "floor: VMM alone, memory loaded"
	floorFirst   = "floor: VMM alone, to the end of the first command"
	floorSecond  = "floor: VMM alone, the second command"
)

// bencher measures one thing after the other: side by side they would measure each
// other.
type bencher struct {
	a      *app
	client *smolvm.Client
	spec   smolvm.Spec
	n      int
	data   benchData
}

func (b *bencher) all(ctx context.Context) error {
	b.tell("make the template")
	if _, err := b.client.BuildTemplate(ctx, b.spec); err != nil {
		return err
	}
	b.spec.Ephemeral = true
	for _, part := range []func(context.Context) error{b.creates, b.pool, b.inside} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bencher) tell(step string) { b.a.progress.tell(step, 0, 0) }

// add adds samples, and compares them with a floor if that was measured.
func (b *bencher) add(name, floor string, samples []time.Duration) {
	m := newFigure(name, samples)
	i := slices.IndexFunc(b.data.Measures, func(f figure) bool { return f.Name == floor })
	if i >= 0 && b.data.Measures[i].P50 > 0 {
		m.Floor, m.Ratio = floor, m.P50/b.data.Measures[i].P50
	}
	b.data.Measures = append(b.data.Measures, m)
}

// collect measures n times. A sample's own undoing is not measured.
func (b *bencher) collect(ctx context.Context, name, floor string, one func() (done func(context.Context) error, err error)) error {
	b.tell("measure: " + name)
	var samples []time.Duration
	for range b.n {
		begin := time.Now()
		done, err := one()
		samples = append(samples, time.Since(begin))
		if done != nil {
			err = errors.Join(err, cleanUp(ctx, done))
		}
		if err != nil {
			return err
		}
	}
	b.add(name, floor, samples)
	return nil
}

func cleanUp(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	return f(ctx)
}

// creates measures creates from a template and, in turns with them, the floor.
func (b *bencher) creates(ctx context.Context) error {
	const name = "create from a template, to the end of the first command"
	b.tell("measure: " + name)
	var samples []time.Duration
	one := func() error {
		took, err := b.createOnce(ctx)
		samples = append(samples, took)
		return err
	}
	if b.a.build.Floor == nil {
		b.data.Skipped = append(b.data.Skipped, benchOmitted{"floor", "this build of smolvm has none"})
		for range b.n {
			if err := one(); err != nil {
				return err
			}
		}
	} else {
		t, err := b.a.build.Floor(ctx, b.spec, b.n, one)
		if err != nil {
			return err
		}
		b.add(floorGreeted, "", t.Greeted)
		b.add(floorLoaded, "", t.Loaded)
		b.add(floorFirst, "", t.First)
		b.add(floorSecond, "", t.Second)
	}
	b.add(name, floorFirst, samples)
	return nil
}

func (b *bencher) createOnce(ctx context.Context) (took time.Duration, err error) {
	spec := b.spec
	// Said by its name it is the same accelerator and template, but not the same pool.
	spec.Accel = b.data.Host.Accel
	begin := time.Now()
	sb, err := b.client.Create(ctx, spec)
	if err != nil {
		return 0, err
	}
	err = nothing(ctx, sb)
	took = time.Since(begin)
	return took, errors.Join(err, cleanUp(ctx, sb.Remove))
}

// nothing runs a command that does nothing.
func nothing(ctx context.Context, sb *smolvm.Sandbox) error {
	res, err := sb.Run(ctx, smolvm.Command{Argv: []string{"true"}})
	if err == nil && !res.OK() {
		err = api.Errorf(api.Internal, "run true in sandbox %s: status %d", sb.ID(), res.ExitCode)
	}
	return err
}

// pool measures whole runs, with this program's own start.
func (b *bencher) pool(ctx context.Context) error {
	const name = "smolvm run -- true, with a pool"
	list, err := b.client.Pools(ctx)
	if err != nil {
		return err
	}
	want := smolvm.Pool{Image: b.spec.Image, CPUs: b.spec.CPUs, MemoryMiB: b.spec.MemoryMiB, DiskMiB: b.spec.DiskMiB}
	p, ok := samePool(list, want)
	if !ok {
		b.data.Skipped = append(b.data.Skipped, benchOmitted{name,
			fmt.Sprintf("there is no pool of these sizes; set one with: smolvm pool set %s --size 3", b.spec.Image)})
		return nil
	}
	b.tell("measure: " + name)
	var samples []time.Duration
	for range b.n {
		// Not measured: a pool that is refilled all the time is not what it is for.
		if _, err := b.a.fillPool(ctx, p); err != nil {
			return err
		}
		begin := time.Now()
		if err := b.run(ctx); err != nil {
			return err
		}
		samples = append(samples, time.Since(begin))
	}
	b.add(name, "", samples)
	return nil
}

func (b *bencher) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, b.client.Binary, "run", "--image", b.spec.Image, "--cpus", fmt.Sprint(b.spec.CPUs),
		"--memory", fmt.Sprint(b.spec.MemoryMiB), "--disk", fmt.Sprint(b.spec.DiskMiB), "--", "true")
	if out, err := cmd.CombinedOutput(); err != nil {
		return api.Errorf(api.Internal, "smolvm run: %w: %.500q", err, out)
	}
	return nil
}

// inside measures what is done to one sandbox that runs.
func (b *bencher) inside(ctx context.Context) (err error) {
	sb, err := b.client.Create(ctx, b.spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanUp(ctx, sb.Remove)) }()
	if err := nothing(ctx, sb); err != nil { // the first is another matter
		return err
	}
	err = b.collect(ctx, "exec true", floorSecond, func() (func(context.Context) error, error) { return nil, nothing(ctx, sb) })
	if err != nil {
		return err
	}
	err = b.collect(ctx, "fork, to the end of the child's first command", floorFirst, func() (func(context.Context) error, error) {
		children, err := sb.Fork(ctx, smolvm.ForkOptions{Ephemeral: true})
		if err != nil {
			return nil, err
		}
		return children[0].Remove, nothing(ctx, children[0])
	})
	if err != nil {
		return err
	}
	return b.checkpoints(ctx, sb)
}

const (
	dirtyMiB       = 1   // what a sandbox writes before each checkpoint
	maxCheckpoints = 100 // a history is bounded
)

func (b *bencher) checkpoints(ctx context.Context, sb *smolvm.Sandbox) error {
	var pauses, whole []time.Duration
	b.tell("measure: checkpoint")
	for i := range min(b.n, maxCheckpoints) {
		err := sb.WriteFile(ctx, fmt.Sprintf("/root/bench-%d", i), io.LimitReader(rand.Reader, dirtyMiB<<20), smolvm.FileOptions{})
		if err != nil {
			return err
		}
		begin := time.Now()
		step, err := sb.Checkpoint(ctx, smolvm.Checkpoint{Label: "bench"})
		if err != nil {
			return err
		}
		whole = append(whole, time.Since(begin))
		pauses = append(pauses, time.Duration(step.PauseMS*float64(time.Millisecond)))
	}
	b.add(fmt.Sprintf("checkpoint after %d MiB was written", dirtyMiB), "", whole)
	b.add("the same, time that the sandbox stood still", "", pauses)
	return nil
}
