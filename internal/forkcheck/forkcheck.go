// Package forkcheck proves on a host that copies of a sandbox share nothing that
// must be their own, and keep what must go on.
//
//	r, err := forkcheck.Run(ctx, client, forkcheck.Options{})
//	for _, p := range r.Properties { fmt.Println(p.Name, p.OK, p.Detail) }
//
// It makes a sandbox, forks it, asks all of them about themselves by commands that
// any image with a shell has, and removes them again.
package forkcheck

import (
	"context"
	"errors"
	"fmt"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/undo"
)

// Options says how to check. The zero value works.
type Options struct {
	Spec     smolvm.Spec       // of the source; it is made ephemeral
	Children int               // zero: DefaultChildren
	Tell     func(step string) // is told what is done; may be nil
}

// DefaultChildren is the least that can show that children differ from each other.
const DefaultChildren = 2

// Property is one thing that was looked at.
type Property struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	// Values are those of the source and of its children, in order, where there are
	// values to compare.
	Values []string `json:"values,omitempty"`
}

// Report is what a check found.
type Report struct {
	OK         bool       `json:"ok"`
	Sandboxes  []string   `json:"sandboxes"` // names: the source, then its children
	Properties []Property `json:"properties"`
}

// Run checks. An error means that it could not be found out; what was found is in
// the report.
func Run(ctx context.Context, c *smolvm.Client, o Options) (r Report, err error) {
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	if o.Children == 0 {
		o.Children = DefaultChildren
	}
	o.Spec.Ephemeral = true
	o.Tell("make the source")
	source, err := c.Create(ctx, o.Spec)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove(ctx, source)) }()
	if err := prepare(ctx, source); err != nil {
		return r, err
	}
	before, err := ask(ctx, source)
	if err != nil {
		return r, err
	}
	o.Tell(fmt.Sprintf("fork it into %d", o.Children))
	children, err := source.Fork(ctx, smolvm.ForkOptions{N: o.Children, Ephemeral: true})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove(ctx, children...)) }()
	o.Tell("ask all of them")
	after, err := askAll(ctx, append([]*smolvm.Sandbox{source}, children...))
	if err != nil {
		return r, err
	}
	return judge(before, after), nil
}

// remove removes sandboxes, also where ctx has ended.
func remove(ctx context.Context, list ...*smolvm.Sandbox) error {
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	var errs []error
	for _, sb := range list {
		errs = append(errs, sb.Remove(ctx))
	}
	return errors.Join(errs...)
}
