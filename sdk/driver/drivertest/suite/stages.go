package suite

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func stageCases() []testCase {
	return []testCase{
		{"CancelledAtEveryStage", func(t T, fx *fixture) {
			for _, after := range []time.Duration{0, 300 * time.Microsecond, time.Millisecond, 4 * time.Millisecond, 15 * time.Millisecond, 60 * time.Millisecond} {
				fx.cancelledLife(t, after)
			}
			fx.nothingIsLeft(t)
		}},
		{"LateCalls", lateCalls},
		{"ConcurrentUse", concurrentUse},
	}
}

// cancelledLife takes a sandbox through its life, and each call is given up
// after a while and made again.
func (fx *fixture) cancelledLife(t T, after time.Duration) {
	t.Helper()
	try := func(what string, f func(context.Context) error) {
		t.Helper()
		ctx, cancel := fx.cancelled(t, after)
		defer cancel()
		if err := f(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := f(fx.ctx(t)); err != nil {
			t.Errorf("%s, after one that was given up after %v: %v", what, after, err)
		}
	}
	spec := fx.spec(t)
	var h driver.Handle
	try("create", func(ctx context.Context) error {
		made, err := fx.d.Create(ctx, spec)
		if err == nil {
			h = made
		}
		return err
	})
	if h.ID == "" {
		return
	}
	t.Cleanup(func() { fx.destroy(t, h) })
	files := fx.desc.Capabilities.Has(driver.CapFiles)
	if files {
		try("copy in", func(ctx context.Context) error {
			return fx.d.CopyIn(ctx, h, "/workspace", bytes.NewReader(tarOf(t, file("in", strings.Repeat("x", 500_000)))))
		})
	}
	s := fx.exec(fx.Programs.Append("/workspace/once", "x"))
	var last *collector
	try("exec", func(ctx context.Context) error {
		last = newCollector(0)
		return fx.d.Exec(ctx, h, s, last.sink)
	})
	if r := last.finish(t); r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
		t.Errorf("exec, after one that was given up after %v: %+v", after, *r.exit)
	}
	if files {
		try("copy out", func(ctx context.Context) error { return fx.d.CopyOut(ctx, h, "/workspace/in", 0, io.Discard) })
		if got := fx.readFile(t, h, "/workspace/once"); string(got) != "x" {
			t.Errorf("an exec that was given up after %v and repeated wrote %q, want one x", after, got)
		}
	}
	try("attach", func(ctx context.Context) error { return fx.d.Attach(ctx, h, s.ID, 0, ignore) })
	try("stop", func(ctx context.Context) error { return fx.d.Stop(ctx, h, time.Second, step.CauseCancelled) })
	try("destroy", func(ctx context.Context) error { return fx.d.Destroy(ctx, h) })
}

// lateCalls come when the exec has ended; nothing may change by them.
func lateCalls(t T, fx *fixture) {
	h := fx.create(t)
	s := fx.exec(fx.Programs.Print("out", "err"))
	first := fx.run(t, h, s)
	for _, sig := range []string{"SIGTERM", "SIGKILL"} {
		wantKind(t, "a late "+sig, fx.d.Signal(fx.ctx(t), h, s.ID, sig), step.KindConflict)
	}
	for _, cause := range []step.Cause{step.CauseCancelled, step.CauseTimeout} {
		if err := fx.d.Stop(fx.ctx(t), h, time.Second, cause); err != nil {
			t.Errorf("a late stop: %v", err)
		}
	}
	if fx.desc.Capabilities.Has(driver.CapLease) {
		if err := fx.d.Extend(fx.ctx(t), h, driver.After(time.Hour)); err != nil {
			t.Errorf("a late extend: %v", err)
		}
	}
	if fx.desc.Capabilities.Has(driver.CapStats) {
		if _, err := fx.d.Stats(fx.ctx(t), h); err != nil {
			t.Errorf("late stats: %v", err)
		}
	}
	for range 2 {
		if r := fx.attach(t, h, s.ID, 0); !bytes.Equal(r.all, first.all) || *r.exit != *first.exit {
			t.Errorf("a late attach: %q, %+v; it was %q, %+v", r.all, *r.exit, first.all, *first.exit)
		}
	}
	if r := fx.attach(t, h, s.ID, int64(len(first.all))); len(r.all) != 0 || *r.exit != *first.exit {
		t.Errorf("a late attach at the end: %q, %+v", r.all, *r.exit)
	}
}

// concurrentUse makes every call at once while a program runs, and then once
// more while the sandbox is destroyed.
func concurrentUse(t T, fx *fixture) {
	spec := fx.spec(t)
	h, err := fx.d.Create(fx.ctx(t), spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { fx.destroy(t, h) })
	x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Hour)))
	caps := fx.desc.Capabilities
	calls := map[string]func(context.Context) error{
		"describe": func(ctx context.Context) error { _, err := fx.d.Describe(ctx); return err },
		"create":   func(ctx context.Context) error { _, err := fx.d.Create(ctx, spec); return err },
		"recover":  func(ctx context.Context) error { _, err := fx.d.Recover(ctx, h); return err },
		"list":     func(ctx context.Context) error { _, err := fx.d.List(ctx, fx.owner); return err },
		"attach": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			err := fx.d.Attach(ctx, h, x.spec.ID, 0, func(driver.ExecEvent) error { cancel(); return nil })
			if ctx.Err() != nil {
				return nil
			}
			return err
		},
	}
	if caps.Has(driver.CapLease) {
		calls["extend"] = func(ctx context.Context) error { return fx.d.Extend(ctx, h, driver.After(time.Hour)) }
	}
	if caps.Has(driver.CapStats) {
		calls["stats"] = func(ctx context.Context) error { _, err := fx.d.Stats(ctx, h); return err }
	}
	if caps.Has(driver.CapFiles) {
		calls["copy in"] = func(ctx context.Context) error {
			archive := tarOf(t, file("copies/"+random(), strings.Repeat("y", 10_000)))
			return fx.d.CopyIn(ctx, h, "/workspace", bytes.NewReader(archive))
		}
		calls["copy out"] = func(ctx context.Context) error { return fx.d.CopyOut(ctx, h, "/workspace", 0, io.Discard) }
	}
	if caps.Has(driver.CapMultiExec) {
		calls["exec"] = func(ctx context.Context) error { return fx.d.Exec(ctx, h, fx.exec(fx.Programs.Exit(0)), ignore) }
	}
	storm := func(rounds int, bad func(what string, err error)) *sync.WaitGroup {
		var wg sync.WaitGroup
		for what, call := range calls {
			for range 2 {
				wg.Go(func() {
					for range rounds {
						if err := call(fx.ctx(t)); err != nil {
							bad(what, err)
						}
					}
				})
			}
		}
		return &wg
	}
	storm(5, func(what string, err error) { t.Errorf("%s beside all other calls: %v", what, err) }).Wait()
	delete(calls, "create") // which may make it anew
	wg := storm(3, func(what string, err error) {
		switch step.KindOf(err) {
		case step.KindInternal, step.KindUnsupported, step.KindInvalid:
			t.Errorf("%s while the sandbox is destroyed: %q (%v)", what, step.KindOf(err), err)
		}
	})
	fx.destroy(t, h)
	wg.Wait()
	fx.isGone(t, h)
	fx.nothingIsLeft(t)
}
