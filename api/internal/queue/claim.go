package queue

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// MaxWait bounds how long a claim may be held.
const MaxWait = time.Minute

// Claim hands out leases, and waits for the first up to in.WaitMS.
func (q *Queue) Claim(ctx context.Context, who auth.Principal, in wire.ClaimRequest) (wire.ClaimResponse, error) {
	received := time.Now()
	switch {
	case !short(in.ClaimID):
		return wire.ClaimResponse{}, invalid("body.claim_id", "must have 1 to %d bytes", maxID)
	case in.Max < 1 || in.Max > wire.MaxClaimBatch:
		return wire.ClaimResponse{}, invalid("body.max", "must be 1 to %d", wire.MaxClaimBatch)
	case in.WaitMS < 0 || in.WaitMS > MaxWait.Milliseconds():
		return wire.ClaimResponse{}, invalid("body.wait_ms", "must be 0 to %d", MaxWait.Milliseconds())
	case len(in.Drivers) > maxDrivers:
		return wire.ClaimResponse{}, invalid("body.drivers", "at most %d", maxDrivers)
	}
	end := time.NewTimer(time.Duration(in.WaitMS) * time.Millisecond)
	defer end.Stop()
	for {
		err := q.gather(ctx, who, in)
		var leases []wire.Lease
		if err == nil {
			leases, err = q.claimOrWait(ctx, who, in, end.C)
		}
		if err != nil {
			q.hub.More() // what it would have taken
			return wire.ClaimResponse{}, err
		}
		if leases == nil {
			if time.Since(received) > time.Duration(in.WaitMS)*time.Millisecond+patience {
				return wire.ClaimResponse{Leases: []wire.Lease{}}, nil
			}
			continue
		}
		held := time.Since(received).Milliseconds()
		for i := range leases {
			leases[i].LeaseMS += held // the worker counts from when it asked
		}
		return wire.ClaimResponse{Leases: leases}, nil
	}
}

// claimOrWait tries once, then waits. Its leases are nil when it was woken,
// empty when the time is over.
func (q *Queue) claimOrWait(ctx context.Context, who auth.Principal, in wire.ClaimRequest, end <-chan time.Time) ([]wire.Lease, error) {
	woken, cancel := q.hub.WaitClaim(in.WorkerID, in.Drivers, q.homes.of(in.WorkerID, in.Drivers), in.Max) // before the look, so that nothing is missed between
	defer cancel()
	var again <-chan time.Time
	missed := q.hub.Missed()
	if left := q.empty.left(who, in, missed); left > 0 {
		timer := time.NewTimer(left)
		defer timer.Stop()
		again = timer.C
	} else {
		leases, err := q.claim(ctx, who, in)
		q.empty.note(who, in, missed, err == nil && leases != nil && len(leases) == 0)
		if len(leases) > 0 {
			q.found.Store(time.Now().UnixNano())
		}
		if err != nil || leases == nil || len(leases) > 0 {
			if len(leases) == in.Max {
				q.hub.More()
			}
			return leases, err
		}
	}
	select {
	case <-woken:
		q.empty.note(who, in, missed, false)
		return nil, nil
	case <-again:
		return nil, nil
	case <-end:
		return []wire.Lease{}, nil
	case <-ctx.Done():
		return nil, step.Errorf(step.KindUnavailable, "the request was given up")
	}
}

const (
	gatherTime = 3 * time.Millisecond
	busyTime   = 10 * time.Millisecond
)

// gather lets steps come together while there are many: when a claim has just
// found some, the next ones wait a moment before they look. A claim costs about
// the same for one step as for ten. On an idle system nothing waits.
func (q *Queue) gather(ctx context.Context, who auth.Principal, in wire.ClaimRequest) error {
	if time.Now().UnixNano()-q.found.Load() > busyTime.Nanoseconds() || q.empty.left(who, in, q.hub.Missed()) > 0 {
		return nil
	}
	q.empty.note(who, in, 0, false) // it takes wakes, so it has to look
	defer q.hub.Gather(in.WorkerID, in.Drivers, q.homes.of(in.WorkerID, in.Drivers), in.Max)()
	return pause(ctx, gatherTime)
}

