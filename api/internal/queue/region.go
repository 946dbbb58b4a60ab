package queue

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Fleet tells where workers are.
type Fleet interface {
	// Place is the first region of an order in which a live worker, that a tenant
	// with this residency may use, has all of the drivers healthy; else the first
	// that has the first driver; else the first.
	Place(ctx context.Context, order, residency, drivers []string) (string, error)
	// Where is a worker's region, and that of a driver of its; "" = not known.
	Where(ctx context.Context, worker, driver string) (host, region string, err error)
	// Able reports whether a live worker, that a tenant with this residency may use,
	// has the lease's driver healthy, with all that it needs, in a region of an order,
	// and in which; none = in any. Where the run's workspace has to be put together it
	// is one that can do that. What is known may be some seconds old, unless it is to
	// be fresh.
	Able(ctx context.Context, l wire.Lease, shares bool, order, residency []string, fresh bool) (region string, able bool, err error)
	// Known is every driver that a worker has, by name. What is known may be some
	// seconds old, unless it is to be fresh.
	Known(ctx context.Context, fresh bool) (map[string]plan.Driver, error)
}

// unseen is the fleet of a queue that is given none.
type unseen struct{}

func (unseen) Place(_ context.Context, order, _, _ []string) (string, error) {
	return append(slices.Clone(order), "")[0], nil
}

func (unseen) Where(context.Context, string, string) (host, region string, err error) {
	return "", "", nil
}

func (unseen) Able(context.Context, wire.Lease, bool, []string, []string, bool) (region string, able bool, err error) {
	return "", false, nil
}

func (unseen) Known(context.Context, bool) (map[string]plan.Driver, error) { return nil, nil }

// place gives steps that are submitted their regions. Those that share their
// run's workspace go to one.
func (q *Queue) place(ctx context.Context, steps []plan.Step, residency []string) error {
	var together []string // drivers of those that share
	for _, s := range steps {
		if s.Shares() && !slices.Contains(together, s.Driver) {
			together = append(together, s.Driver)
		}
	}
	for i := range steps {
		s := &steps[i]
		order, ok := plan.Allowed(s.Regions, residency)
		if !ok {
			return step.Errorf(step.KindInternal, "step %q has no region left", s.Name)
		}
		drivers := []string{s.Driver}
		if s.Shares() {
			drivers = together
		}
		var err error
		if s.Region, err = q.cfg.Fleet.Place(ctx, order, residency, drivers); err != nil {
			return err
		}
	}
	return nil
}

// placeQueued looks after where queued steps are: it notes which drivers are
// there, and finds other regions for steps that are where their tenant's
// residency does not let them be, and for those that nobody can take where they
// are.
func (q *Queue) placeQueued(ctx context.Context) error {
	if err := q.db.System(ctx, func(db *pgdb.Queries) error { return db.SeeDrivers(ctx) }); err != nil {
		return err
	}
	errs := []error{
		untilFew(q.outsideOut, func(list func(context.Context, *pgdb.Queries) ([]stuck, error)) error {
			return q.failQueued(ctx, step.CausePolicy, list)
		}),
		untilFew(q.outsideOn, func(list func(context.Context, *pgdb.Queries) ([]move, error)) error { return q.moveRegions(ctx, list) }),
	}
	if q.cfg.RegionWait > 0 {
		errs = append(errs, untilFew(q.displaced, func(list func(context.Context, *pgdb.Queries) ([]move, error)) error { return q.moveRegions(ctx, list) }))
	}
	return errors.Join(errs...)
}

// move is a queued step that goes to another region.
type move struct {
	id, runID, from, to, why string
	together                 bool // with the others that share its run's workspace
}

func (q *Queue) displaced(ctx context.Context, db *pgdb.Queries) ([]move, error) {
	rows, err := db.Displaced(ctx, reapMost, seconds(q.cfg.RegionWait))
	out := make([]move, len(rows))
	for i, r := range rows {
		out[i] = move{r.ID, r.RunID, r.FromRegion, r.ToRegion, "no worker in " + r.FromRegion + " has the driver " + r.Driver + " healthy", r.Shares && r.Pin == ""}
		if r.Pin != "" {
			out[i].why = "the worker that has the run's workspace has not the driver " + r.Driver + " in " + r.FromRegion
		}
	}
	return out, err
}

