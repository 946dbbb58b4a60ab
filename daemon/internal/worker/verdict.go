package worker

import (
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// verdict is an exit as the API knows it: a code goes with the cause exit, a
// signal with the cause signal, and neither with any other.
func verdict(e *driver.Exit) step.Verdict {
	for _, n := range []*int64{&e.OutputBytes, &e.TotalBytes} {
		*n = known(*n)
	}
	v := step.Verdict{
		Cause: e.Cause, Attested: e.Attested, Message: brief(e.Message), Usage: believable(e.Usage),
		Output: step.Output{StoredBytes: e.OutputBytes, TotalBytes: e.TotalBytes, Truncated: e.Truncated},
	}
	switch e.Cause {
	case step.CauseExit:
		v.ExitCode = &e.Code
	case step.CauseSignal:
		v.Signal = e.Signal
	}
	return v
}

// mostUsed is more than any attempt uses of anything, in bytes and microseconds.
const mostUsed = 1 << 50

// believable leaves out what a driver cannot have measured: added up with others'
// it would spoil the account of all.
func believable(u step.Usage) step.Usage {
	for _, n := range []*int64{&u.WallMS, &u.CPUUsec, &u.MemoryPeakBytes, &u.PidsPeak, &u.IOReadBytes, &u.IOWriteBytes, &u.OutputBytes, &u.NetRxBytes, &u.NetTxBytes, &u.DiskBytes} {
		*n = known(*n)
	}
	return u
}

// known is 0 for what nobody can have counted.
func known(n int64) int64 {
	if n < 0 || n > mostUsed {
		return 0
	}
	return n
}

// recheck reads the kernel's own counters once more: the notification of an
// out-of-memory kill races with the exit.
func (a *attempt) recheck(v *step.Verdict) {
	n, err := a.group().Counters()
	if err != nil {
		a.log.Warn("counters", "err", err)
	}
	v.Usage.CPUUsec = max(v.Usage.CPUUsec, n.CPUUsec)
	v.Usage.MemoryPeakBytes = max(v.Usage.MemoryPeakBytes, n.MemoryPeak)
	v.Usage.IOReadBytes, v.Usage.IOWriteBytes = max(v.Usage.IOReadBytes, n.IORead), max(v.Usage.IOWriteBytes, n.IOWritten)
	if a.lease.Command.Isolation != driver.IsolationGVisor { // whose kernel alone knows the step's
		v.Usage.PidsPeak = max(v.Usage.PidsPeak, n.PidsPeak)
	}
	failed := v.Cause == step.CauseSignal || v.Cause == step.CauseExit && !v.Success()
	switch {
	case failed && n.OOMKills > 0:
		v.Cause = step.CauseOOM
	case failed && n.PidsDenied > 0:
		v.Cause = step.CausePids
	default:
		return
	}
	v.ExitCode, v.Signal = nil, ""
}
