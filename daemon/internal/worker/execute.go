package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/internal/admission"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/internal/volume"
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

func (a *attempt) group() *cgroup.Group {
	return a.w.cfg.Cgroups.Group(a.lease.TenantID, a.id)
}

// create makes the sandbox and writes its handle down before anything runs in
// it. Whatever an earlier process made under the same id goes first.
func (a *attempt) create(ctx context.Context, d driver.Driver, about driver.Description) error {
	owner, err := a.w.installation()
	if err != nil {
		return err
	}
	a.mu.Lock()
	until := a.until
	a.mu.Unlock()
	spec := driver.Spec{
		ID:        a.id,
		Tags:      driver.Tags{Owner: owner, ID: tag(a.lease)},
		Resources: a.lease.Resources,
		Network:   a.lease.Network,
		Egress:    a.lease.Egress,
		Image:     a.lease.Image,
		Isolation: a.lease.Command.Isolation,
		Until:     until,
	}
	if about.Capabilities.Has(driver.CapHost) {
		if about.Capabilities.Has(driver.CapBlockIO) && spec.Resources.IOMBs == 0 {
			spec.Resources.IOMBs = a.w.cfg.Default.IOMBs
		}
		if err = a.host(ctx, &spec); err != nil {
			return err
		}
	}
	h, err := d.Create(ctx, spec)
	if spec.Resources.IOMBs > 0 && a.lease.Resources.IOMBs == 0 && mayBeTheBound(err) && ctx.Err() == nil {
		// Nobody asked for a bound that it may not be able to hold.
		spec.Resources.IOMBs = 0
		first := err
		if h, err = d.Create(ctx, spec); err == nil {
			a.log.Warn("the driver does not hold the default of io_mb_s; defaults.io_mb_s: 0 spares it the try", "driver", a.lease.Driver, "err", first)
		}
	}
	if err != nil {
		return err
	}
	a.hold(failpoint.Created)
	a.mu.Lock()
	a.entry.Handle = &h
	entry := a.entry
	a.mu.Unlock()
	return a.w.cfg.Ledger.Put(entry)
}

// mayBeTheBound reports whether a sandbox can have failed by a cap that the driver
// or its host does not hold. What is not there, in the way, not allowed or too
// much is so without the cap as well.
func mayBeTheBound(err error) bool {
	switch step.KindOf(err) {
	case step.KindInvalid, step.KindUnsupported, step.KindInternal:
		return true
	}
	return false
}

// tag packs what the attempt is into the nofx_id tag.
func tag(l wire.Lease) string {
	return strings.Join([]string{
		l.TenantID, l.RunID, l.StepID, strconv.Itoa(l.Generation), strconv.Itoa(l.Attempt), strconv.FormatInt(l.Epoch, 10),
	}, ".")
}

// host prepares what a driver on this host needs: control group, uids,
// workspace.
func (a *attempt) host(ctx context.Context, spec *driver.Spec) error {
	if a.uid() == 0 {
		uid, err := a.w.cfg.UIDs.Take()
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.entry.UIDBase = uid
		a.mu.Unlock()
	}
	g := a.group()
	err := g.Make(a.lease.Resources)
	if step.Is(err, step.KindConflict) { // left by a process that died here
		ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
		defer cancel()
		if err := g.Remove(ctx); err != nil {
			return err
		}
		err = g.Make(a.lease.Resources)
	}
	if err != nil {
		return err
	}
	supervisors, err := a.w.cfg.Cgroups.Supervisors()
	if err != nil {
		return err
	}
	host := &driver.HostSpec{
		Cgroup: g.Cgroup(), Supervisor: supervisors,
		UIDBase: a.uid(), UIDCount: a.w.cfg.UIDs.Count(),
	}
	spec.Host = host
	if a.ownWorkspace() {
		host.WorkspaceUID = a.uid() + 1 // the step's
		host.Workspace, err = a.w.cfg.Workspaces.Make(ctx, a.id, host.WorkspaceUID, a.lease.Resources.DiskMB)
	} else {
		host.Workspace, host.WorkspaceUID, err = a.workspace(ctx)
	}
	if err != nil || spec.Resources.IOMBs == 0 {
		return err
	}
	if err = a.limitIO(g, host.Workspace, spec.Resources.IOMBs); err != nil && a.lease.Resources.IOMBs == 0 {
		// Nobody asked for it.
		a.w.unbounded.Do(func() { a.log.Warn("the default of io_mb_s does not hold on this host", "err", err) })
		spec.Resources.IOMBs, err = 0, nil
	}
	return err
}

// ownWorkspace reports whether the step has a workspace that nobody shares.
func (a *attempt) ownWorkspace() bool { return a.lease.Workspace == step.WorkspaceStep }

// limitIO bounds the reads and writes of the device that the workspace is on,
// and of the host's disks.
func (a *attempt) limitIO(g *cgroup.Group, workspace string, mb int64) error {
	devices, err := volume.Below(workspace, a.w.cfg.JournalDir)
	if err != nil {
		return err
	}
	names := make([]string, len(devices))
	for i, d := range devices {
		names[i] = d.String()
	}
	return g.LimitIO(names, mb)
}

// settled waits while the run's workspace is being removed: the run had ended,
// and somebody tries a step of it again.
func (w *Worker) settled(ctx context.Context, run string) error {
	w.mu.Lock()
	gone := w.going[run]
	w.mu.Unlock()
	if gone == nil {
		return nil
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// runOf is the run as the ledger has it, from its first step here on.
func (w *Worker) runOf(l wire.Lease) (ledger.Run, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if run, ok := w.runs[l.RunID]; ok {
		return run, nil
	}
	uid, err := w.cfg.UIDs.Take()
	if err != nil {
		return ledger.Run{}, err
	}
	run := ledger.Run{ID: l.RunID, TenantID: l.TenantID, UID: uid, No: l.WorkspaceNo, Restoring: len(l.Layers) > 0, Boot: w.cfg.Boot}
	if err := w.cfg.Ledger.PutRun(run); err != nil {
		return ledger.Run{}, err
	}
	w.runs[l.RunID] = run
	return run, nil
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
