package supervised

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// exitOf reads a supervisor's record. The error is for an exec that never ran.
func exitOf(r *supervisor.Record) (*driver.Exit, error) {
	x := &driver.Exit{
		Code:        -1,
		Attested:    step.AttestedKernel,
		Message:     r.Note(),
		OutputBytes: int64(r.Kept),
		TotalBytes:  int64(r.Total),
		Truncated:   r.Truncated,
		Usage: step.Usage{
			WallMS:          int64(r.EndedNS-min(r.StartedNS, r.EndedNS)) / 1e6,
			CPUUsec:         max(r.CPUUsec, 0),
			MemoryPeakBytes: max(r.MemoryPeak, 0),
			PidsPeak:        max(r.PidsPeak, 0),
			IOReadBytes:     max(r.IORead, 0),
			IOWriteBytes:    max(r.IOWrite, 0),
			OutputBytes:     int64(r.Total),
		},
	}
	if r.HasStatus {
		switch ws := unix.WaitStatus(uint32(r.WaitStatus)); {
		case ws.Exited():
			x.Code = ws.ExitStatus()
		case ws.Signaled():
			x.Signal = signalName(ws.Signal())
		}
	}
	return x, setCause(x, r)
}

func setCause(x *driver.Exit, r *supervisor.Record) error {
	failed := x.Code != 0
	switch r.Why {
	case supervisor.WhyTimeout:
		x.Cause = step.CauseTimeout
	case supervisor.WhyOutput:
		x.Cause = step.CauseOutput
	case supervisor.WhyCancelled:
		x.Cause = step.CauseCancelled
	case supervisor.WhyOOM:
		x.Cause = step.CauseOOM
	case supervisor.WhyLease:
		x.Cause, x.Message = step.CauseLost, "the lease ended before the step did"
	case supervisor.WhyLost:
		x.Cause = step.CauseLost
	case supervisor.WhyStart:
		return startError(x, r)
	default:
		switch {
		case failed && r.OOMKills > 0:
			x.Cause = step.CauseOOM
		case failed && r.PidsDenied > 0:
			x.Cause = step.CausePids
		case x.Signal != "":
			x.Cause = step.CauseSignal
		default:
			x.Cause = step.CauseExit
		}
	}
	return nil
}

// startError tells of an exec whose process could not be made. Of the step's
// doing is only that there was no room for one more process.
func startError(x *driver.Exit, r *supervisor.Record) error {
	errno := unix.Errno(r.StartErrno)
	if r.PidsDenied > 0 && errno == unix.EAGAIN {
		x.Cause, x.Message = step.CausePids, "there was no process left for it"
		return nil
	}
	if r.OOMKills > 0 {
		x.Cause = step.CauseOOM
		return nil
	}
	kind := step.KindInternal
	switch errno {
	case unix.EAGAIN, unix.ENOMEM:
		kind = step.KindUnavailable
	case unix.ESRCH, unix.EPIPE, unix.ECONNRESET: // PID 1 had ended
		return step.Errorf(step.KindConflict, "the sandbox has ended")
	}
	return step.Errorf(kind, "the exec could not be started: %s: %w", r.Note(), errno)
}

func signalName(s unix.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", int(s))
}

// signalOf is the signal of a name like SIGTERM.
func signalOf(name string) (unix.Signal, error) {
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	return 0, step.Errorf(step.KindInvalid, "there is no signal %.40q", name)
}

// disk tells of a workspace with a cap, and that a step failed with it full.
func disk(dir string, x *driver.Exit) {
	s, err := readSpec(dir)
	if err != nil || s.Spec.Resources.DiskMB == 0 || s.Spec.Host == nil {
		return
	}
	if own, err := volume.Mounted(s.Spec.Host.Workspace); err != nil || !own {
		return // the host has been down: what is there now is the host's own disk
	}
	use, err := volume.Look(s.Spec.Host.Workspace)
	if err != nil {
		return
	}
	x.Usage.DiskBytes = use.Used
	if use.Full && (x.Cause == step.CauseExit && x.Code != 0 || x.Cause == step.CauseSignal) {
		x.Cause, x.Message = step.CauseDisk, "the workspace is full"
	}
}

// network tells what a step that failed may have failed by, "" when nothing.
func network(dir string, u egress.Use) string {
	if u.Ended {
		// It ends with the supervisor; before that, it has died.
		if life, err := supervisor.Look(dir); err == nil && life.Alive {
			return "the sandbox's network has failed: its gateway died"
		}
	}
	if u.Refused > 0 {
		return fmt.Sprintf("the network refused %d calls, the first: %s", u.Refused, u.Refusal)
	}
	return ""
}

// exitOf reads a supervisor's record, and asks the engine about an end that
// the supervisor has no reason for.
func (b *Boxes) exitOf(ctx context.Context, dir string, r *supervisor.Record) (*driver.Exit, error) {
	x, err := exitOf(r)
	if err == nil {
		disk(dir, x)
	}
	if u, uerr := egress.ReadUse(dir); err == nil && uerr == nil {
		x.Usage.NetRxBytes, x.Usage.NetTxBytes = u.Received, u.Sent
		if x.Message == "" && x.Code != 0 {
			x.Message = network(dir, u)
		}
	}
	if err == nil && r.Why == supervisor.WhyLost {
		b.engine.Amend(ctx, filepath.Base(dir), dir, x)
	}
	return x, err
}
