// Package fleet knows which drivers the workers of this installation have:
// steps can name drivers that NOFX itself has never heard of, and one that
// waits can say for what.
package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/internal/admission"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	remember = 2 * time.Second
	recent   = 6 * time.Hour // a worker seen since then may come back
)

// Workers reads the workers' rows and remembers them for a moment. It is safe
// for concurrent use.
type Workers struct {
	DB *pg.DB

	mu    sync.Mutex
	last  *picture
	until time.Time
}

// picture is what the rows said. It does not change.
type picture struct {
	known   map[string]plan.Driver
	workers map[string]bool                  // alive, by id
	hosts   map[string]host                  // by the worker's id
	spots   map[string][]spot                // of healthy ones on live workers, by driver
	able    map[string][]driver.Capabilities // of those, likewise
}

// host is a worker: its region, and those of its drivers.
type host struct {
	region  string
	drivers map[string]string
}

// Known is every driver that a worker has, healthy or not, by name. A worker
// counts while it lives and for some hours after.
func (w *Workers) Known(ctx context.Context, fresh bool) (map[string]plan.Driver, error) {
	p, err := w.look(ctx, fresh)
	if err != nil {
		return nil, err
	}
	return p.known, nil
}

// Unable is a capability that a step needs and that its driver lacks on every
// live worker that has it healthy; "" = one has all, or nobody can say yet.
func (w *Workers) Unable(ctx context.Context, l wire.Lease, shares bool) (driver.Capability, error) {
	p, err := w.look(ctx, true)
	if err != nil {
		return "", err
	}
	var missing driver.Capability
	for _, have := range p.able[l.Driver] {
		if missing = admission.Missing(l, shares, have); missing == "" {
			return "", nil
		}
	}
	return missing, nil
}

// Able reports whether a live worker, that a tenant with this residency may use,
// has the lease's driver healthy, with all that it needs, in a region of an order,
// and in which; none = in any. Where the run's workspace has to be put together it
// is one that can do that.
func (w *Workers) Able(ctx context.Context, l wire.Lease, shares bool, order, residency []string, fresh bool) (region string, able bool, err error) {
	p, err := w.look(ctx, fresh)
	if err != nil {
		return "", false, err
	}
	at := -1
	for i, have := range p.able[l.Driver] {
		s := p.spots[l.Driver][i]
		if !s.in(residency) || l.LastLayer != 0 && !s.layers || admission.Missing(l, shares, have) != "" {
			continue
		}
		nth := slices.Index(order, s.region)
		if len(order) > 0 && (nth < 0 || at >= 0 && nth >= at) {
			continue
		}
		region, able, at = s.region, true, nth
	}
	return region, able, nil
}

func (w *Workers) look(ctx context.Context, fresh bool) (*picture, error) {
	now := time.Now()
	w.mu.Lock()
	last, until := w.last, w.until
	w.mu.Unlock()
	if last != nil && !fresh && now.Before(until) {
		return last, nil
	}
	var rows []pgdb.FleetRow
	err := w.DB.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		rows, err = db.Fleet(ctx, recent.Seconds())
		return err
	})
	if err != nil {
		return nil, err
	}
	p, err := draw(rows)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.until = p, now.Add(remember)
	return p, nil
}

func draw(rows []pgdb.FleetRow) (*picture, error) {
	p := &picture{known: map[string]plan.Driver{}, workers: make(map[string]bool, len(rows)), hosts: make(map[string]host, len(rows)),
		spots: map[string][]spot{}, able: map[string][]driver.Capabilities{}}
	for _, row := range rows {
		var drivers []wire.DriverInfo
		if err := json.Unmarshal(row.Drivers, &drivers); err != nil {
			return nil, step.Errorf(step.KindInternal, "drivers of worker %s: %w", row.ID, err)
		}
		p.workers[row.ID] = row.Status != "lost"
		at := host{row.Region, make(map[string]string, len(drivers))}
		p.hosts[row.ID] = at
		for _, d := range drivers {
			k := p.known[d.Name]
			for _, text := range d.Capabilities {
				c := driver.Capability(text)
				k.OnHost, k.ByTenant = k.OnHost || c == driver.CapHost, k.ByTenant || c == driver.CapTenant
				if !k.Caps.Has(c) {
					k.Caps = append(k.Caps, c)
				}
			}
			k.Untold = k.Untold || len(d.Capabilities) == 0
			p.known[d.Name] = k
			at.drivers[d.Name] = cmp.Or(d.Region, row.Region)
			if row.Status != "live" || !d.Healthy {
				continue
			}
			p.spots[d.Name] = append(p.spots[d.Name], spot{row.ID, row.Region, at.drivers[d.Name], row.Layers == nil || *row.Layers})
			caps := make(driver.Capabilities, len(d.Capabilities))
			for i, c := range d.Capabilities {
				caps[i] = driver.Capability(c)
			}
			p.able[d.Name] = append(p.able[d.Name], caps)
		}
	}
	return p, nil
}
