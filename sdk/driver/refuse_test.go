package driver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestCapabilitiesCheck(t *testing.T) {
	t.Parallel()
	spec := Spec{ID: "a", Tags: Tags{Owner: "o", ID: "i"}}
	for want, f := range map[Capability]func(*Spec){
		CapCPU:      func(s *Spec) { s.Resources.CPU = 1 },
		CapMemory:   func(s *Spec) { s.Resources.MemoryMB = 1 },
		CapPids:     func(s *Spec) { s.Resources.Pids = 1 },
		CapDisk:     func(s *Spec) { s.Resources.DiskMB = 1 },
		CapBlockIO:  func(s *Spec) { s.Resources.IOMBs = 1 },
		CapOutput:   func(s *Spec) { s.Resources.OutputKB = 1 },
		CapNetNone:  func(s *Spec) { s.Network = step.NetworkNone },
		CapNetAllow: func(s *Spec) { s.Network, s.Egress.Allow = step.NetworkAllow, []string{"example.com"} },
		CapNetOpen:  func(s *Spec) { s.Network = step.NetworkOpen },
		CapLease:    func(s *Spec) { s.Until = 1 },
		CapHost:     func(s *Spec) { s.Host = &HostSpec{} },
	} {
		s := spec
		f(&s)
		if err := (Capabilities{CapFiles}).CheckSpec(s); !step.Is(err, step.KindUnsupported) {
			t.Errorf("%s asked of one that does not have it: %v", want, err)
		}
		if err := (Capabilities{CapFiles, want}).CheckSpec(s); err != nil {
			t.Errorf("%s asked of one that has it: %v", want, err)
		}
	}
	bad, alone, stray, odd := spec, spec, spec, spec
	bad.Network = "moon"
	alone.Network = step.NetworkAllow
	stray.Egress.Allow = []string{"example.com"}
	odd.Network, odd.Egress.Allow = step.NetworkAllow, []string{"https://example.com"}
	for _, s := range []Spec{{}, bad, alone, stray, odd} {
		if err := (Capabilities{}).CheckSpec(s); !step.Is(err, step.KindInvalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	run := ExecSpec{ID: "a", Argv: []string{"true"}}
	for want, f := range map[Capability]func(*ExecSpec){
		CapTTY:      func(e *ExecSpec) { e.TTY = &TTY{} },
		CapWallTime: func(e *ExecSpec) { e.Timeout = 1 },
		CapOutput:   func(e *ExecSpec) { e.OutputLimit = 1 },
	} {
		e := run
		f(&e)
		if err := (Capabilities{}).CheckExec(e); !step.Is(err, step.KindUnsupported) {
			t.Errorf("%s asked of one that does not have it: %v", want, err)
		}
		if err := (Capabilities{want}).CheckExec(e); err != nil {
			t.Errorf("%s asked of one that has it: %v", want, err)
		}
	}
	if err := (Capabilities{}).CheckExec(ExecSpec{ID: "a"}); !step.Is(err, step.KindInvalid) {
		t.Errorf("an exec of nothing: %v", err)
	}
}

func TestBase(t *testing.T) {
	t.Parallel()
	var b Base
	_, stats := b.Stats(t.Context(), Handle{})
	for what, err := range map[string]error{
		"extend": b.Extend(t.Context(), Handle{}, 1), "copy in": b.CopyIn(t.Context(), Handle{}, "/", nil),
		"copy out": b.CopyOut(t.Context(), Handle{}, "/", 0, nil), "stats": stats,
	} {
		if !step.Is(err, step.KindUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		n := 0
		err := b.Health(ctx, func(h Health) error { n++; return nil })
		if n != 3 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("in 25 s health came %d times, and ended with %v", n, err)
		}
		full := errors.New("full")
		if err := b.Health(t.Context(), func(Health) error { return full }); !errors.Is(err, full) {
			t.Errorf("a sink that fails: %v", err)
		}
	})
}
