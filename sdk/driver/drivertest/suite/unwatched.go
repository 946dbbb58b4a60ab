package suite

import (
	"bytes"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// unwatchedCases are ends that come though nobody looks: the daemon may be away, and
// the driver's process too.
func unwatchedCases() []testCase {
	return []testCase{
		{"TimeoutWithNobodyReading", func(t T, fx *fixture) {
			fx.need(t, driver.CapWallTime, nil)
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Hour), func(e *driver.ExecSpec) {
				e.Timeout, e.Grace = time.Duration(fx.Patience*float64(3*time.Second)), 100*time.Millisecond
			}))
			if st := fx.endsUnread(t, h, x); len(st.Execs) != 1 || st.Execs[0].Exit.Cause != step.CauseTimeout {
				t.Errorf("its time passed with nobody reading: %+v, want cause timeout", st)
			}
		}},
		{"LeaseEndsWithNobodyReading", func(t T, fx *fixture) {
			fx.need(t, driver.CapLease, nil)
			h := fx.create(t, func(s *driver.Spec) {
				s.Until = driver.After(time.Duration(fx.Patience * float64(3*time.Second)))
			})
			x := fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
			if st := fx.endsUnread(t, h, x); len(st.Execs) > 0 && st.Execs[0].Exit.Cause == step.CauseExit {
				t.Errorf("its deadline passed with nobody reading: exit %+v", *st.Execs[0].Exit)
			}
		}},
		{"LeaseEndsWithoutTheProcess", leaseEndsWithoutTheProcess},
	}
}

// endsUnread leaves a program alone and waits for the driver to say that it has
// ended.
func (fx *fixture) endsUnread(t T, h driver.Handle, x *running) driver.State {
	t.Helper()
	x.cancel()
	_ = x.detached(t)
	var st driver.State
	fx.eventually(t, "it ends with nobody reading", func() bool {
		var err error
		if st, err = fx.d.Recover(fx.ctx(t), h); err != nil {
			t.Fatalf("recover: %v", err)
		}
		for _, e := range st.Execs {
			if e.Exit == nil {
				return false
			}
		}
		return st.Phase == driver.PhaseExited || st.Phase == driver.PhaseGone
	})
	return st
}

// leaseEndsWithoutTheProcess kills the driver's process for good, as far as the
// sandbox can tell: what a lease is worth is that another worker may have the step
// once it has passed. How much the program wrote says how long it lived.
func leaseEndsWithoutTheProcess(t T, fx *fixture) {
	fx.need(t, driver.CapLease, nil)
	fx.needRestart(t)
	fx.needProcess(t)
	const every = 100 * time.Millisecond
	lease, slack := time.Duration(fx.Patience*float64(4*time.Second)), time.Duration(fx.Patience*float64(time.Second))
	until := driver.After(lease)
	h := fx.create(t, func(s *driver.Spec) { s.Until = until })
	most := int((until.Left() + slack) / every)
	x := fx.start(t, h, fx.exec(fx.Programs.Count(100_000, every)))
	x.until(t, fx.ctx(t), "3\n")
	fx.d = fx.restart(t) // and it is told nothing yet
	_ = x.detached(t)
	fx.pause(t, max(0, until.Left())+3*slack)
	if err := fx.d.Configure(fx.ctx(t), fx.Config); err != nil {
		t.Fatalf("configure: %v", err)
	}
	if st, err := fx.d.Recover(fx.ctx(t), h); err == nil && st.Phase == driver.PhaseGone {
		return
	}
	r := fx.attach(t, h, x.spec.ID, 0)
	if n := bytes.Count(r.all, []byte("\n")); r.exit.Cause == step.CauseExit || n > most {
		t.Errorf("with the driver's process dead it outlived its deadline: it wrote %d lines, one every %v at most, within a lease of %v (exit %+v)", n, every, lease, *r.exit)
	}
}
