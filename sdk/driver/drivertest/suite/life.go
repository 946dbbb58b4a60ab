package suite

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func lifeCases() []testCase {
	return []testCase{
		{"RecoverTellsThePhase", func(t T, fx *fixture) {
			h := fx.create(t)
			if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != driver.PhaseCreated || len(st.Execs) != 0 {
				t.Errorf("created: %+v, %v", st, err)
			}
			x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(2*time.Second)))
			st, err := fx.d.Recover(fx.ctx(t), h)
			if err != nil || st.Phase != driver.PhaseRunning || len(st.Execs) != 1 || st.Execs[0].ID != x.spec.ID || st.Execs[0].Exit != nil || st.Execs[0].OutputBytes != 6 {
				t.Errorf("running: %+v, %v", st, err)
			}
			r := x.wait(t)
			st, err = fx.d.Recover(fx.ctx(t), h)
			if err != nil || st.Phase != driver.PhaseExited || len(st.Execs) != 1 || st.Execs[0].Exit == nil || *st.Execs[0].Exit != *r.exit || st.Execs[0].OutputBytes != 6 {
				t.Errorf("exited: %+v, %v; the exec ended with %+v", st, err, *r.exit)
			}
		}},
		{"DestroyTwice", func(t T, fx *fixture) {
			h := fx.create(t)
			fx.destroy(t, h)
			fx.destroy(t, h)
			fx.isGone(t, h)
		}},
		{"DestroyWhileRunning", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
			fx.destroy(t, h)
			// The reader learns of the end one way or the other.
			if err := x.detached(t); err == nil {
				if r := x.finish(t); r.exit.Cause == step.CauseExit {
					t.Errorf("the destroyed exec ends with %+v", *r.exit)
				}
			}
			fx.isGone(t, h)
		}},
		{"DestroyAtOnce", func(t T, fx *fixture) {
			h := fx.create(t)
			fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
			errs := make(chan error, 4)
			for range cap(errs) {
				go func() { errs <- fx.d.Destroy(fx.ctx(t), h) }()
			}
			for range cap(errs) {
				if err := <-errs; err != nil {
					t.Errorf("destroy: %v", err)
				}
			}
			fx.isGone(t, h)
		}},
		{"ForeignHandle", func(t T, fx *fixture) {
			h := fx.create(t)
			for what, bad := range map[string]driver.Handle{
				"another driver's":  {Driver: "no-such-driver", ID: h.ID, Version: h.Version, Data: h.Data},
				"a later version's": {Driver: h.Driver, ID: h.ID, Version: h.Version + 1000, Data: h.Data},
			} {
				if err := fx.d.Destroy(fx.ctx(t), bad); err == nil {
					t.Errorf("destroy with %s handle: no error", what)
				}
				if st, err := fx.d.Recover(fx.ctx(t), bad); err == nil {
					t.Errorf("recover with %s handle: %+v, want an error", what, st)
				}
			}
			if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != driver.PhaseCreated {
				t.Errorf("the sandbox itself: %+v, %v", st, err)
			}
		}},
		{"RestartWhileRunning", func(t T, fx *fixture) {
			fx.needRestart(t)
			const n = 50
			h := fx.create(t)
			x := fx.start(t, h, fx.exec(fx.Programs.Count(n, 100*time.Millisecond)))
			x.until(t, fx.ctx(t), "3\n")
			fx.d = fx.restart(t)
			if err := x.detached(t); err == nil {
				t.Fatal("the exec's call outlived the driver's process")
			}
			if err := fx.d.Configure(fx.ctx(t), fx.Config); err != nil {
				t.Fatalf("configure: %v", err)
			}
			st, err := fx.d.Recover(fx.ctx(t), h)
			if err != nil || st.Phase != driver.PhaseRunning || len(st.Execs) != 1 || st.Execs[0].Exit != nil {
				t.Fatalf("after the restart it is %+v (%v), want running", st, err)
			}
			x.mu.Lock()
			before := bytes.Clone(x.r.all)
			x.mu.Unlock()
			r := fx.attach(t, h, x.spec.ID, int64(len(before)))
			if got := string(before) + string(r.all); got != countLines(n) || r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
				t.Errorf("over the restart it wrote %q and ended with %+v", got, *r.exit)
			}
			again := fx.run(t, h, x.spec)
			if string(again.stdout) != countLines(n) {
				t.Errorf("the repeated exec shows %q", again.stdout)
			}
		}},
		{"RestartAfterExit", func(t T, fx *fixture) {
			fx.needRestart(t)
			h, gone := fx.create(t), fx.create(t)
			s := fx.exec(fx.Programs.Die("SIGSEGV"))
			before := fx.run(t, h, s)
			fx.destroy(t, gone)
			fx.d = fx.restart(t)
			if err := fx.d.Configure(fx.ctx(t), fx.Config); err != nil {
				t.Fatalf("configure: %v", err)
			}
			st, err := fx.d.Recover(fx.ctx(t), h)
			if err != nil || st.Phase != driver.PhaseExited || len(st.Execs) != 1 || st.Execs[0].Exit == nil {
				t.Fatalf("after the restart it is %+v (%v), want exited", st, err)
			}
			if *st.Execs[0].Exit != *before.exit {
				t.Errorf("the exit was %+v and is %+v", *before.exit, *st.Execs[0].Exit)
			}
			fx.isGone(t, gone)
			all, err := fx.d.List(fx.ctx(t), fx.owner)
			if err != nil || len(all) != 1 || all[0].Handle.ID != h.ID {
				t.Errorf("list after the restart: %+v, %v", all, err)
			}
		}},
		{"RestartThenStop", func(t T, fx *fixture) {
			fx.needRestart(t)
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
			fx.d = fx.restart(t)
			_ = x.detached(t)
			if err := fx.d.Configure(fx.ctx(t), fx.Config); err != nil {
				t.Fatalf("configure: %v", err)
			}
			if err := fx.d.Stop(fx.ctx(t), h, 200*time.Millisecond, step.CauseCancelled); err != nil {
				t.Fatalf("stop after the restart: %v", err)
			}
			if r := fx.attach(t, h, x.spec.ID, 0); r.exit.Cause != step.CauseCancelled || string(r.all) != "ready\n" {
				t.Errorf("exit %+v after %q, want cause cancelled", *r.exit, r.all)
			}
		}},
		{"Stats", func(t T, fx *fixture) {
			fx.need(t, driver.CapStats, func() error {
				_, err := fx.d.Stats(fx.ctx(t), fx.create(t))
				return err
			})
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Hour)))
			st, err := fx.d.Stats(fx.ctx(t), h)
			if err != nil {
				t.Fatalf("stats: %v", err)
			}
			if st.Pids == 0 || st.MemoryBytes == 0 || st.MemoryPeak > 0 && st.MemoryPeak < st.MemoryBytes/2 || st.PidsPeak > 0 && st.Pids > st.PidsPeak || st.Pids > 1000 {
				t.Errorf("stats of a running sandbox: %+v", st)
			}
			if err := fx.d.Stop(fx.ctx(t), h, time.Second, step.CauseCancelled); err != nil {
				t.Fatalf("stop: %v", err)
			}
			if r := x.wait(t); r.exit.Usage.WallMS <= 0 && r.exit.Usage.WallMS != 0 || r.exit.Usage.CPUUsec < 0 || r.exit.Usage.MemoryPeakBytes < 0 {
				t.Errorf("usage: %+v", r.exit.Usage)
			}
		}},
	}
}

