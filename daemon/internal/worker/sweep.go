package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/cgroup"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	sweepEvery = 15 * time.Second
	sweepGrace = 30 * time.Second // a sandbox younger than this may be one that is being made
)

// sweeps removes what should not be there, at once and then on a timer.
func (w *Worker) sweeps(ctx context.Context) error {
	for {
		report := w.Sweep(ctx, false)
		for _, e := range report.Errors {
			w.log.Warn("sweep: cannot look everywhere", "err", e)
		}
		timer := time.NewTimer(sweepEvery + rand.N(sweepEvery/4))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// Sweep compares the ledger with the drivers, the control groups, workspaces
// and journals, and destroys what no attempt or run of this installation has,
// and processes that plugins left; a dry run only tells of it. Every removal is logged with its reason, counted,
// and told to the API.
func (w *Worker) Sweep(ctx context.Context, dry bool) wire.SweepReport {
	w.sweeping.Lock()
	defer w.sweeping.Unlock()
	s := &sweep{w: w, report: wire.SweepReport{DryRun: dry, Items: []wire.SweepItem{}}}
	s.sandboxes(ctx)
	s.groups(ctx)
	s.workspaces()
	s.processes()
	s.journals()
	if !dry {
		held, err := w.cfg.UIDs.Sweep()
		if err != nil || held > 0 {
			w.log.Warn("sweep: uids are still in use", "slots", held, "err", err)
		}
	}
	return s.report
}

// sweep is one under way.
type sweep struct {
	w      *Worker
	report wire.SweepReport
}

func (s *sweep) cannot(what string, err error) {
	s.report.Errors = append(s.report.Errors, what+": "+err.Error())
}

// item removes one thing, or tells what would be.
func (s *sweep) item(i wire.SweepItem, remove func() error) {
	if !s.report.DryRun {
		err := remove()
		if i.Removed = err == nil; err != nil {
			i.Error = err.Error()
		}
		s.w.cfg.Observer.Swept(i.Kind, err)
		s.w.log.Warn("sweep: removed", "kind", i.Kind, "name", i.Name, "driver", i.Driver, "reason", i.Reason, "err", err)
		s.w.tellSwept(i)
	}
	s.report.Items = append(s.report.Items, i)
}

// tellSwept has the next heartbeat tell of it.
func (w *Worker) tellSwept(i wire.SweepItem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.swept) < wire.MaxSwept {
		w.swept = append(w.swept, i)
	}
}

func (s *sweep) sandboxes(ctx context.Context) {
	w := s.w
	for _, info := range w.cfg.Drivers.Infos() {
		if !info.Healthy || !hasHost(info.Capabilities) {
			continue // other hosts' sandboxes are in a cloud's list too
		}
		found, err := w.list(ctx, info.Name)
		if err != nil {
			s.cannot("sandboxes of driver "+info.Name, err)
			continue
		}
		for _, l := range found {
			if w.held(l.Handle.ID) != nil || time.Since(l.CreatedAt) < sweepGrace {
				continue
			}
			s.item(wire.SweepItem{Kind: "sandbox", Name: l.Handle.ID, Driver: info.Name, Reason: "no attempt of the ledger has it"}, func() error {
				d, err := w.cfg.Drivers.Driver(info.Name)
				if err != nil {
					return err
				}
				ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
				defer cancel()
				return d.Destroy(ctx, l.Handle)
			})
		}
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

// list are a driver's sandboxes of this installation. One that tells of others'
// too is not believed: nobody but their owner destroys them.
func (w *Worker) list(ctx context.Context, name string) ([]driver.Listed, error) {
	owner, err := w.installation()
	if err != nil || owner == "" {
		return nil, err
	}
	d, err := w.cfg.Drivers.Driver(name)
	if err != nil {
		return nil, err
	}
	all, err := d.List(ctx, owner)
	if err != nil {
		return nil, err
	}
	ours := slices.DeleteFunc(slices.Clone(all), func(l driver.Listed) bool { return l.Tags.Owner != owner })
	if n := len(all) - len(ours); n > 0 {
		w.log.Error("the driver lists sandboxes of other owners, which are left alone", "driver", name, "sandboxes", n)
	}
	return ours, nil
}

func (s *sweep) groups(ctx context.Context) {
	found, err := s.w.cfg.Cgroups.Attempts()
	if err != nil {
		s.cannot("control groups", err)
		return
	}
	// Listed after the groups, so that a group that is being made is known.
	known := map[string]bool{}
	for _, a := range s.w.all() {
		known[cgroup.Name(a.id)] = true
	}
	for _, g := range found {
		if known[g.Attempt] {
			continue
		}
		s.item(wire.SweepItem{Kind: "cgroup", Name: g.Attempt, Reason: "no attempt of the ledger has it"}, func() error {
			ctx, cancel := context.WithTimeout(ctx, removeTimeout)
			defer cancel()
			return g.Remove(ctx)
		})
	}
}

func (s *sweep) workspaces() {
	list := s.w.cfg.Workspaces.Runs
	if s.report.DryRun {
		list = s.w.cfg.Workspaces.Look
	}
	found, err := list()
	if err != nil {
		s.cannot("workspaces", err)
		return
	}
	for _, id := range found {
		s.w.mu.Lock()
		_, known := s.w.runs[id]
		s.w.mu.Unlock()
		if known || s.w.held(id) != nil {
			continue
		}
		s.item(wire.SweepItem{Kind: "workspace", Name: id, Reason: "no run and no attempt of the ledger has it"}, func() error {
			s.w.cfg.Disk.Forget(s.w.cfg.Workspaces.Path(id))
			return s.w.cfg.Workspaces.Remove(id)
		})
	}
}

func (s *sweep) processes() {
	found, err := s.w.cfg.Cgroups.Strays()
	if err != nil {
		s.cannot("plugins' processes", err)
		return
	}
	for _, p := range found {
		s.item(wire.SweepItem{Kind: "process", Name: fmt.Sprintf("%d (%s)", p.PID, p.Name), Driver: p.Plugin, Reason: "its plugin is gone"}, p.Kill)
	}
}

// journals that no attempt of the ledger has: their verdicts are with the API.
func (s *sweep) journals() {
	dir := s.w.cfg.JournalDir
	entries, err := os.ReadDir(dir)
	if err != nil {
		s.cannot("journals", err)
		return
	}
	// Asked after the folder was read: one that is being made is in the ledger.
	ledger, err := s.w.cfg.Ledger.Entries()
	if err != nil {
		s.cannot("ledger", err)
		return
	}
	known := map[string]bool{}
	for _, e := range ledger {
		known[e.Lease.AttemptID] = true
	}
	for _, e := range entries {
		if known[e.Name()] || strings.HasPrefix(e.Name(), ".") || s.w.held(e.Name()) != nil {
			continue
		}
		s.item(wire.SweepItem{Kind: "journal", Name: e.Name(), Reason: "no attempt of the ledger has it"}, func() error {
			return os.RemoveAll(filepath.Join(dir, e.Name()))
		})
	}
}
