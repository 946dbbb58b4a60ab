package suite

import (
	"bytes"
	"context"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func killCases() []testCase {
	return []testCase{
		{"KilledBetweenAllCalls", killedBetweenAllCalls},
		{"KilledWhileCreating", func(t T, fx *fixture) {
			fx.needProcess(t)
			for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond} {
				spec := fx.spec(t)
				ended := make(chan error, 1)
				go func(d driver.Driver) {
					_, err := d.Create(fx.ctx(t), spec)
					ended <- err
				}(fx.d)
				fx.pause(t, after)
				fx.again(t)
				if err := <-ended; err != nil {
					t.Logf("the call whose process was killed: %v", err)
				}
				h, err := fx.d.Create(fx.ctx(t), spec)
				if err != nil {
					t.Fatalf("create again, after the process was killed %v into the first: %v", after, err)
				}
				if r := fx.run(t, h, fx.exec(fx.Programs.Exit(6))); r.exit.Cause != step.CauseExit || r.exit.Code != 6 {
					t.Errorf("exec in a sandbox whose first create was killed after %v: %+v", after, *r.exit)
				}
				fx.destroy(t, h)
			}
			fx.nothingIsLeft(t)
		}},
		{"KilledWhileDestroying", func(t T, fx *fixture) {
			fx.needProcess(t)
			for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
				h := fx.create(t)
				fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
				ended := make(chan error, 1)
				go func(d driver.Driver) { ended <- d.Destroy(fx.ctx(t), h) }(fx.d)
				fx.pause(t, after)
				fx.again(t)
				if err := <-ended; err != nil {
					t.Logf("the call whose process was killed: %v", err)
				}
				fx.destroy(t, h)
				fx.isGone(t, h)
			}
			fx.nothingIsLeft(t)
		}},
		{"KilledWithoutReattach", func(t T, fx *fixture) {
			if fx.desc.Capabilities.Has(driver.CapReattach) {
				t.Skip("the driver declares reattach: KilledBetweenAllCalls says more")
			}
			fx.needProcess(t)
			spec := fx.spec(t)
			h, err := fx.d.Create(fx.ctx(t), spec)
			if err != nil {
				t.Fatalf("create: %v", err)
			}
			fx.startReady(t, h, fx.exec(fx.Programs.Stubborn))
			fx.again(t)
			fx.destroy(t, h) // whatever became of it
			if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != driver.PhaseGone {
				t.Errorf("recover after the process was killed and the sandbox destroyed: %+v, %v; want gone", st, err)
			}
			fx.nothingIsLeft(t)
			h, err = fx.d.Create(fx.ctx(t), spec)
			if err != nil {
				t.Fatalf("create under the same id: %v", err)
			}
			fx.destroy(t, h)
		}},
	}
}

// needProcess skips a case that kills the process in the middle of its work.
func (fx *fixture) needProcess(t T) {
	t.Helper()
	if fx.restart == nil || !fx.process {
		t.Skip("the driver does not run in a process of its own here")
	}
}

// again kills the driver's process and starts another.
func (fx *fixture) again(t T) {
	t.Helper()
	fx.d = fx.restart(t)
	if err := fx.d.Configure(fx.ctx(t), fx.Config); err != nil {
		t.Fatalf("configure after a restart: %v", err)
	}
}

func (fx *fixture) nothingIsLeft(t T) {
	t.Helper()
	if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 0 {
		t.Errorf("%d sandboxes are left (%v)", len(all), err)
	}
}

// killedBetweenAllCalls takes a sandbox through its life, and the driver's
// process does not survive a single call.
func killedBetweenAllCalls(t T, fx *fixture) {
	fx.needRestart(t)
	is := func(h driver.Handle, want driver.Phase) {
		t.Helper()
		if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != want {
			t.Fatalf("recover: %+v, %v; want %s", st, err, want)
		}
		fx.again(t)
	}
	spec := fx.spec(t)
	leased := fx.desc.Capabilities.Has(driver.CapLease)
	if leased {
		spec.Until = driver.After(time.Duration(fx.Patience * float64(3*time.Second)))
	}
	h, err := fx.d.Create(fx.ctx(t), spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { fx.destroy(t, h) })
	fx.again(t)
	if leased { // first of all: its end is near
		if err := fx.d.Extend(fx.ctx(t), h, driver.After(time.Hour)); err != nil {
			t.Fatalf("extend: %v", err)
		}
		fx.again(t)
	}
	same, err := fx.d.Create(fx.ctx(t), spec)
	if err != nil || same.ID != h.ID || !bytes.Equal(same.Data, h.Data) {
		t.Fatalf("create again: %+v, %v; want %+v", same, err, h)
	}
	fx.again(t)
	is(h, driver.PhaseCreated)
	if fx.desc.Capabilities.Has(driver.CapFiles) {
		fx.copyIn(t, h, "/workspace", file("in", "copied"))
		fx.again(t)
	}
	x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Hour)))
	fx.again(t)
	_ = x.detached(t)
	is(h, driver.PhaseRunning)
	if fx.desc.Capabilities.Has(driver.CapFiles) {
		if got := fx.readFile(t, h, "/workspace/in"); string(got) != "copied" {
			t.Errorf("the file holds %q", got)
		}
		fx.again(t)
	}
	if fx.desc.Capabilities.Has(driver.CapStats) {
		if _, err := fx.d.Stats(fx.ctx(t), h); err != nil {
			t.Errorf("stats: %v", err)
		}
		fx.again(t)
	}
	if leased { // the end that it was made with comes, and what was extended is not
		fx.pause(t, max(0, spec.Until.Left())+500*time.Millisecond)
		is(h, driver.PhaseRunning)
	}
	if err := fx.d.Signal(fx.ctx(t), h, x.spec.ID, "SIGTERM"); err != nil {
		t.Fatalf("signal: %v", err)
	}
	fx.again(t)
	first := fx.attach(t, h, x.spec.ID, 0)
	if string(first.all) != "ready\n" || first.exit.Cause != step.CauseSignal || first.exit.Signal != "SIGTERM" {
		t.Errorf("attach: %q, exit %+v", first.all, *first.exit)
	}
	fx.again(t)
	is(h, driver.PhaseExited)
	if r := fx.run(t, h, x.spec); string(r.all) != "ready\n" || *r.exit != *first.exit {
		t.Errorf("the repeated exec: %q, exit %+v; it was %+v", r.all, *r.exit, *first.exit)
	}
	fx.again(t)
	if err := fx.d.Stop(fx.ctx(t), h, time.Second, step.CauseCancelled); err != nil {
		t.Errorf("stop: %v", err)
	}
	fx.again(t)
	if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 1 || all[0].Handle.ID != h.ID || all[0].Tags != spec.Tags {
		t.Errorf("list: %+v, %v", all, err)
	}
	fx.again(t)
	fx.destroy(t, h)
	fx.again(t)
	is(h, driver.PhaseGone)
	fx.isGone(t, h)
	fx.nothingIsLeft(t)
}

// cancelled is a context that ends after d, at once with 0.
func (fx *fixture) cancelled(t T, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(fx.ctx(t))
	if d == 0 {
		cancel()
		return ctx, cancel
	}
	timer := time.AfterFunc(d, cancel)
	return ctx, func() { timer.Stop(); cancel() }
}
