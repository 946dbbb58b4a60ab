package suite

import (
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func endCases() []testCase {
	return []testCase{
		{"Timeout", func(t T, fx *fixture) {
			fx.need(t, driver.CapWallTime, nil) // the refusal is in RefusesWhatItCannot
			started := time.Now()
			r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Wait(time.Hour), func(e *driver.ExecSpec) {
				e.Timeout, e.Grace = time.Second, time.Hour
			}))
			if r.exit.Cause != step.CauseTimeout || string(r.all) != "ready\n" {
				t.Errorf("exit %+v after %q, want cause timeout", *r.exit, r.all)
			}
			if time.Since(started) < time.Second {
				t.Errorf("it was ended after %v, before its time", time.Since(started))
			}
		}},
		{"TimeoutKillsTheStubborn", func(t T, fx *fixture) {
			fx.need(t, driver.CapWallTime, nil)
			r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Stubborn, func(e *driver.ExecSpec) {
				e.Timeout, e.Grace = time.Second, 200*time.Millisecond
			}))
			if r.exit.Cause != step.CauseTimeout {
				t.Errorf("exit %+v, want cause timeout", *r.exit)
			}
		}},
		{"TimeoutKillsTheTree", func(t T, fx *fixture) {
			fx.need(t, driver.CapWallTime, nil)
			h := fx.create(t)
			r := fx.run(t, h, fx.exec(fx.Programs.Daemon("/workspace/beat"), func(e *driver.ExecSpec) {
				e.Timeout, e.Grace = 1500*time.Millisecond, 100*time.Millisecond
			}))
			if r.exit.Cause != step.CauseTimeout {
				t.Errorf("exit %+v, want cause timeout", *r.exit)
			}
			fx.daemonIsDead(t, h)
		}},
		{"SignalTerm", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Hour)))
			if err := fx.d.Signal(fx.ctx(t), h, x.spec.ID, "SIGTERM"); err != nil {
				t.Fatalf("signal: %v", err)
			}
			r := x.wait(t)
			if r.exit.Cause != step.CauseSignal || r.exit.Signal != "SIGTERM" {
				t.Errorf("exit %+v, want signal SIGTERM", *r.exit)
			}
			wantKind(t, "signal to what has exited", fx.d.Signal(fx.ctx(t), h, x.spec.ID, "SIGTERM"), step.KindConflict)
		}},
		{"SignalKill", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
			if err := fx.d.Signal(fx.ctx(t), h, x.spec.ID, "SIGTERM"); err != nil {
				t.Fatalf("signal: %v", err)
			}
			wantKind(t, "an unknown signal", fx.d.Signal(fx.ctx(t), h, x.spec.ID, "SIGNONSENSE"), step.KindInvalid)
			wantKind(t, "signal to no exec", fx.d.Signal(fx.ctx(t), h, "no-such-exec", "SIGTERM"), step.KindNotFound)
			fx.pause(t, 200*time.Millisecond)
			if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != driver.PhaseRunning {
				t.Fatalf("a program that ignores SIGTERM is %+v (%v)", st, err)
			}
			if err := fx.d.Signal(fx.ctx(t), h, x.spec.ID, "SIGKILL"); err != nil {
				t.Fatalf("signal: %v", err)
			}
			if r := x.wait(t); r.exit.Cause != step.CauseSignal || r.exit.Signal != "SIGKILL" {
				t.Errorf("exit %+v, want signal SIGKILL", *r.exit)
			}
		}},
		{"SignalKillTakesTheTree", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Daemon("/workspace/beat")))
			fx.daemonBeats(t, h)
			if err := fx.d.Signal(fx.ctx(t), h, x.spec.ID, "SIGKILL"); err != nil {
				t.Fatalf("signal: %v", err)
			}
			x.wait(t)
			fx.daemonIsDead(t, h)
		}},
		{"StopWithGrace", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
			started := time.Now()
			if err := fx.d.Stop(fx.ctx(t), h, 400*time.Millisecond, step.CauseCancelled); err != nil {
				t.Fatalf("stop: %v", err)
			}
			if took := time.Since(started); took < 400*time.Millisecond {
				t.Errorf("stop took %v, less than the grace", took)
			}
			if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != driver.PhaseExited {
				t.Errorf("after stop it is %+v (%v), want exited", st, err)
			}
			if r := x.wait(t); r.exit.Cause != step.CauseCancelled {
				t.Errorf("exit %+v, want cause cancelled", *r.exit)
			}
		}},
		{"StopIsQuick", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Hour)))
			if err := fx.d.Stop(fx.ctx(t), h, time.Hour, step.CauseTimeout); err != nil {
				t.Fatalf("stop of one that obeys: %v", err)
			}
			if r := x.wait(t); r.exit.Cause != step.CauseTimeout {
				t.Errorf("exit %+v, want the cause that was given, timeout", *r.exit)
			}
			if err := fx.d.Stop(fx.ctx(t), h, time.Hour, step.CauseCancelled); err != nil {
				t.Errorf("stop again: %v", err)
			}
			if r := fx.attach(t, h, x.spec.ID, 0); r.exit.Cause != step.CauseTimeout {
				t.Errorf("a second stop changed the exit to %+v", *r.exit)
			}
		}},
		{"StopTakesTheTree", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Daemon("/workspace/beat")))
			fx.daemonBeats(t, h)
			if err := fx.d.Stop(fx.ctx(t), h, 100*time.Millisecond, step.CauseCancelled); err != nil {
				t.Fatalf("stop: %v", err)
			}
			x.wait(t)
			fx.daemonIsDead(t, h)
		}},
		{"LeaseEnds", func(t T, fx *fixture) {
			fx.need(t, driver.CapLease, nil) // the refusal is in RefusesWhatItCannot
			h := fx.create(t, func(s *driver.Spec) {
				s.Until = driver.After(time.Duration(fx.Patience * float64(2*time.Second)))
			})
			x := fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
			r := x.wait(t)
			if r.exit.Cause == step.CauseExit {
				t.Errorf("exit %+v: its deadline passed", *r.exit)
			}
			if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != driver.PhaseExited && st.Phase != driver.PhaseGone {
				t.Errorf("after its deadline it is %+v (%v)", st, err)
			}
		}},
		{"ExtendMovesTheEnd", func(t T, fx *fixture) {
			fx.need(t, driver.CapLease, func() error {
				return fx.d.Extend(fx.ctx(t), fx.create(t), driver.After(time.Hour))
			})
			first := driver.After(time.Duration(fx.Patience * float64(2*time.Second)))
			h := fx.create(t, func(s *driver.Spec) { s.Until = first })
			x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Hour)))
			if err := fx.d.Extend(fx.ctx(t), h, driver.After(time.Hour)); err != nil {
				t.Fatalf("extend: %v", err)
			}
			if err := fx.d.Extend(fx.ctx(t), h, driver.Now()); err != nil { // never back
				t.Errorf("extend to an earlier moment: %v", err)
			}
			fx.pause(t, first.Left()+500*time.Millisecond)
			if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != driver.PhaseRunning {
				t.Fatalf("an extended sandbox is %+v (%v), want running", st, err)
			}
			if err := fx.d.Stop(fx.ctx(t), h, time.Second, step.CauseCancelled); err != nil {
				t.Errorf("stop: %v", err)
			}
			if r := x.wait(t); r.exit.Cause != step.CauseCancelled {
				t.Errorf("exit %+v, want cause cancelled", *r.exit)
			}
		}},
	}
}

// daemonBeats waits for a Daemon's process to be at work; without a way to
// look into the sandbox while it runs, the case cannot tell and goes on.
func (fx *fixture) daemonBeats(t T, h driver.Handle) {
	t.Helper()
	if fx.desc.Capabilities.Has(driver.CapFiles) || fx.desc.Capabilities.Has(driver.CapMultiExec) {
		fx.eventually(t, "the daemon's file grows", func() bool { return len(fx.readFile(t, h, "/workspace/beat")) > 1 })
	}
}

// daemonIsDead checks that nothing adds to a Daemon's file any more.
func (fx *fixture) daemonIsDead(t T, h driver.Handle) {
	t.Helper()
	if len(fx.readFile(t, h, "/workspace/beat")) == 0 {
		t.Error("the daemon never ran: the case proves nothing")
	}
	if fx.grows(t, h, "/workspace/beat") {
		t.Error("a process that left its session outlived the tree")
	}
}
