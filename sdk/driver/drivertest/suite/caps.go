package suite

import (
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func capCases() []testCase {
	return []testCase{
		{"CPUCap", cpuCap},
		{"MemoryCap", func(t T, fx *fixture) {
			fx.needCap(t, driver.CapMemory)
			limit := func(s *driver.Spec) { s.Resources.MemoryMB = 64 }
			r := fx.run(t, fx.create(t, limit), fx.exec(fx.Programs.Alloc(256)))
			if r.exit.Cause != step.CauseOOM {
				t.Errorf("256 MiB of 64: exit %+v, want cause oom", *r.exit)
			}
			if peak := r.exit.Usage.MemoryPeakBytes; peak > 0 && (peak < 32<<20 || peak > 80<<20) {
				t.Errorf("256 MiB of 64: the peak is said to be %d bytes", peak)
			}
			r = fx.run(t, fx.create(t, limit), fx.exec(fx.Programs.Alloc(16)))
			if r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
				t.Errorf("16 MiB of 64: exit %+v", *r.exit)
			}
		}},
		{"PidsCap", func(t T, fx *fixture) {
			fx.needCap(t, driver.CapPids)
			limit := func(s *driver.Spec) { s.Resources.Pids = 24 }
			r := fx.run(t, fx.create(t, limit), fx.exec(fx.Programs.Fork(100)))
			if r.exit.Cause != step.CausePids {
				t.Errorf("100 processes of 24: exit %+v, want cause pids", *r.exit)
			}
			r = fx.run(t, fx.create(t, limit), fx.exec(fx.Programs.Fork(5)))
			if r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
				t.Errorf("5 processes of 24: exit %+v, %q", *r.exit, r.stderr)
			}
		}},
		{"DiskCap", func(t T, fx *fixture) {
			fx.needCap(t, driver.CapDisk)
			limit := func(s *driver.Spec) { s.Resources.DiskMB = 16 }
			r := fx.run(t, fx.create(t, limit), fx.exec(fx.Programs.Fill("/workspace/full", 64)))
			if r.exit.Cause != step.CauseDisk {
				t.Errorf("64 MiB of 16: exit %+v, want cause disk", *r.exit)
			}
			r = fx.run(t, fx.create(t, limit), fx.exec(fx.Programs.Fill("/workspace/some", 4)))
			if r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
				t.Errorf("4 MiB of 16: exit %+v, %q", *r.exit, r.stderr)
			}
		}},
		{"BlockIOCap", blockIOCap},
	}
}

// needCap skips a case of a cap that the driver does not enforce; its refusal
// is in RefusesWhatItCannot.
func (fx *fixture) needCap(t T, c driver.Capability) {
	t.Helper()
	fx.need(t, c, nil)
	if fx.desc.Capabilities.Has(driver.CapHost) && !fx.Caps {
		unjudged(t, "the factory does not set up %s: it is the daemon's work", c)
	}
}
