package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nofx-run/nofx/internal/admission"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// workDir is where a sandbox shows the workspace.
const workDir = "/workspace"

// execute brings the sandbox about, or finds the one that an earlier process
// made, runs the command to its end and collects what it left. The record of
// a step that was cut short is useful as far as it goes.
func (a *attempt) execute(ctx context.Context) (wire.VerdictRecord, error) {
	started := time.Now()
	d, err := a.w.cfg.Drivers.Driver(a.lease.Driver)
	if err != nil {
		return wire.VerdictRecord{}, err
	}
	about, err := d.Describe(ctx)
	if err != nil {
		return wire.VerdictRecord{}, err
	}
	if a.cancelled() != nil && !a.sandboxed() {
		return wire.VerdictRecord{}, errors.New("cancelled before it began")
	}
	onHost := about.Capabilities.Has(driver.CapHost)
	if !a.sandboxed() {
		if err := a.w.tooMuch(a.lease); err != nil {
			return wire.VerdictRecord{Verdict: failure(step.CausePolicy, err.Error())}, nil
		}
		// The API looked at what the driver said when it registered; it may have
		// become another one since.
		if missing := admission.Missing(a.lease, false, about.Capabilities); missing != "" {
			return wire.VerdictRecord{}, step.Errorf(step.KindUnsupported, "lacks the capability %s", missing)
		}
		if err := a.create(ctx, d, about); err != nil {
			return wire.VerdictRecord{}, err
		}
	}
	if onHost {
		over, leave := a.enter(ctx)
		defer leave()
		if over != nil && !a.journal.Position().Started {
			return wire.VerdictRecord{Verdict: a.diskVerdict(ctx, over.String())}, nil
		}
	}
	out := newOutput(a)
	exit, err := a.follow(ctx, d, out, about)
	record := out.record()
	if err == nil {
		err = out.failed() // the verdict would own up to output that is nowhere
	}
	if err != nil {
		return record, err
	}
	a.hold(failpoint.Exited)
	record.Verdict = verdict(exit)
	out.own(&record.Verdict)
	if onHost {
		a.recheck(&record.Verdict)
		a.measure(ctx, &record.Verdict)
	}
	if record.Verdict.Usage.WallMS == 0 {
		record.Verdict.Usage.WallMS = time.Since(started).Milliseconds()
	}
	if about.Capabilities.Has(driver.CapFiles) && record.Verdict.Cause == step.CauseExit {
		record.Artifacts, err = a.collectPatiently(ctx, d)
	}
	if err == nil && onHost && a.lease.Snapshot && record.Verdict.Success() {
		record.Layer, err = a.save(ctx)
	}
	return record, err
}

// collectPatiently collects again while the driver is away.
func (a *attempt) collectPatiently(ctx context.Context, d driver.Driver) ([]step.Artifact, error) {
	for retry := newRetry(); ; {
		artifacts, err := a.collect(ctx, d)
		if !step.Is(err, step.KindUnavailable) || a.left() < 0 {
			return artifacts, err
		}
		if err := retry.sleep(ctx, err); err != nil {
			return nil, err
		}
	}
}

// left is how long the lease still lasts, as far as is known.
func (a *attempt) left() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.until.Left()
}

// follow runs the command and delivers its output until it has exited, over
// as many deaths of the driver's process as it takes.
func (a *attempt) follow(ctx context.Context, d driver.Driver, out *output, about driver.Description) (*driver.Exit, error) {
	defer out.flush()
	retry := newRetry()
	// In a process that did not start it, what is running is looked for first.
	look := a.journal.Position().Started
	for {
		exit, err := a.once(ctx, d, out, about, look)
		if err == nil {
			return exit, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !step.Is(err, step.KindUnavailable) {
			return nil, err
		}
		if a.left() < 0 {
			return nil, fmt.Errorf("%w: the lease ended while the driver was away: %w", errLost, err)
		}
		a.log.Warn("driver away", "driver", a.lease.Driver, "err", err)
		if err := retry.sleep(ctx, err); err != nil {
			return nil, err
		}
		look = true
	}
}

// once starts the command, or finds it and attaches to it, and delivers
// output up to the exit or an error.
func (a *attempt) once(ctx context.Context, d driver.Driver, out *output, about driver.Description, look bool) (*driver.Exit, error) {
	h := *a.handle()
	found := false
	if look {
		state, err := d.Recover(ctx, h)
		if err != nil {
			return nil, err
		}
		if state.Phase == driver.PhaseGone {
			return nil, errLost
		}
		found = slices.ContainsFunc(state.Execs, func(e driver.ExecState) bool { return e.ID == mainExec })
	}
	if !found {
		if err := a.prepare(ctx, d, h, about); err != nil {
			return nil, err
		}
	}
	var exit *driver.Exit
	sink := func(e driver.ExecEvent) error {
		if e.Exit != nil {
			exit = e.Exit
			return nil
		}
		return out.write(e)
	}
	// The driver ends the step at its time. One that does not, though it is well
	// by its own account, would hold the step, and the lease with it, for ever.
	calling, cancel := a.timely(ctx)
	defer cancel()
	var err error
	if found {
		err = d.Attach(calling, h, mainExec, out.resume(), sink)
	} else {
		err = a.start(calling, d, h, sink)
	}
	if err != nil && ctx.Err() == nil && calling.Err() != nil {
		return nil, step.Errorf(step.KindInternal, "it did not end the step %v after its time: %w", a.w.overdue, err)
	}
	if err == nil && exit == nil {
		err = step.Errorf(step.KindUnavailable, "the driver's stream ended without an exit")
	}
	return exit, err
}

// mostOverdue is how long after a step's time and grace its driver may still be
// at it.
const mostOverdue = 5 * time.Minute

// timely bounds the call that a step's end is waited for in.
func (a *attempt) timely(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.lease.TimeoutMS <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, ms(a.lease.TimeoutMS)+ms(a.lease.GraceMS)+a.w.overdue)
}
