package queue

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
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
		leases, err := q.claimOrWait(ctx, who, in, end.C)
		if err != nil {
			return wire.ClaimResponse{}, err
		}
		if leases == nil {
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
	woken, cancel := q.hub.WaitClaim(in.WorkerID, in.Drivers) // before the look, so that nothing is missed between
	defer cancel()
	leases, err := q.claim(ctx, who, in)
	if err != nil || len(leases) > 0 {
		if len(leases) == in.Max {
			q.hub.More()
		}
		return leases, err
	}
	select {
	case <-woken:
		return nil, nil
	case <-end:
		return []wire.Lease{}, nil
	case <-ctx.Done():
		return nil, step.Errorf(step.KindUnavailable, "the request was given up")
	}
}

func (q *Queue) claim(ctx context.Context, who auth.Principal, in wire.ClaimRequest) ([]wire.Lease, error) {
	ids := make([]string, in.Max)
	for i := range ids {
		ids[i] = NewID("att")
	}
	var leases []wire.Lease
	err := q.db.System(ctx, func(db *pgdb.Queries) error {
		leases = nil
		if err := db.LockClaim(ctx, in.WorkerID+"\n"+in.ClaimID); err != nil {
			return err
		}
		if err := known(ctx, db, who, in.WorkerID, in.Incarnation); err != nil {
			return err
		}
		used, err := db.ClaimUsed(ctx, in.WorkerID, in.ClaimID)
		if err != nil {
			return err
		}
		if !used {
			taken, err := db.Claim(ctx, pgdb.ClaimParams{AttemptIds: ids, WorkerID: in.WorkerID, ClaimID: in.ClaimID,
				LeaseSeconds: seconds(q.cfg.Lease), Drivers: in.Drivers, Reach: i32(in.Max * 2), Most: i32(in.Max)})
			if err != nil || len(taken) == 0 {
				return err
			}
			if err := db.PinQueued(ctx, in.WorkerID, in.ClaimID); err != nil {
				return err
			}
		}
		rows, err := db.LeasesOfClaim(ctx, in.WorkerID, in.ClaimID)
		if err != nil {
			return err
		}
		leases = make([]wire.Lease, 0, len(rows))
		for _, r := range rows {
			l, err := leaseOf(r)
			if err != nil {
				return err
			}
			leases = append(leases, l)
		}
		return nil
	})
	return leases, err
}

func leaseOf(r pgdb.LeasesOfClaimRow) (wire.Lease, error) {
	l := wire.Lease{
		Fence:    wire.Fence{AttemptID: r.ID, Generation: int(r.Generation), Attempt: int(r.Number), Epoch: r.Epoch},
		TenantID: r.TenantID, RunID: r.RunID, StepID: r.StepID, StepName: r.Name, Tool: r.Tool, Driver: r.Driver,
		OnOutput: step.OutputMode(r.OnOutput), Network: step.Network(r.Network), Image: r.Image, Workspace: step.WorkspaceMode(r.Workspace),
		TimeoutMS: r.TimeoutMs, GraceMS: r.GraceMs, Artifacts: r.Artifacts, LeaseMS: max(r.LeaseMs, 0), CorrelationID: r.CorrelationID,
	}
	if err := json.Unmarshal(r.Command, &l.Command); err != nil {
		return l, step.Errorf(step.KindInternal, "command of step %s: %w", r.StepID, err)
	}
	if err := json.Unmarshal(r.Resources, &l.Resources); err != nil {
		return l, step.Errorf(step.KindInternal, "resources of step %s: %w", r.StepID, err)
	}
	return l, nil
}
