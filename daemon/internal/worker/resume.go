package worker

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/sdk/driver"
)

// resume takes up what an earlier process left: every attempt of the ledger
// goes on where its journal ends.
func (w *Worker) resume(ctx context.Context, group *errgroup.Group) error {
	runs, err := w.cfg.Ledger.Runs()
	if err != nil {
		return err
	}
	for _, r := range runs {
		w.runs[r.ID] = r
		w.cfg.UIDs.Reserve(r.UID)
	}
	entries, err := w.cfg.Ledger.Entries()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range entries {
		known[e.Lease.AttemptID] = true
		if e.UIDBase != 0 {
			w.cfg.UIDs.Reserve(e.UIDBase)
		}
		a, err := w.takeUp(e)
		if err != nil {
			return err
		}
		a.log.Info("taken up again", "sandboxed", a.sandboxed(), "position", a.journal.Position())
		group.Go(func() error {
			select {
			case w.slots <- struct{}{}:
				defer w.giveBack(1)
			case <-ctx.Done():
				return nil
			}
			if !a.sandboxed() && !a.journal.Position().Verdict {
				// It may exist all the same: the process died before it knew.
				w.destroyUnknown(ctx, a)
			}
			a.run(ctx)
			return nil
		})
	}
	if err := w.cfg.UIDs.Occupied(); err != nil {
		return err
	}
	return w.orphanJournals(known)
}

// takeUp adds an attempt of the ledger. One whose journal a crash of the host
// has spoilt is given up, lest it keep the daemon from all others: its sandbox
// goes, its lease runs out, and the API ends it as lost.
func (w *Worker) takeUp(e ledger.Entry) (*attempt, error) {
	// Until the first heartbeat nobody here knows how long the lease still
	// lasts; the supervisor does, and acts on it.
	until := driver.After(ms(e.Lease.LeaseMS))
	a, err := w.add(e, until)
	if err == nil {
		return a, nil
	}
	w.log.Error("journal unreadable; the attempt is given up", "attempt", e.Lease.AttemptID, "err", err)
	if err := os.RemoveAll(filepath.Join(w.cfg.JournalDir, e.Lease.AttemptID)); err != nil {
		return nil, err
	}
	if a, err = w.add(e, until); err != nil {
		return nil, err
	}
	a.fence()
	return a, nil
}

// destroyUnknown destroys a sandbox that was made for the attempt but whose
// handle was never written down.
func (w *Worker) destroyUnknown(ctx context.Context, a *attempt) {
	found, err := w.list(ctx, a.lease.Driver)
	if err != nil {
		a.log.Warn("cannot look for a sandbox of it", "err", err)
		return
	}
	for _, l := range found {
		if l.Handle.ID != a.id {
			continue
		}
		d, err := w.cfg.Drivers.Driver(a.lease.Driver)
		if err == nil {
			err = d.Destroy(ctx, l.Handle)
		}
		if err != nil {
			a.log.Warn("a half-known sandbox stays", "err", err)
		}
	}
}

// orphanJournals removes journals that no attempt of the ledger has: their
// verdicts are with the API.
func (w *Worker) orphanJournals(known map[string]bool) error {
	entries, err := os.ReadDir(w.cfg.JournalDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !known[e.Name()] || strings.HasPrefix(e.Name(), ".artifact-") {
			if err := os.RemoveAll(filepath.Join(w.cfg.JournalDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
