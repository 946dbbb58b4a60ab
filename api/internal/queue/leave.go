package queue

import (
	"context"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/wake"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/wire"
)

// unfit is a lease that its worker's driver cannot do.
type unfit struct {
	lease     wire.Lease
	shares    bool
	region    string   // that the step is placed in; "" = anywhere
	order     []string // of regions that it may be in
	residency []string // of its tenant; none = no rule
	missing   driver.Capability
}

// where are the regions in which another worker may have the step, first the one
// that it is placed in; none = anywhere.
func (u unfit) where(moves bool) []string {
	if u.region == "" {
		return nil
	}
	out := []string{u.region}
	for _, r := range u.order {
		if moves && r != u.region {
			out = append(out, r)
		}
	}
	return out
}

// option is what there is for a step that a worker cannot do.
type option struct {
	others bool   // can do it
	region string // in which
	far    string // region in which one could that must not; "" = none
}

// options looks who else could do the steps.
func (q *Queue) options(ctx context.Context, all []unfit) ([]option, error) {
	out := make([]option, len(all))
	for i, u := range all {
		region, able, err := q.cfg.Fleet.Able(ctx, u.lease, u.shares, u.where(q.cfg.RegionWait > 0), u.residency, i == 0)
		if err == nil && !able {
			region, _, err = q.cfg.Fleet.Able(ctx, u.lease, u.shares, nil, nil, false)
			out[i].far = region
		}
		if err != nil {
			return nil, err
		}
		if out[i].others = able; able {
			out[i].region = region
		}
	}
	return out, nil
}

// leave finds out who else could do what a claim took that was undone. A run that
// is bound to the worker is let go, if it can do without it, and a step goes to
// another of its regions where only a worker there can do it.
func (q *Queue) leave(ctx context.Context, worker string, all []unfit) error {
	options, err := q.options(ctx, all)
	if err != nil {
		return err
	}
	shared := map[string]string{} // runs whose workspace another could go on with, and why
	vacated := make([]*vacancy, len(all))
	defer func() {
		for _, v := range vacated {
			v.end()
		}
	}()
	for i, u := range all {
		if options[i].others && u.shares {
			shared[u.lease.RunID] = "the driver " + u.lease.Driver + " of the worker that had the run's workspace lacks the capability " + string(u.missing)
			told, stop := q.hub.Wait(wake.Workspace(u.lease.RunID)) // before the look at what is at work there
			vacated[i] = &vacancy{told, stop}
		}
	}
	runs, err := q.release(ctx, worker, shared)
	if err != nil {
		return err
	}
	var moves []move
	for i, u := range all {
		o, run, id := options[i], u.lease.RunID, u.lease.StepID
		f := found{nobody: !o.others, bound: u.shares && runs.busy[run]}
		switch {
		case f.bound:
			f.vacated, vacated[i] = vacated[i], nil
		case o.others && u.shares && runs.bound[run]:
			f.nobody, f.why = true, "; that of another worker has it, but the run's workspace is on this one, and not all that is in it is saved"
		case o.others && u.region != "" && o.region != u.region:
			if f.moves = runs.freed[run] || !q.left.moved(worker, id); f.moves {
				moves = append(moves, move{id, run, u.region, o.region, "no worker in " + u.region + " has the driver " + u.lease.Driver + " with the capability " + string(u.missing), u.shares})
			}
		case o.far != "":
			f.why = "; that of a worker in " + o.far + " has it, where the step does not go"
		}
		q.left.note(worker, u.lease.TenantID, id, f)
		if !f.nobody {
			q.left.pass(worker, u.lease.TenantID)
		}
	}
	if len(moves) > 0 {
		if err := q.moveRegions(ctx, func(context.Context, *pgdb.Queries) ([]move, error) { return moves, nil }); err != nil {
			return err
		}
	}
	q.hub.More() // whoever can
	return nil
}
