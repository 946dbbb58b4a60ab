package worker

import (
	"context"
	"strconv"
	"strings"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

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
