package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/store"
)

// maxSteps bounds a history. Each step is a file of pages, and who continues one
// opens all that are below it: 300 stay below the usual limit of 1024 open files.
const maxSteps = 300

// maxRewinds is how many steps beyond maxSteps rewinds may record: a full history
// must not keep a sandbox from going back.
const maxRewinds = 200

// nextStep is the number that the next step gets: one more than the last one's.
func (s *Supervisor) nextStep() int {
	files := s.dir.Steps()
	if len(files) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(files[len(files)-1]), ".json"))
	return n + 1
}

// checkpoint serves RouteCheckpoint.
func (s *Supervisor) checkpoint(ctx context.Context, o api.Checkpoint) (step api.Step, err error) {
	s.steps.Lock()
	defer s.steps.Unlock()
	err = s.ifUp(func() error {
		step, err = s.recordStep(ctx, o, maxSteps)
		return err
	})
	return step, err
}

// recordStep records the sandbox as it is as the next step, if there are fewer than
// most. The caller holds steps.
func (s *Supervisor) recordStep(ctx context.Context, o api.Checkpoint, most int) (api.Step, error) {
	n := s.nextStep()
	if n >= most {
		return api.Step{}, api.Errorf(api.Exhausted, "record a step of sandbox %q: its history has %d, which is the most",
			s.record().Spec.Name, n).WithRecovery("Go on in a fork of it, whose history begins anew.")
	}
	if err := os.MkdirAll(s.dir.History(), 0o700); err != nil {
		return api.Step{}, err
	}
	m, err := s.save(ctx, saving{parts: s.dir.Parts(), goOn: true})
	if err != nil {
		return api.Step{}, err
	}
	step := api.Step{
		Step: n, Parent: s.record().Head, Label: label(o.Label), Exit: o.Exit,
		Created: m.Created, PauseMS: m.PauseMS,
	}
	m.Step = &step
	parent := s.headManifest()
	if parent != nil {
		m.Parts = parent.Parts // so that what it shares with that is not read again
	}
	if err := point.Write(s.key, s.dir.Step(n), s.dir.Parts(), m, point.Checked); err != nil {
		return api.Step{}, err
	}
	step.Bytes = m.StepBytes(parent)
	return step, s.change(func(r *control.Record) error { r.Head = &n; return nil })
}

// headManifest is that of the step which the sandbox goes on from; nil: none.
func (s *Supervisor) headManifest() *point.Manifest {
	head := s.record().Head
	if head == nil {
		return nil
	}
	m, err := point.Read(s.key, s.dir.Step(*head))
	if err != nil {
		return nil // it costs time and says a larger size, nothing else
	}
	return m
}

// label makes one line of what may be a whole script. What would steer the terminal
// that shows it is left out.
func label(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "")), " ")
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
	if len(text) > api.MaxLabel {
		text = strings.ToValidUTF8(text[:api.MaxLabel], "")
	}
	return text
}

// pointStep gives a directory links to what a step was.
func (s *Supervisor) pointStep(dir store.PointDir, n int) error {
	p, err := s.openStep(n)
	if err != nil {
		return err
	}
	return s.copyPoint(p, dir)
}

func (s *Supervisor) openStep(n int) (*point.Point, error) {
	p, err := point.Open(s.key, s.dir.Step(n), s.dir.Parts())
	if api.ClassOf(err) == api.NotFound {
		name := s.record().Spec.Name
		return nil, api.Errorf(api.NotFound, "sandbox %q has no step %d", name, n).
			WithRecovery("List its steps with: smolvm history %s", name)
	}
	return p, err
}

// rewindTo serves RouteRewind.
func (s *Supervisor) rewindTo(ctx context.Context, r control.Rewind) (api.Sandbox, error) {
	// To its end: it sweeps parts that no step names, and one may be being recorded.
	s.steps.Lock()
	defer s.steps.Unlock()
	err := s.ifUp(func() error {
		p, err := s.openStep(r.Step)
		if err != nil {
			return err
		}
		if err := s.checkMatch(p, s.record().Spec); err != nil {
			return api.Errorf(api.ClassOf(err), "rewind to step %d: %w", r.Step, err)
		}
		// So that what is left can be come back to.
		if _, err := s.recordStep(ctx, api.Checkpoint{Label: "before rewind to step " + strconv.Itoa(r.Step)}, maxSteps+maxRewinds); err != nil {
			return err
		}
		layer, err := s.newLayer(s.dir.Parts())
		if err != nil {
			return err
		}
		return s.swap(ctx, func(ctx context.Context) error { return s.becomes(ctx, p, r.Step, layer) })
	})
	return s.described(err)
}

// swap has live change the VM, so that it does not take the old one's end for the
// sandbox's.
func (s *Supervisor) swap(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case s.swaps <- func() error { err := f(ctx); done <- err; return err }:
	case <-s.over:
		return s.notRunning(s.gate.get().State)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-done
}

// becomes makes the sandbox what it was at a step, with a new layer for its disk.
// After an error it has no VM.
func (s *Supervisor) becomes(ctx context.Context, p *point.Point, step int, layer string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bootTime) // a client that goes must not leave half of it
	defer cancel()
	s.still.Lock()
	defer s.still.Unlock()
	s.session().Close()
	s.vm.Kill()
	err := s.change(func(r *control.Record) error {
		r.Disk, r.Head = over(p.Disk, layer), &step
		return nil
	})
	if err != nil {
		return err
	}
	s.from = p
	if err := s.boot(ctx); err != nil {
		return err
	}
	s.sweepParts()
	return s.running()
}

// eachCommand records a step when the stream's command has ended, before its
// client learns of it: the client's next command is then not in it.
type eachCommand struct {
	guest.Stream
	s       *Supervisor
	session *guest.Session // in which the command ran
	label   string
}

func (e eachCommand) Recv() (guest.Message, error) {
	m, err := e.Stream.Recv()
	if err != nil || m.Kind != guest.KindExit {
		return m, err
	}
	o := api.Checkpoint{Label: e.label}
	var exit guest.Exit
	if wire.Unmarshal(wire.Raw(m.Payload), &exit) == nil {
		o.Exit = &exit.Code
	}
	ctx, cancel := context.WithTimeout(e.s.server.closing, checkpointTime)
	defer cancel()
	if e.s.session() != e.session {
		return m, nil // it has been rewound since: this command is not in what it is now
	}
	if _, err := e.s.checkpoint(ctx, o); err != nil && !errors.Is(err, context.Canceled) {
		slog.Warn("record a step", "label", e.label, "err", err)
	}
	return m, nil
}

// checkpointTime bounds how long a command's end is kept back for its checkpoint.
const checkpointTime = time.Minute