// claim takes what there is. Its leases are nil when there may be more for
// whoever asks again: all that it took was refused, or had to be left.
func (q *Queue) claim(ctx context.Context, who auth.Principal, in wire.ClaimRequest) ([]wire.Lease, error) {
	ids := make([]string, in.Max)
	for i := range ids {
		ids[i] = NewID("att")
	}
	slices.Sort(ids) // a worker begins what it gets in the order of the queue
	var leases []wire.Lease
	var refused *change
	var others []unfit
	again := false
	passed := q.left.passed(in.WorkerID)
	err := q.inTurn(ctx, in.Max, func(db *pgdb.Queries) error {
		leases, refused, again = []wire.Lease{}, nil, false
		if err := db.LockClaim(ctx, in.WorkerID+"\n"+in.ClaimID); err != nil {
			return err
		}
		worker, err := claiming(ctx, db, who, in)
		if err != nil {
			return err
		}
		have, err := offered(worker.Drivers, worker.Region)
		if err != nil {
			return err
		}
		q.homes.note(in.WorkerID, have)
		if worker.Layers == nil || *worker.Layers != in.Layers {
			if err := db.NoteLayers(ctx, in.Layers, in.WorkerID); err != nil {
				return err
			}
		}
		if !worker.Used {
			drivers, regions := toldOf(in.Drivers, have)
			taken, err := db.Claim(ctx, pgdb.ClaimParams{AttemptIds: ids, WorkerID: in.WorkerID, ClaimID: in.ClaimID, LeaseSeconds: seconds(q.cfg.Lease),
				Region: worker.Region, Drivers: drivers, Regions: regions, Spent: slices.Concat(q.spent.list(), q.left.barred(in.WorkerID), passed), Reach: i32(in.Max * 2), Most: i32(in.Max), Layers: in.Layers, Unfit: q.left.list(in.WorkerID)})
			if err != nil {
				return err
			}
			if n := len(taken); n > 0 && taken[n-1].ID == "" {
				taken, again = taken[:n-1], true
			}
			if len(taken) == 0 {
				return nil
			}
			if err := q.lent(ctx, db, taken); err != nil {
				return err
			}
			if taken[0].Fresh {
				if err := db.PinQueued(ctx, in.WorkerID, in.ClaimID); err != nil {
					return err
				}
			}
		}
		rows, err := db.LeasesOfClaim(ctx, in.WorkerID, in.ClaimID)
		if err != nil {
			return err
		}
		good, bad, unfit, err := q.judgeLeases(in.WorkerID, rows, have, worker.Used)
		if err != nil {
			return err
		}
		if others = unfit; len(others) > 0 {
			return errUnfit
		}
		if len(bad) > 0 {
			refused, err = refuse(ctx, db, pgdb.RefuseAttemptsParams{WorkerID: in.WorkerID, Incarnation: in.Incarnation, KeyID: who.KeyID}, bad)
		}
		leases = good
		return err
	})
	if errors.Is(err, errUnfit) {
		return nil, q.leave(ctx, in.WorkerID, others)
	}
	if errors.Is(err, errRunsBusy) {
		return nil, pause(ctx, busyPause)
	}
	if len(passed) > 0 && err == nil {
		q.left.turn(in.WorkerID)
		again = true // of those that were passed over
	}
	if err != nil || refused == nil {
		if err == nil && again && len(leases) == 0 {
			return nil, pause(ctx, busyPause)
		}
		return leases, err
	}
	q.announce(ctx, refused)
	q.judge(ctx, refused.health)
	if len(leases) == 0 {
		return nil, nil
	}
	return leases, nil
}