func (q *Queue) outsideOn(ctx context.Context, db *pgdb.Queries) ([]move, error) {
	rows, err := db.Outside(ctx, false, reapMost)
	out := make([]move, len(rows))
	for i, r := range rows {
		out[i] = move{r.ID, r.RunID, r.FromRegion, r.ToRegion, r.FromRegion + " is outside the tenant's residency (" + strings.Join(r.Residency, ", ") + ")", r.Shares && r.Pin == ""}
	}
	return out, err
}

// outsideOut lists those that have nowhere to go. What is bound to a worker
// outside of the residency by a workspace that can be had elsewhere, empty or
// from its layers, goes there.
func (q *Queue) outsideOut(ctx context.Context, db *pgdb.Queries) ([]stuck, error) {
	rows, err := db.Outside(ctx, true, reapMost)
	out := make([]stuck, len(rows))
	for i, r := range rows {
		only := strings.Join(r.Residency, ", ")
		out[i] = stuck{id: r.ID, runID: r.RunID, bound: r.Host != "",
			why: "no region that it may be in (" + strings.Join(r.Regions, ", ") + ") is in the tenant's residency (" + only + ")"}
		if r.Host != "" {
			out[i].why = "the run's workspace is on a worker in " + r.Host + ", outside the tenant's residency (" + only + ")"
		}
	}
	return out, err
}

// moveRegions gives steps another region, with an event that says why.
func (q *Queue) moveRegions(ctx context.Context, list func(context.Context, *pgdb.Queries) ([]move, error)) error {
	c := noChange()
	err := q.db.System(ctx, func(db *pgdb.Queries) error {
		c = noChange()
		found, err := list(ctx, db)
		if err != nil || len(found) == 0 {
			return err
		}
		var single pgdb.MoveRegionsParams
		var whole pgdb.MoveWorkspacesParams
		var runIDs []string
		why := make(map[string]string, len(found)) // by the step, or the run that moves as a whole
		for _, m := range found {
			runIDs = append(runIDs, m.runID)
			switch _, again := why[m.runID]; {
			case !m.together:
				single.Ids, single.Froms, single.Tos = append(single.Ids, m.id), append(single.Froms, m.from), append(single.Tos, m.to)
				why[m.id] = m.why
			case !again:
				whole.RunIds, whole.Froms, whole.Tos = append(whole.RunIds, m.runID), append(whole.Froms, m.from), append(whole.Tos, m.to)
				why[m.runID] = m.why
			}
		}
		runs, err := db.LockRuns(ctx, runIDs)
		if err != nil {
			return err
		}
		c = newChange(runs)
		rows, err := db.MoveRegions(ctx, single)
		if err != nil {
			return err
		}
		for _, s := range rows {
			if err := c.moved(s, why[s.ID]); err != nil {
				return err
			}
		}
		shared, err := db.MoveWorkspaces(ctx, whole)
		if err != nil {
			return err
		}
		for _, s := range shared {
			if err := c.moved(pgdb.MoveRegionsRow(s), why[s.RunID]); err != nil {
				return err
			}
		}
		return c.write(ctx, db)
	})
	if err == nil {
		q.announce(ctx, c)
	}
	return err
}

// moved tells of a step that is in another region now, if it is queued there.
func (c *change) moved(s pgdb.MoveRegionsRow, why string) error {
	if s.Status != string(step.StepQueued) {
		return nil
	}
	c.queued = append(c.queued, place{s.Driver, s.Region, s.Pin})
	return c.event(s.RunID, event.Entry{Type: step.EventStepMoved, StepID: s.ID, StepName: s.Name, Attempt: int(s.Attempt),
		Payload: movedTo(s.FromRegion, s.Region, why)})
}

// in says where a step may be, for a message; "" = anywhere.
func in(regions, residency []string) string {
	order, _ := plan.Allowed(regions, residency)
	if len(order) == 0 {
		return ""
	}
	return " in " + strings.Join(order, ", ")
}
