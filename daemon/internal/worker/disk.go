package worker

import (
	"context"
	"fmt"

	"github.com/nofx-run/nofx/daemon/internal/diskwatch"
	"github.com/nofx-run/nofx/sdk/step"
)

// enter has somebody look at what the step puts into its workspace, until leave is
// called. In one that is above its bound already the step is not to begin.
func (a *attempt) enter(ctx context.Context) (over *diskwatch.Over, leave func()) {
	v := diskwatch.Visit{
		Dir: a.w.cfg.Workspaces.Path(a.lease.RunID), Shared: true, Own: a.lease.Resources.DiskMB > 0,
		Limit: a.w.cfg.Default.DiskMB << 20, Pids: a.group().Processes,
		End: func(over diskwatch.Over) { a.endByDisk(ctx, over) },
	}
	if a.ownWorkspace() {
		v.Dir, v.Shared = a.w.cfg.Workspaces.Path(a.id), false
	}
	stay, over := a.w.cfg.Disk.Enter(ctx, v)
	if a.stay = stay; over != nil {
		a.tellDisk(*over)
	}
	if a.overDisk() != "" { // now, or to an earlier process
		go a.halt(ctx, 0)
	}
	return over, stay.Leave
}

// endByDisk ends the step because of what its workspace holds. It is written down
// first, for the driver knows only that somebody wanted its end.
func (a *attempt) endByDisk(ctx context.Context, over diskwatch.Over) {
	if a.tellDisk(over) {
		go a.halt(ctx, 0) // in a grace it would go on writing
	}
}

// tellDisk writes down that the step is ended by what its workspace holds, unless
// it has been cancelled.
func (a *attempt) tellDisk(over diskwatch.Over) bool {
	a.mu.Lock()
	if a.cancel == nil {
		a.entry.Disk = over.String()
	}
	entry := a.entry
	a.mu.Unlock()
	if a.journal.Position().Verdict {
		return false
	}
	a.log.Warn("ends by what its workspace holds", "reason", over.String())
	if err := a.w.cfg.Ledger.Put(entry); err != nil {
		a.log.Error("ledger: after a restart of this process the step would count as cancelled", "err", err)
	}
	return true
}

// overDisk is why the step was told to end, "" when that was not its workspace.
func (a *attempt) overDisk() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.entry.Disk
}

// noRoom says what is full when the step's own files do not fit: the workspace that
// has a size of its own, which is the step's doing or that of those before it, or
// else the worker's disk.
func (a *attempt) noRoom(err error) error {
	switch {
	case a.stay == nil || !step.Is(err, step.KindTooLarge):
		return err
	case a.lease.Resources.DiskMB == 0:
		return step.Errorf(step.KindTooLarge, "the worker's disk is full: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.entry.Disk = fmt.Sprintf("the workspace is full, with %d MiB in all: %v", a.lease.Resources.DiskMB, err)
	return err
}

// diskVerdict is that of a step that never ran, by what its workspace holds.
func (a *attempt) diskVerdict(ctx context.Context, why string) step.Verdict {
	v := failure(step.CauseDisk, why)
	if a.stay != nil {
		v.Usage.DiskBytes = a.stay.Last(ctx).Bytes
	}
	return v
}

// measure adds the most that the workspace has held to a verdict, and names that
// as the cause where it is: what the driver knows of an end that the watch
// brought about is only that somebody wanted it. A file system of the step's own
// may have been full in the middle and have room again.
func (a *attempt) measure(ctx context.Context, v *step.Verdict) {
	peak := a.stay.Last(ctx)
	v.Usage.DiskBytes = max(v.Usage.DiskBytes, peak.Bytes)
	why := a.overDisk()
	switch v.Cause {
	case step.CauseCancelled:
		if why == "" {
			return // by a person
		}
	case step.CauseExit, step.CauseSignal:
		if why == "" && peak.Over != nil {
			why = peak.Over.String()
		}
		if why == "" && peak.Full && !v.Success() {
			why = "the workspace was full while it ran"
		}
		if why == "" {
			return
		}
	default:
		return
	}
	v.Cause, v.Message, v.ExitCode, v.Signal = step.CauseDisk, why, nil, ""
}