// claiming is the worker that a claim is for. One that counts as lost must say
// first that it is back: its runs may be given to others at this moment.
func claiming(ctx context.Context, db *pgdb.Queries, who auth.Principal, in wire.ClaimRequest) (pgdb.ClaimingWorkerRow, error) {
	row, err := db.ClaimingWorker(ctx, pgdb.ClaimingWorkerParams{ID: in.WorkerID, ClaimID: in.ClaimID, Incarnation: in.Incarnation, KeyID: who.KeyID})
	switch {
	case none(err):
		return row, errUnknownWorker()
	case err == nil && row.Status == "lost":
		return row, step.Errorf(step.KindConflict, "this worker counts as lost: register again")
	}
	return row, err
}

// busyPause is how long a claim leaves alone a run that somebody is changing,
// and what another claim counts by.
const busyPause = 10 * time.Millisecond

const (
	// mostClaiming is how many claims look at a time. What two may take is what
	// each looks at; a third would find all of it locked.
	mostClaiming = 2
	// fewSteps is what a claim takes at most that looks beside another. One that
	// takes more looks alone: the other would find what is left by passing over
	// all that is locked, and the two would cost more than one after the other.
	fewSteps = 8
)

// inTurn is the transaction of a claim for up to most steps, when it has a place.
func (q *Queue) inTurn(ctx context.Context, most int, do func(*pgdb.Queries) error) error {
	places := int64(1)
	if most > fewSteps {
		places = mostClaiming
	}
	if q.claiming.Acquire(ctx, places) != nil {
		return step.Errorf(step.KindUnavailable, "the request was given up")
	}
	defer q.claiming.Release(places)
	return q.db.System(ctx, do)
}

// patience bounds how long a claim tries for what others have in hand, beyond
// its wait.
const patience = 5 * time.Second

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return step.Errorf(step.KindUnavailable, "the request was given up")
	}
}

// egress is whom a step with a network may call.
func egress(r pgdb.LeasesOfClaimRow) step.Egress {
	if r.Network == string(step.NetworkNone) {
		return step.Egress{}
	}
	return step.Egress{Allow: r.NetworkAllow, Private: r.NetworkPrivate}
}

// leaseOf gives the lease without its command, which may be sealed.
func leaseOf(r pgdb.LeasesOfClaimRow) (wire.Lease, error) {
	l := wire.Lease{
		Fence:    wire.Fence{AttemptID: r.ID, Generation: int(r.Generation), Attempt: int(r.Number), Epoch: r.Epoch},
		TenantID: r.TenantID, RunID: r.RunID, StepID: r.StepID, StepName: r.Name, Tool: r.Tool, Driver: r.Driver,
		OnOutput: step.OutputMode(r.OnOutput), Network: step.Network(r.Network), Egress: egress(r), Image: r.Image, Workspace: step.WorkspaceMode(r.Workspace),
		TimeoutMS: r.TimeoutMs, GraceMS: r.GraceMs, Artifacts: r.Artifacts, LeaseMS: max(r.LeaseMs, 0), CorrelationID: r.CorrelationID,
		Lane: r.Lane, BreakerGeneration: r.BreakerGeneration,
	}
	if r.Shares {
		l.WorkspaceNo, l.LastLayer, l.Restore, l.Snapshot = int(r.WorkspaceNo), int(r.LastLayer), r.Restore, r.Snapshot
	}
	if len(r.Layers) > 0 {
		if err := json.Unmarshal(r.Layers, &l.Layers); err != nil {
			return l, step.Errorf(step.KindInternal, "layers of run %s: %w", r.RunID, err)
		}
	}
	var caps plan.Caps
	if err := json.Unmarshal(r.Resources, &caps); err != nil {
		return l, step.Errorf(step.KindInternal, "resources of step %s: %w", r.StepID, err)
	}
	l.Resources, l.Defaults = caps.Resources, caps.Defaults
	return l, nil
}
