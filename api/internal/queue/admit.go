package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/internal/admission"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// errRunsBusy is that a claim would have to wait for a run, which it must not:
// it is undone and tried again.
var errRunsBusy = errors.New("a run is being changed")

// offer is what a worker has told of one of its drivers.
type offer struct {
	caps   driver.Capabilities
	region string
}

// offered are the drivers of a worker in a region that were healthy when it last told of
// them, by name: one that was not may not have said yet what it can do.
func offered(raw []byte, region string) (map[string]offer, error) {
	var list []wire.DriverInfo
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, step.Errorf(step.KindInternal, "drivers of a worker: %w", err)
	}
	out := make(map[string]offer, len(list))
	for _, d := range list {
		if !d.Healthy {
			continue
		}
		caps := make(driver.Capabilities, len(d.Capabilities))
		for i, c := range d.Capabilities {
			caps[i] = driver.Capability(c)
		}
		out[d.Name] = offer{caps, cmp.Or(d.Region, region)}
	}
	return out, nil
}

// toldOf are those of the names that the worker has told the capabilities of,
// with the region of each. To the others nothing is given yet: the worker's
// next word brings them.
func toldOf(names []string, have map[string]offer) (drivers, regions []string) {
	drivers, regions = make([]string, 0, len(names)), make([]string, 0, len(names))
	for _, name := range names {
		if o, told := have[name]; told {
			drivers, regions = append(drivers, name), append(regions, o.region)
		}
	}
	return drivers, regions
}

// refusal is a lease that its worker must not have.
type refusal struct {
	lease   wire.Lease
	verdict step.Verdict
	why     string // that no other try would fare better
}

// judgeLeases tells the leases that the worker can do from those that it cannot,
// and from those whose command cannot be opened. What a claim took before is
// judged already, but for that. others are those that it cannot do and another
// worker may.
func (q *Queue) judgeLeases(worker string, rows []pgdb.LeasesOfClaimRow, have map[string]offer, judged bool) (good []wire.Lease, bad []refusal, others []unfit, err error) {
	good = make([]wire.Lease, 0, len(rows))
	for _, r := range rows {
		l, err := leaseOf(r)
		if err != nil {
			return nil, nil, nil, err
		}
		if l.Command, err = q.commandOf(r); err != nil {
			bad = append(bad, unopened(l, err))
			continue
		}
		if missing := admission.Missing(l, r.Shares, have[l.Driver].caps); missing != "" && !judged {
			why, nobody := q.left.nobody(worker, l.StepID)
			if !nobody {
				order, _ := plan.Allowed(r.Regions, r.Residency)
				others = append(others, unfit{l, r.Shares, r.Placed, order, r.Residency, missing})
				continue
			}
			bad = append(bad, refusal{l, step.Verdict{Cause: step.CauseDriverError, ErrorKind: step.KindUnsupported, Attested: step.AttestedKernel,
				Message: "the driver " + l.Driver + " lacks the capability " + string(missing) + why}, "no other try would fare better"})
			continue
		}
		good = append(good, l)
	}
	return good, bad, others, nil
}

// unopened refuses a lease whose command is not there any more. It is the API that
// refuses: no driver has failed, and no breaker counts it.
func unopened(l wire.Lease, why error) refusal {
	text := "its sealed inputs cannot be opened: " + why.Error()
	return refusal{l, step.Verdict{Cause: step.CausePolicy, Attested: step.AttestedKernel, Message: text}, text}
}

// refuse ends leases that a claim has just taken, for good: no worker can do them.
func refuse(ctx context.Context, db *pgdb.Queries, p pgdb.RefuseAttemptsParams, bad []refusal) (*change, error) {
	fences := make([]wire.Fence, len(bad))
	why := make(map[string]refusal, len(bad))
	for i, r := range bad {
		fences[i], why[r.lease.AttemptID] = r.lease.Fence, r
	}
	f := split(fences)
	runs, err := db.LockRunsNow(ctx, f.ids)
	if err != nil {
		return nil, err
	}
	c := newChange(runs)
	if slices.ContainsFunc(bad, func(r refusal) bool { return c.runs[r.lease.RunID] == nil }) {
		return nil, errRunsBusy
	}
	rows, err := db.LockAttempts(ctx, pgdb.LockAttemptsParams{Ids: f.ids, Generations: f.generations, Numbers: f.numbers,
		Epochs: f.epochs, WorkerID: p.WorkerID, Incarnation: p.Incarnation, KeyID: p.KeyID})
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		v := why[row.ID]
		raw, err := json.Marshal(v.verdict)
		if err != nil {
			return nil, err
		}
		p.Ids, p.Generations = append(p.Ids, row.ID), append(p.Generations, row.Generation)
		p.Numbers, p.Epochs, p.Verdicts = append(p.Numbers, row.Number), append(p.Epochs, row.Epoch), append(p.Verdicts, string(raw))
		if err := c.refused(row, v); err != nil {
			return nil, err
		}
	}
	n, err := db.RefuseAttempts(ctx, p)
	if err != nil {
		return nil, err
	}
	if n != int64(len(bad)) {
		return nil, step.Errorf(step.KindConflict, "a lease that was just taken is gone")
	}
	return c, c.write(ctx, db)
}

// refused ends the step of an attempt that must not begin. No other try would
// fare better, unless its run is on its way out anyway.
func (c *change) refused(a attemptRow, r refusal) error {
	lost := r.verdict.Cause.Infrastructure()
	d := decision{status: step.StepFailed, lost: lost, dead: true, why: r.why}
	if c.runs[a.RunID].CancelAt != nil {
		d = decision{status: step.StepCancelled, lost: lost}
	}
	return c.conclude(a, wire.VerdictRecord{Verdict: r.verdict}, d)
}
