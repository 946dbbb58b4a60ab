package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/nofx-run/nofx/sdk/driver"
)

// Purge destroys every sandbox of this host and forgets every attempt. It is
// for a worker that does not run.
func (w *Worker) Purge(ctx context.Context) error {
	var errs []error
	entries, err := w.cfg.Ledger.Entries()
	if err != nil {
		return err
	}
	handles := map[string][]driver.Handle{}
	for _, e := range entries {
		if e.Handle != nil {
			handles[e.Lease.Driver] = append(handles[e.Lease.Driver], *e.Handle)
		}
	}
	for _, info := range w.cfg.Drivers.Infos() {
		if !hasHost(info.Capabilities) {
			continue
		}
		found, err := w.list(ctx, info.Name)
		if err != nil {
			errs = append(errs, fmt.Errorf("list %s: %w", info.Name, err))
		}
		for _, l := range found {
			handles[info.Name] = append(handles[info.Name], l.Handle)
		}
	}
	for name, list := range handles {
		d, err := w.cfg.Drivers.Driver(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, h := range list {
			if err := d.Destroy(ctx, h); err != nil {
				errs = append(errs, fmt.Errorf("destroy %s: %w", h.ID, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, e := range entries {
		errs = append(errs, w.cfg.Ledger.Delete(e.Lease.AttemptID))
	}
	return errors.Join(errs...)
}