// needRestart skips a case that kills the driver's process.
func (fx *fixture) needRestart(t T) {
	t.Helper()
	if !fx.desc.Capabilities.Has(driver.CapReattach) {
		t.Skipf("the driver does not declare %s", driver.CapReattach)
	}
	if fx.restart == nil {
		t.Fatalf("the driver declares %s, so its factory must know how to restart it", driver.CapReattach)
	}
}

// isGone checks that every call says so.
func (fx *fixture) isGone(t T, h driver.Handle) {
	t.Helper()
	ctx := fx.ctx(t)
	if st, err := fx.d.Recover(ctx, h); err != nil || st.Phase != driver.PhaseGone {
		t.Errorf("recover of a destroyed sandbox: %+v, %v; want gone", st, err)
	}
	if err := fx.d.Destroy(ctx, h); err != nil {
		t.Errorf("destroy of a destroyed sandbox: %v", err)
	}
	calls := map[string]error{
		"exec":   fx.d.Exec(ctx, h, fx.exec(fx.Programs.Exit(0)), ignore),
		"attach": fx.d.Attach(ctx, h, "main", 0, ignore),
		"signal": fx.d.Signal(ctx, h, "main", "SIGTERM"),
		"stop":   fx.d.Stop(ctx, h, time.Second, step.CauseCancelled),
	}
	if fx.desc.Capabilities.Has(driver.CapLease) {
		calls["extend"] = fx.d.Extend(ctx, h, driver.After(time.Hour))
	}
	if fx.desc.Capabilities.Has(driver.CapStats) {
		_, calls["stats"] = fx.d.Stats(ctx, h)
	}
	if fx.desc.Capabilities.Has(driver.CapFiles) {
		calls["copy in"] = fx.d.CopyIn(ctx, h, "/workspace", bytes.NewReader(tarOf(t, file("x", "y"))))
		calls["copy out"] = fx.d.CopyOut(ctx, h, "/workspace", 0, &strings.Builder{})
	}
	for what, err := range calls {
		wantKind(t, fmt.Sprintf("%s in a destroyed sandbox", what), err, step.KindNotFound)
	}
}
