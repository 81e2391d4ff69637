package api

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
)

func TestErrorKeepsClassTextAndCause(t *testing.T) {
	inner := Errorf(NotFound, "open %q: %w", "x", io.ErrUnexpectedEOF).WithCode("gone").WithRecovery("Do %s.", "this")
	err := fmt.Errorf("start: %w", inner)
	if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("classes and cause of %v", err)
	}
	e := AsError(err)
	if e.Message != `start: open "x": unexpected EOF` || e.Class != NotFound || e.Code != "gone" || e.Recovery != "Do this." {
		t.Fatalf("%+v", e)
	}
	if ClassOf(io.EOF) != Internal || AsError(io.EOF).Class != Internal {
		t.Fatal("a bare error is internal")
	}
}

func TestErrorKeepsCodeAndNextStep(t *testing.T) {
	inner := Errorf(Denied, "it was altered").WithCode("altered").WithRecovery("do not use it")
	for _, e := range []*Error{Errorf(Denied, "start: %w", inner), Errorf(Denied, "start: %w", fmt.Errorf("open: %w", inner))} {
		if e.Code != "altered" || e.Recovery != "do not use it" {
			t.Errorf("%+v", e)
		}
	}
	// What helps against one class need not help against another.
	for _, e := range []*Error{Errorf(Internal, "start: %w", inner), Errorf(Denied, "start"), Errorf(Denied, "start: %v", inner)} {
		if e.Code != "" || e.Recovery != "" {
			t.Errorf("%+v", e)
		}
	}
}

func TestCheckRefusesBadSpecs(t *testing.T) {
	many := map[string]string{}
	for i := range MaxEnv + 1 {
		many[fmt.Sprint("K", i)] = ""
	}
	for name, tt := range map[string]struct {
		change func(*Spec)
		want   error
	}{
		"upper case name":    {func(s *Spec) { s.Name = "Web" }, ErrInvalid},
		"dash first":         {func(s *Spec) { s.Name = "-web" }, ErrInvalid},
		"long name":          {func(s *Spec) { s.Name = strings.Repeat("a", 64) }, ErrInvalid},
		"path as name":       {func(s *Spec) { s.Name = "../x" }, ErrInvalid},
		"line break in name": {func(s *Spec) { s.Name = "a\n" }, ErrInvalid},
		"no cpus":            {func(s *Spec) { s.CPUs = -1 }, ErrInvalid},
		"many cpus":          {func(s *Spec) { s.CPUs = MaxCPUs + 1 }, ErrInvalid},
		"little memory":      {func(s *Spec) { s.MemoryMiB = MinMemoryMiB - 1 }, ErrInvalid},
		"much memory":        {func(s *Spec) { s.MemoryMiB = MaxMemoryMiB + 1 }, ErrInvalid},
		"small disk":         {func(s *Spec) { s.DiskMiB = 1 }, ErrInvalid},
		"long image":         {func(s *Spec) { s.Image = strings.Repeat("i", MaxImageRef+1) }, ErrInvalid},
		"negative ttl":       {func(s *Spec) { s.TTLSeconds = -1 }, ErrInvalid},
		"endless ttl":        {func(s *Spec) { s.TTLSeconds = math.Inf(1) }, ErrInvalid},
		"ttl is no number":   {func(s *Spec) { s.TTLSeconds = math.NaN() }, ErrInvalid},
		"idle is no number":  {func(s *Spec) { s.IdleTimeoutSeconds = math.NaN() }, ErrInvalid},
		"isolation":          {func(s *Spec) { s.MinIsolation = "total" }, ErrInvalid},
		"accelerator":        {func(s *Spec) { s.Accel = "warp" }, ErrInvalid},
		"env name":           {func(s *Spec) { s.Env = map[string]string{"A=B": "c"} }, ErrInvalid},
		"env without name":   {func(s *Spec) { s.Env = map[string]string{"": "c"} }, ErrInvalid},
		"NUL in env":         {func(s *Spec) { s.Env = map[string]string{"A": "\x00"} }, ErrInvalid},
		"env of other bytes": {func(s *Spec) { s.Env = map[string]string{"A": "\xff"} }, ErrInvalid},
		"many env":           {func(s *Spec) { s.Env = many }, ErrExhausted},
		"large env":          {func(s *Spec) { s.Env = map[string]string{"A": strings.Repeat("x", MaxEnvBytes)} }, ErrExhausted},
		"label":              {func(s *Spec) { s.Labels = map[string]string{"": "x"} }, ErrInvalid},
	} {
		s := Spec{}.WithDefaults()
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		tt.change(&s)
		if err := s.Check(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, ClassOf(tt.want))
		}
	}
}

func TestIsolationLevels(t *testing.T) {
	for _, tt := range []struct {
		have, min Isolation
		want      bool
	}{
		{Hardware, Hardware, true}, {Hardware, Emulated, true}, {Hardware, "", true},
		{Emulated, Hardware, false}, {Emulated, Emulated, true}, {Emulated, "", true},
	} {
		if got := tt.have.AtLeast(tt.min); got != tt.want {
			t.Errorf("%s at least %q: %v", tt.have, tt.min, got)
		}
	}
}
