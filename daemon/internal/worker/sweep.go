package worker

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/sdk/driver"
)

const (
	sweepEvery = 15 * time.Second
	sweepGrace = 30 * time.Second // a sandbox younger than this may be one that is being made
)

// sweeps removes what should not be there, at once and then on a timer.
func (w *Worker) sweeps(ctx context.Context) error {
	for {
		w.sweep(ctx)
		timer := time.NewTimer(sweepEvery + rand.N(sweepEvery/4))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// sweep compares the ledger with the drivers, the control groups and the
// workspaces, and destroys what no attempt or run of this installation has.
// Every removal is logged with its reason.
func (w *Worker) sweep(ctx context.Context) {
	for _, info := range w.cfg.Drivers.Infos() {
		if !info.Healthy || !hasHost(info.Capabilities) {
			continue // other hosts' sandboxes are in a cloud's list too
		}
		found, err := w.list(ctx, info.Name)
		if err != nil {
			w.log.Warn("sweep: cannot list", "driver", info.Name, "err", err)
			continue
		}
		for _, l := range found {
			if w.held(l.Handle.ID) != nil || time.Since(l.CreatedAt) < sweepGrace {
				continue
			}
			d, err := w.cfg.Drivers.Driver(info.Name)
			if err == nil {
				err = d.Destroy(ctx, l.Handle)
			}
			w.log.Warn("sweep: destroyed a sandbox", "driver", info.Name, "sandbox", l.Handle.ID, "reason", "no attempt of the ledger has it", "err", err)
		}
	}
	w.sweepGroups(ctx)
	w.sweepWorkspaces()
	held, err := w.cfg.UIDs.Sweep()
	if err != nil || held > 0 {
		w.log.Warn("sweep: uids are still in use", "slots", held, "err", err)
	}
}

func hasHost(capabilities []string) bool {
	for _, c := range capabilities {
		if c == string(driver.CapHost) {
			return true
		}
	}
	return false
}

func (w *Worker) list(ctx context.Context, name string) ([]driver.Listed, error) {
	owner, err := w.installation()
	if err != nil || owner == "" {
		return nil, err
	}
	d, err := w.cfg.Drivers.Driver(name)
	if err != nil {
		return nil, err
	}
	return d.List(ctx, owner)
}

func (w *Worker) sweepGroups(ctx context.Context) {
	found, err := w.cfg.Cgroups.Attempts()
	if err != nil {
		w.log.Warn("sweep: control groups", "err", err)
		return
	}
	// Listed after the groups, so that a group that is being made is known.
	known := map[string]bool{}
	for _, a := range w.all() {
		known[cgroup.Name(a.id)] = true
	}
	for _, g := range found {
		if known[g.Attempt] {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, removeTimeout)
		err := g.Remove(ctx)
		cancel()
		w.log.Warn("sweep: removed a control group", "attempt", g.Attempt, "reason", "no attempt of the ledger has it", "err", err)
	}
}

func (w *Worker) sweepWorkspaces() {
	found, err := w.cfg.Workspaces.Runs()
	if err != nil {
		w.log.Warn("sweep: workspaces", "err", err)
		return
	}
	for _, id := range found {
		w.mu.Lock()
		_, known := w.runs[id]
		w.mu.Unlock()
		if known || w.held(id) != nil {
			continue
		}
		err := w.cfg.Workspaces.Remove(id)
		w.log.Warn("sweep: removed a workspace", "name", id, "reason", "no run and no attempt of the ledger has it", "err", err)
	}
}
