package setup

import (
	"context"
	"fmt"
	"os"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/image/progress"
)

// Options say what to set up. The zero value is what smolvm needs to start
// sandboxes of the default image.
type Options struct {
	Kernel string // file of a kernel: a Debian package, or a boot image or ELF file; empty: Debian's cloud kernel
	Image  string // image to have; empty: api.DefaultImage
}

// Step is one thing that is there, or that Plan.Run will see to.
type Step struct {
	Name   string `json:"name"`
	Detail string `json:"detail"` // what is there, or what will be done
	Done   bool   `json:"done"`   // it is there

	run func(ctx context.Context, p progress.Func) (detail string, err error)
}

// Plan is what a machine needs, in the order in which it is made.
type Plan struct {
	Steps []Step `json:"steps"`
}

// Complete reports whether nothing is missing.
func (p Plan) Complete() bool {
	for _, s := range p.Steps {
		if !s.Done {
			return false
		}
	}
	return true
}

// Run does each step that is not done, in order, and marks it done. It may be
// called again after an error and goes on where it was.
func (p Plan) Run(ctx context.Context, w Watcher) error {
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.Done {
			continue
		}
		detail, err := s.run(ctx, w.Progress)
		if err != nil {
			return err
		}
		s.Done, s.Detail = true, detail
		if w.Done != nil {
			w.Done(*s)
		}
	}
	return nil
}

// Watcher is told what Plan.Run does.
type Watcher struct {
	Progress progress.Func // may be nil
	Done     func(Step)    // a step is done; may be nil
}

// Plan looks at what is there. It changes nothing. Class Invalid for options that
// cannot be met.
func (h Host) Plan(ctx context.Context, o Options) (Plan, error) {
	if o.Image == "" {
		o.Image = api.DefaultImage
	}
	if o.Kernel != "" {
		if info, err := os.Stat(o.Kernel); err != nil {
			return Plan{}, api.Errorf(api.Invalid, "find kernel: %w", err)
		} else if !info.Mode().IsRegular() {
			return Plan{}, api.Errorf(api.Invalid, "find kernel: %s is not a file", o.Kernel)
		}
	}
	return Plan{[]Step{packageStep(), h.kernelStep(o.Kernel), h.imageStep(ctx, o.Image)}}, nil
}

func (h Host) kernelStep(file string) Step {
	s := Step{Name: "kernel"}
	if file != "" {
		s.Detail = "take the kernel from " + file
		s.run = func(ctx context.Context, p progress.Func) (string, error) { return h.kernelFrom(ctx, file, p) }
		return s
	}
	if k, err := kernel.Current(h.Store); err == nil {
		s.Done, s.Detail = true, k.String()
		return s
	}
	s.Detail = "download Debian's cloud kernel, about 30 MB; nothing is installed"
	s.run = func(ctx context.Context, p progress.Func) (string, error) {
		k, err := kernel.Fetch(ctx, h.Store, kernel.Options{Progress: p})
		return named(k, err)
	}
	return s
}

func named(k kernel.Kernel, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return k.String(), nil
}

// kernelFrom takes a kernel from a Debian package, or from a boot image and the
// modules that stand where Debian puts them for it.
func (h Host) kernelFrom(ctx context.Context, file string, p progress.Func) (string, error) {
	o := kernel.Options{Progress: p}
	if isDeb(file) {
		return named(kernel.FromDeb(ctx, h.Store, file, o))
	}
	modules, err := modulesOf(file)
	if err != nil {
		return "", err
	}
	return named(kernel.FromFiles(ctx, h.Store, file, modules, o))
}

func (h Host) imageStep(ctx context.Context, ref string) Step {
	s := Step{Name: "image"}
	if err := h.Images.Has(ctx, ref); err == nil {
		s.Done, s.Detail = true, ref
		return s
	}
	s.Detail = fmt.Sprintf("make the image %s", ref)
	s.run = func(ctx context.Context, p progress.Func) (string, error) { return ref, h.Images.Get(ctx, ref, p) }
	return s
}
