package suite

import (
	"fmt"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// spun is what Spin said, over some runs.
type spun struct{ work, wall, cpu float64 } // of times in ms

func (s *spun) add(o spun) { s.work, s.wall, s.cpu = s.work+o.work, s.wall+o.wall, s.cpu+o.cpu }

// rate is how fast it went, share what it had of a processor.
func (s spun) rate() float64  { return s.work / max(s.wall, 1) }
func (s spun) share() float64 { return s.cpu / max(s.wall, 1) }

// cpuCap spins in two sandboxes at once, of which one may use a tenth of a
// processor and the other a whole one. On a busy machine both get less, so
// what each got done is compared, over several rounds if need be; a driver is
// blamed only for what the program had by its own account.
func cpuCap(t T, fx *fixture) {
	fx.needCap(t, driver.CapCPU)
	needProgram(t, "spin", fx.Programs.Spin != nil)
	const share, rounds = 0.1, 10
	gvisor := fx.gvisor(t)
	var small, large spun
	for round := range rounds {
		a, b := fx.spin(t, share), fx.spin(t, 1)
		sa, exit := fx.spun(t, a)
		sb, _ := fx.spun(t, b)
		small.add(sa)
		large.add(sb)
		checkUsage(t, sa, exit.Usage, share, gvisor)
		ratio := small.rate() / max(large.rate(), 1e-9)
		switch {
		case round == 0: // one round may be chance
		case ratio <= 0.5, ratio <= 0.7 && small.share() <= 1.5*share:
			return
		case ratio >= 0.75 && (small.share() > 0.5 || round > rounds/2 && small.share() > 2*share) && !gvisor:
			t.Errorf("with %g of a processor a program gets as much done as with a whole one (%.2f of it), and had %.2f of a processor", share, ratio, small.share())
			return
		}
	}
	unjudged(t, "with %g of a processor a program got done %.2f of what it does with a whole one, of which that one had %.2f: this machine is too busy to tell why",
		share, small.rate()/max(large.rate(), 1e-9), large.share())
}

// spin starts to spin in a sandbox of its own with a share of a processor.
func (fx *fixture) spin(t T, share float64) *running {
	t.Helper()
	h := fx.create(t, func(s *driver.Spec) { s.Resources.CPU = share })
	return fx.start(t, h, fx.exec(fx.Programs.Spin(1500*time.Millisecond)))
}

// spun waits for what a spinning program says.
func (fx *fixture) spun(t T, x *running) (spun, driver.Exit) {
	t.Helper()
	r := x.wait(t)
	var s spun
	if _, err := fmt.Sscan(string(r.stdout), &s.work, &s.wall, &s.cpu); err != nil || r.exit.Cause != step.CauseExit || r.exit.Code != 0 || s.wall <= 0 {
		t.Fatalf("spinning: %q, %q, exit %+v", r.stdout, r.stderr, *r.exit)
	}
	return s, *r.exit
}

// checkUsage compares what the driver says that a program used with what the
// program says and may use, where the driver says anything.
func checkUsage(t T, s spun, u step.Usage, share float64, gvisor bool) {
	t.Helper()
	if u.CPUUsec == 0 {
		return
	}
	said := float64(u.CPUUsec) / 1000
	if most := 2*share*max(s.wall, float64(u.WallMS)) + 200; said > most {
		t.Errorf("with %g of a processor it used %.0f ms in %.0f ms by the driver's account", share, said, s.wall)
	}
	// gVisor's programs count time in which they could have run.
	if s.cpu > 100 && said < s.cpu/2 && !gvisor {
		t.Errorf("it used %.0f ms of processor time by its own account, and %.0f by the driver's", s.cpu, said)
	}
}

// gvisor reports whether the factory's sandboxes have gVisor for a kernel.
func (fx *fixture) gvisor(t T) bool {
	t.Helper()
	return fx.spec(t).Isolation == driver.IsolationGVisor
}

// blockIOCap moves data past the cache, with a cap and without. The kernel
// bounds what a device is asked for; where nothing asks a device, or the
// device is as slow as the cap, there is nothing to see.
func blockIOCap(t T, fx *fixture) {
	fx.needCap(t, driver.CapBlockIO)
	needProgram(t, "transfer", fx.Programs.Transfer != nil)
	const rate, mib = 2, 6 // MiB a second, MiB
	free := fx.transfer(t, 0, mib)
	capped := fx.transfer(t, rate, mib)
	const least = 1000 * mib / rate / 2 // ms
	gvisor := fx.gvisor(t)
	switch capped.device {
	case "tmpfs", "ramfs", "devtmpfs":
		unjudged(t, "/workspace lies in memory (%s)", capped.device)
	}
	for _, way := range []struct {
		what         string
		capped, free float64
	}{{"writing", capped.write, free.write}, {"reading", capped.read, free.read}} {
		switch {
		case way.capped < least && gvisor:
			unjudged(t, "%s took %.0f ms: gVisor goes through the host's cache, whatever a program asks for", way.what, way.capped)
		case way.capped < least:
			t.Errorf("%s %d MiB at %d MiB a second took %.0f ms", way.what, mib, rate, way.capped)
		case way.free > way.capped/2:
			unjudged(t, "%s %d MiB took %.0f ms with a cap of %d MiB a second and %.0f ms without: the device is too slow to tell", way.what, mib, way.capped, rate, way.free)
		}
	}
}

// moved is what Transfer said.
type moved struct {
	device      string
	write, read float64 // ms
}

func (fx *fixture) transfer(t T, rate, mib int64) moved {
	t.Helper()
	h := fx.create(t, func(s *driver.Spec) { s.Resources.IOMBs = rate })
	r := fx.run(t, h, fx.exec(fx.Programs.Transfer("/workspace/moved", mib)))
	var m moved
	_, err := fmt.Sscan(string(r.stdout), &m.device, &m.write, &m.read)
	if err != nil || r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
		unjudged(t, "nothing can be moved past the cache in /workspace: %.200q, exit %d", r.stderr, r.exit.Code)
	}
	return m
}
